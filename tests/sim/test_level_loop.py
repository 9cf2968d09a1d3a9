"""The loop of load and level closed: shedding never raises the load that caused it, and under a
constant load there is no swing but the probe that a dwell allows."""

from __future__ import annotations

from math import sin

import pytest

from broker.core.level import DegradationPolicy, Level
from broker.core.level_steps import JoinedSteps
from tests.sim.level_plant import Plant

HOUR_S = 3_600
DWELL_MAX_S = 240  # of the policy as it is by default
RHOS = [0.0, 0.3, 0.7, 0.9, 0.99, 1.01, 1.1, 1.3, 1.59, 1.61, 2.0, 3.0, 4.5, 6.0, 20.0]


def most_rises(seconds: int) -> int:
    """Each of three levels once in the longest dwell, and one turn that had begun."""
    return 3 * (seconds // DWELL_MAX_S + 1)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("memory", [0.0, 0.55, 0.65, 0.75, 0.85, 0.92, 0.96])
def test_a_constant_load_makes_the_level_move_no_more_than_a_probe(
    rho: float, memory: float
) -> None:
    plant = Plant(rho, memory=lambda second: memory).run(4 * HOUR_S)
    assert plant.rises(since_s=2 * HOUR_S) <= 2 * HOUR_S // DWELL_MAX_S
    assert plant.rises(since_s=3 * HOUR_S) <= HOUR_S // DWELL_MAX_S


@pytest.mark.parametrize("rho", [3.0, 4.5])
def test_it_is_the_damping_that_slows_a_swing(rho: float) -> None:
    """The same loads with a dwell that never grows."""
    undamped = JoinedSteps(DegradationPolicy(dwell_ns_max=DegradationPolicy().dwell_ns))
    swings = Plant(rho, steps=undamped).run(4 * HOUR_S).rises(since_s=HOUR_S)
    assert Plant(rho).run(4 * HOUR_S).rises(since_s=HOUR_S) * 3 < swings


@pytest.mark.parametrize("rho", RHOS)
def test_shedding_never_raises_the_load_that_caused_it(rho: float) -> None:
    """At no moment is the load higher than on a box that sheds nothing."""
    shedding = Plant(rho).run(2 * HOUR_S)
    bearing = Plant(rho, has_levels=False).run(2 * HOUR_S)
    assert all(
        with_levels <= without + 1e-9
        for with_levels, without in zip(shedding.loads, bearing.loads, strict=True)
    )
    assert shedding.loads[-1] < 1.0 or bearing.loads[-1] >= 1.0


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("share", [0.7, 0.85, 0.97])
def test_what_others_took_and_gave_back_leaves_no_level_behind(rho: float, share: float) -> None:
    """What critical held back meanwhile is load when it may run again, and is worked off: once."""
    plant = Plant(rho, memory=lambda second: share if 600 <= second < 2_400 else 0.0)
    plant.run(3 * HOUR_S)
    assert max(plant.levels) >= Level.LEVEL_1
    assert plant.levels[-1] is Level.NORMAL
    assert set(plant.levels[-HOUR_S:]) == {Level.NORMAL}
    assert plant.rises() <= 4


def test_work_that_memory_holds_back_does_not_keep_the_level_up() -> None:
    """Counted, it would: the queue fills while critical lasts."""
    plant = Plant(0.9, memory=lambda second: 0.97 if second < 1_200 else 0.0).run(1_200)
    assert max(plant.levels) is Level.CRITICAL
    assert plant.others > 900
    assert plant.loads[-1] == 0.97
    plant.run(HOUR_S)
    assert plant.levels[-1] is Level.NORMAL


def test_work_that_idle_slots_still_serve_counts_and_is_worked_off() -> None:
    """Where it did not count, critical would be left with all of it waiting, and come back."""
    plant = Plant(0.5).run(60)
    plant.others = 980.0
    plant.run(HOUR_S)
    assert max(plant.levels) is Level.CRITICAL
    assert plant.levels[-1] is Level.NORMAL
    assert plant.rises() == 1


@pytest.mark.parametrize("period_s", [10, 31, 47, 120, 241, 600])
@pytest.mark.parametrize("rho", [0.5, 1.5])
def test_memory_that_swings_moves_the_level_no_faster_than_its_longest_dwell(
    period_s: int, rho: float
) -> None:
    def memory(second: int) -> float:
        return 0.6 + 0.4 * sin(second * 6.283 / period_s)

    plant = Plant(rho, memory=memory).run(4 * HOUR_S)
    assert plant.rises(since_s=HOUR_S) <= most_rises(3 * HOUR_S)
