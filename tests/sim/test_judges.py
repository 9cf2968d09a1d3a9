"""The judges of the worlds notice what they are there for: each mutant of the engine is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.core import placement, switching
from broker.core.arrivals import Arrivals
from broker.core.backpressure import Backpressure
from broker.core.breakers import Breakers
from broker.core.bulkheads import Bulkheads
from broker.core.errors import InvariantBroken
from broker.core.ledger import Ledger
from broker.core.operations import Operations
from broker.core.quota import Quotas
from broker.core.record import Bound, Record
from broker.core.residency import Residency, ResidencyState
from broker.core.wait_bound import WaitBounds
from tests.sim.play import play

SEEDS_MAX = 300  # most mutants are caught by one of the first five

Patch = Callable[[pytest.MonkeyPatch], None]


def _replace(owner: Any, name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(owner, name, value)


def _is_resident(residency: Residency) -> bool:
    return residency.state is ResidencyState.RESIDENT


def _may_be_told(residency: Residency) -> bool:
    return _is_resident(residency) and residency.managed


def _do_nothing(*ignored: object) -> None:
    """In the place of something that matters."""


def _close_late(bulkheads: Bulkheads, bit: int) -> None:
    if bulkheads._running[bit] > bulkheads._limits[bit]:
        bulkheads.closed |= 1 << bit
    else:
        bulkheads.closed &= ~(1 << bit)


def _displace_anybody(pressure: Backpressure, *ignored: object, is_barred: bool) -> Record | None:
    worst = pressure._backlog.worst_of_largest()
    return None if worst is None else worst[0]


MUTANTS: dict[str, Patch] = {
    "more run than slots": _replace(Residency, "has_free_slot", property(_is_resident)),
    "last come, first served": _replace(Arrivals, "_rank", lambda self, *_: -self._arrived),
    "loads beside loads": _replace(
        placement.BackendState, "is_switching", property(lambda backend: False)
    ),
    "loads without room": _replace(switching, "has_room", lambda backend, runner: True),
    "leaves a queue that is not exhausted": _replace(
        switching,
        "choose_victim",
        lambda rule, view, target: next(
            (each for each in view.backend.residents.values() if _may_be_told(each)), None
        ),
    ),
    "tells strangers to leave": _replace(
        Residency, "managed", property(lambda residency: True, lambda residency, told: None)
    ),
    "loads again at once": _replace(
        placement.BackendState, "holds_off", lambda backend, runner, now_ns: False
    ),
    "deadlines are forgotten": _replace(Ledger, "set_deadline", _do_nothing),
    "models are never left": _replace(switching, "choose_victim", lambda rule, view, target: None),
    "bulkheads let one more run": _replace(Bulkheads, "_close_or_open", _close_late),
    "a pause is forgotten": _replace(Operations, "pause", _do_nothing),
    "a block is forgotten": _replace(Operations, "block", _do_nothing),
    "buckets give to everybody": _replace(Quotas, "take_request", _do_nothing),
    "anybody is displaced": _replace(Backpressure, "victim", _displace_anybody),
    "nobody is displaced": _replace(Backpressure, "victim", lambda *ignored, is_barred: None),
    "waits are told too short": _replace(WaitBounds, "state", lambda *ignored: Bound(1)),
    "a breaker never cools": _replace(Breakers, "_cool", _do_nothing),
    "nobody leaves the waiting room": _replace(Arrivals, "fill", lambda *ignored: False),
}


def _play_many() -> None:
    for seed in range(SEEDS_MAX):
        play(seed)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_engine_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises((AssertionError, InvariantBroken)):
        _play_many()
