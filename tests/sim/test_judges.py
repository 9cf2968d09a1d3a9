"""The judges of the worlds notice what they are there for: each mutant of the engine is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.core import placement, queueing, residencies
from broker.core.engine import Engine
from broker.core.errors import InvariantBroken
from broker.core.residency import Residency, ResidencyState
from tests.sim.books import Wrong
from tests.sim.play import play

SEEDS_MAX = 300  # most mutants are caught by one of the first five

Patch = Callable[[pytest.MonkeyPatch], None]


def _replace(owner: Any, name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(owner, name, value)


def _is_resident(residency: Residency) -> bool:
    return residency.state is ResidencyState.RESIDENT


def _may_be_told(residency: Residency) -> bool:
    return _is_resident(residency) and residency.managed


MUTANTS: dict[str, Patch] = {
    "more run than slots": _replace(Residency, "has_free_slot", property(_is_resident)),
    "last come, first served": _replace(
        queueing._AgentQueue, "head", lambda agent: next(reversed(agent.entries))
    ),
    "loads beside loads": _replace(
        placement.BackendState, "is_switching", property(lambda backend: False)
    ),
    "loads without room": _replace(residencies, "has_room", lambda backend, runner: True),
    "leaves a queue that is not exhausted": _replace(
        residencies,
        "choose_victim",
        lambda backend, target, lines: next(
            (each for each in backend.residents.values() if _may_be_told(each)), None
        ),
    ),
    "tells strangers to leave": _replace(
        Residency, "managed", property(lambda residency: True, lambda residency, told: None)
    ),
    "loads again at once": _replace(
        placement.BackendState, "holds_off", lambda backend, runner, now_ns: False
    ),
    "deadlines are forgotten": _replace(Engine, "_set_deadline", lambda *ignored: None),
    "models are never left": _replace(
        residencies, "choose_victim", lambda backend, target, lines: None
    ),
}


def _play_many() -> None:
    for seed in range(SEEDS_MAX):
        play(seed)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_engine_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises((Wrong, InvariantBroken)):
        _play_many()
