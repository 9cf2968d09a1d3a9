"""Why a backend starts nothing of a runner: of several reasons the one that ends them all."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from broker.core.barriers import Bar, Barrier, barrier
from broker.core.healing import Health
from broker.core.placement import BackendPolicy, BackendState
from broker.core.residency import Residency, ResidencyState
from tests.unit.core.scene import SECOND_NS, model

NOW_NS = 100 * SECOND_NS
RUNNER = "blob-m"


def backend(*changes: Callable[[BackendState], None]) -> BackendState:
    """One that is up and has m on disk."""
    state = BackendState(BackendPolicy(name="b1"), up=True)
    state.list_models([model("m")])
    for change in changes:
        change(state)
    return state


def away(state: BackendState) -> None:
    state.up = False


def drained(state: BackendState) -> None:
    state.is_draining = True


def restarting(state: BackendState) -> None:
    state.health = Health.RESTARTING


def cured(state: BackendState) -> None:
    state.healing.add(RUNNER)


def broken(state: BackendState) -> None:
    state.broken.add(RUNNER)
    state.broken_until_ns[RUNNER] = NOW_NS + 7 * SECOND_NS


def probed(state: BackendState) -> None:
    state.broken.add(RUNNER)
    state.broken_until_ns[RUNNER] = NOW_NS - SECOND_NS


def sick(state: BackendState) -> None:
    state.held_until_ns[RUNNER] = NOW_NS + 5 * SECOND_NS


def wedged(state: BackendState) -> None:
    state.health, state.shut_until_ns = Health.WEDGED, NOW_NS + 9 * SECOND_NS


def trying(state: BackendState) -> None:
    """Wedged, and one load was let through: that of another model."""
    state.health = Health.WEDGED
    holds(state, "blob-other", ResidencyState.LOADING)


def resident(state: BackendState) -> None:
    holds(state, RUNNER, ResidencyState.RESIDENT)


def holds(state: BackendState, runner: str, as_what: ResidencyState) -> None:
    state.residents[runner] = Residency(
        runner=runner,
        model="m:latest",
        state=as_what,
        managed=True,
        slots=1,
        num_ctx_sent=None,
        num_ctx=0,
    )


@pytest.mark.parametrize(
    ("changes", "kind", "wait_s"),
    [
        ((away, drained, restarting, cured, broken, sick, wedged), Bar.AWAY, inf),
        ((drained, restarting, cured, broken, sick), Bar.CLOSED, inf),
        ((restarting, cured, broken, sick), Bar.RESTARTING, 0),
        ((cured, broken, sick, wedged), Bar.CURED, 0),
        ((broken, sick, wedged), Bar.BROKEN, 7),
        ((probed, sick), Bar.BROKEN, 0),
        ((broken, resident), Bar.BROKEN, 7),
        ((sick,), Bar.SICK, 5),
        ((sick, wedged), Bar.WEDGED, 9),
        ((wedged,), Bar.WEDGED, 9),
        ((trying,), Bar.WEDGED, 0),
    ],
)
def test_a_barrier_and_when_it_ends(
    changes: tuple[Callable[[BackendState], None], ...], kind: Bar, wait_s: float
) -> None:
    assert barrier(backend(*changes), RUNNER, NOW_NS) == Barrier(kind, wait_s * SECOND_NS)


@pytest.mark.parametrize("changes", [(), (resident,), (resident, sick), (resident, wedged)])
def test_what_is_there_serves_and_what_is_not_may_be_loaded(
    changes: tuple[Callable[[BackendState], None], ...],
) -> None:
    assert barrier(backend(*changes), RUNNER, NOW_NS) is None


def test_a_load_that_has_just_been_held_long_enough_may_be_tried() -> None:
    state = backend(sick)
    assert barrier(state, RUNNER, NOW_NS + 5 * SECOND_NS) is None


@pytest.mark.parametrize("change", [away, drained, restarting])
def test_what_bars_a_whole_server_bars_switches_as_well(
    change: Callable[[BackendState], None],
) -> None:
    assert backend().is_open
    assert not backend(change).is_open
