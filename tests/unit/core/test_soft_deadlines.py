"""Soft deadlines: they order, they weigh, and nobody is refused or ended for one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import Effect, Finish
from broker.core.errors import BackendRefused
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.record import Record
from broker.core.stimuli import Arrived
from broker.core.story import explain
from broker.core.worth import (
    SOFT_WEIGHT,
    SOFT_WEIGHT_MISSED,
    URGENT_LATE_NS,
    URGENT_WEIGHT,
    Waiting,
    _lost,
    _weight,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    busy,
    cancel,
    finished,
    model,
    of,
    request,
    serving,
    switches,
)

BY_DEADLINE = QueuePolicy(agent_order=AgentOrder.DEADLINE)


def asks(
    scene: Scene,
    request_id: str,
    *,
    soft_s: float = 0.0,
    deadline_s: float = 3600.0,
    of_model: str = "m",
    agent: str = "a",
) -> list[Effect]:
    """A request that would like its answer within so long; 0: it does not say."""
    at_ns = scene.now_ns + int(deadline_s * SECOND_NS)
    spec = request(request_id, model=of_model, agent=agent, deadline_ns=at_ns)
    soft_ns = scene.now_ns + int(soft_s * SECOND_NS) if soft_s else 0
    return scene.turn(Arrived(replace(spec, soft_deadline_ns=soft_ns)))


def record_of(effects: list[Effect]) -> Record:
    """The one that ended."""
    [end] = of(effects, Finish)
    assert end.record is not None
    return end.record


# Order


def test_by_deadline_the_soft_one_counts_where_there_is_one() -> None:
    scene = serving(model("m"), queue=BY_DEADLINE)
    asks(scene, "running")
    asks(scene, "last", deadline_s=900)
    asks(scene, "second", deadline_s=600)
    asks(scene, "first", deadline_s=1200, soft_s=60)
    asks(scene, "third", deadline_s=700, soft_s=3000)
    assert scene.order() == "running first second third last"


def test_by_arrival_it_orders_nothing() -> None:
    scene = busy()
    asks(scene, "first")
    asks(scene, "second", soft_s=1)
    assert scene.order() == "running first second"


def test_who_takes_over_brings_a_deadline_and_not_another_soft_one() -> None:
    """It is counted from when the request first came."""
    scene = serving(model("m"), queue=BY_DEADLINE)
    asks(scene, "running")
    asks(scene, "first", soft_s=60)
    asks(scene, "second", soft_s=70)
    scene.wait(20 * SECOND_NS)
    asks(scene, "first", soft_s=60)
    assert scene.order() == "running first second"


# What becomes of it


@pytest.mark.parametrize(("waits_s", "is_met"), [(10, True), (10.001, False)])
def test_it_is_met_by_the_whole_answer(waits_s: float, is_met: bool) -> None:
    scene = serving(model("m"))
    asks(scene, "r", soft_s=10)
    scene.wait(int(waits_s * SECOND_NS))
    record = record_of(scene.ends("r"))
    assert record.soft_met is is_met
    assert scene.engine.tally.soft_deadlines == {is_met: 1, not is_met: 0}
    told = explain(scene.engine, ("a", "r"), scene.now_ns)
    assert (told.soft_ns, told.soft_met) == (10 * SECOND_NS, is_met)


def test_nothing_ends_and_nothing_is_refused_for_it() -> None:
    scene = busy()
    scene.ends("running")
    scene.measured(20 * SECOND_NS)
    asks(scene, "other")
    asks(scene, "r", soft_s=0.001)
    assert not finished(scene.wait(MINUTE_NS))
    told = explain(scene.engine, ("a", "r"), scene.now_ns)
    assert (told.state, told.soft_met) == ("queued", False)


def test_while_it_may_be_met_that_is_open() -> None:
    scene = busy()
    asks(scene, "r", soft_s=10)
    told = explain(scene.engine, ("a", "r"), scene.now_ns)
    assert (told.soft_ns, told.soft_met) == (10 * SECOND_NS, None)


def test_what_failed_in_time_has_missed_it() -> None:
    scene = serving(model("m"))
    asks(scene, "r", soft_s=10)
    record = record_of(scene.ends("r", BackendRefused("no", status=400)))
    assert record.soft_met is False
    assert scene.engine.tally.soft_deadlines == {True: 0, False: 1}


def test_what_was_taken_back_in_time_says_nothing() -> None:
    scene = busy()
    asks(scene, "r", soft_s=10)
    assert record_of(scene.turn(cancel("r"))).soft_met is None
    assert scene.engine.tally.soft_deadlines == {True: 0, False: 0}


def test_taken_back_too_late_it_was_missed() -> None:
    scene = busy()
    asks(scene, "r", soft_s=10)
    scene.wait(11 * SECOND_NS)
    assert record_of(scene.turn(cancel("r"))).soft_met is False


def test_who_has_none_is_not_judged() -> None:
    scene = busy()
    assert record_of(scene.ends("running")).soft_met is None
    assert scene.engine.tally.soft_deadlines == {True: 0, False: 0}


# Which model is loaded


def waits(*, soft_s: float | None = None, is_urgent: bool = False) -> Waiting:
    """One that may start for an hour, of which so long by its soft deadline."""
    plain = Waiting(3600 * SECOND_NS, SECOND_NS, is_urgent)
    return plain if soft_s is None else plain._replace(soft_latest_ns=soft_s * SECOND_NS)


def test_it_counts_for_more_as_it_nears_and_for_less_when_it_has_passed() -> None:
    near_s = URGENT_LATE_NS / SECOND_NS
    assert _weight(waits(), 0) == 1
    assert _weight(waits(soft_s=near_s), 0) == 1
    assert _weight(waits(soft_s=near_s - 1), 0) == SOFT_WEIGHT
    assert _weight(waits(soft_s=0), 0) == SOFT_WEIGHT
    assert _weight(waits(soft_s=0), 1) == SOFT_WEIGHT_MISSED
    assert _weight(waits(soft_s=0, is_urgent=True), 0) == SOFT_WEIGHT * URGENT_WEIGHT


def test_a_turn_that_would_make_it_late_costs_what_that_costs() -> None:
    second = SECOND_NS
    assert _lost(waits(soft_s=200), 0, 100 * second) == 0
    assert _lost(waits(), 0, 3601 * second) == 1
    assert _lost(waits(soft_s=50), 0, 100 * second) == 1 - SOFT_WEIGHT_MISSED
    assert _lost(waits(soft_s=10), 0, 100 * second) == SOFT_WEIGHT - SOFT_WEIGHT_MISSED
    assert _lost(waits(soft_s=10), 11 * second, 100 * second) == 0  # it is late already


def two_waiting(*, soft_s: float) -> Scene:
    """One place; m is there and works, and one request each waits for a and for b,
    which would like its answer within so long."""
    scene = serving(model("m"), model("a"), model("b"))
    for name in ("a", "b"):
        asks(scene, f"first {name}", of_model=name)
        scene.unloaded("m" if name == "a" else "a")
        scene.wait(10 * SECOND_NS)
        scene.loaded(name)
        scene.ends(f"first {name}")
    asks(scene, "back", of_model="m")
    scene.unloaded("b")
    scene.loaded("m")
    asks(scene, "for a", of_model="a")
    scene.wait(SECOND_NS)
    asks(scene, "for b", of_model="b", soft_s=soft_s)
    return scene


def test_what_can_still_be_had_in_time_is_loaded_before_what_does_not_say() -> None:
    for soft_s, first in ((0.0, "a"), (25.0, "b"), (5.0, "a")):
        scene = two_waiting(soft_s=soft_s)
        scene.ends("back")
        assert switches(scene.unloaded("m")) == [f"load {first} on b1"], soft_s


def test_what_has_missed_it_is_loaded_all_the_same() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(cancel("nobody"))
    asks(scene, "r", soft_s=1, of_model="n")
    assert switches(scene.unloaded("m")) == ["load n on b1"]
    scene.wait(MINUTE_NS)
    scene.loaded("n")
    assert record_of(scene.ends("r")).soft_met is False
