"""What waits and can surely not be answered in time any more ends at once, and costs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import Effect, Load, StartAttempt
from broker.core.errors import ClosedForCure, DeadlineExpired, DeadlineInfeasible
from broker.core.lifecycle import State
from broker.core.load_times import BELIEVED_NS, LOADS_KEPT, LOADS_MIN, LoadTimes
from broker.core.placement import BackendPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import OnInterruption, Outcome
from broker.core.residency import ResidencyState
from broker.core.stimuli import Arrived, FirstToken, PauseAsked, ResumeAsked, Scope
from broker.core.story import explain
from broker.core.time_outs import TimeOuts
from tests.unit.core.gate_words import ended_with, is_let_in, refused
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    of,
    request,
    serving,
    started,
    switches,
)

SERVICE_NS = 10 * SECOND_NS
LOAD_NS = 20 * SECOND_NS


def busy_for(service_ns: int = SERVICE_NS, *, queue: QueuePolicy | None = None) -> Scene:
    """Requests of m take as long as this, as was measured, and one of them holds the only slot."""
    scene = serving_for(service_ns, queue=queue)
    asks(scene, "running", 30 * MINUTE_NS)
    return scene


def serving_for(service_ns: int, *, queue: QueuePolicy | None = None) -> Scene:
    """One slot of m is free, whose requests take as long as this."""
    scene = Scene(queue=queue)
    scene.open("b1", model("m"), model("n"))
    asks(scene, "first", 30 * MINUTE_NS)
    scene.loaded("m")
    scene.wait(service_ns)
    scene.ends("first")
    scene.measured(service_ns)
    return scene


def two_models(*, loads: int = LOADS_MIN) -> Scene:
    """There is room for one of two models: m is there, n was loaded so often. Requests of either
    take ten seconds, as was measured."""
    scene = serving_for(SERVICE_NS)
    for number in range(loads):
        switch(scene, "m", "n", f"n{number}")
        if number == 0:
            scene.measured(SERVICE_NS, model="n")
        switch(scene, "n", "m", f"m{number}")
    return scene


def switch(scene: Scene, old: str, new: str, request_id: str) -> None:
    """A request for the other model has it loaded, and is answered."""
    asks(scene, request_id, 30 * MINUTE_NS, of_model=new)
    scene.unloaded(old)
    scene.wait(LOAD_NS)
    scene.loaded(new)
    scene.wait(SERVICE_NS)
    scene.ends(request_id)


def asks(
    scene: Scene, request_id: str, left_ns: int, *, of_model: str = "m", agent: str = "a"
) -> list[Effect]:
    """A request with so much time left."""
    at_ns = scene.now_ns + left_ns
    return scene.turn(arrived(request_id, agent=agent, model=of_model, deadline_ns=at_ns))


def test_what_waits_ends_when_it_could_not_be_answered_in_time_any_more() -> None:
    """Half of what was measured is surely needed, and no more than that is left after one second
    of six."""
    scene = busy_for()
    asks(scene, "r", 6 * SECOND_NS)
    assert not finished(scene.wait(SECOND_NS))
    outcome, error = ended_with(scene.wait(1), "r")
    assert outcome is Outcome.EXPIRED
    assert type(error) is DeadlineExpired
    assert error.message == (
        "it waited 1.0 s for a free slot of m:latest on b1, and can be answered in time no longer: "
        "5.0 s are left, and by what was measured an answer takes 10.0 s"
    )


def test_the_margin_is_the_operators() -> None:
    scene = busy_for(queue=QueuePolicy(deadline_margin=1))
    asks(scene, "r", 16 * SECOND_NS)
    assert not finished(scene.wait(6 * SECOND_NS))
    assert finished(scene.wait(1)) == [("r", Outcome.EXPIRED)]


def test_a_margin_that_is_changed_holds_for_what_waits() -> None:
    scene = busy_for()
    asks(scene, "r", 16 * SECOND_NS)
    scene.reload(queue=QueuePolicy(deadline_margin=1))
    assert not finished(scene.wait(6 * SECOND_NS))
    assert finished(scene.wait(1)) == [("r", Outcome.EXPIRED)]


def test_what_runs_has_its_time_to_the_end() -> None:
    scene = busy_for()
    scene.ends("running")
    asks(scene, "r", 6 * SECOND_NS)
    assert not finished(scene.wait(6 * SECOND_NS - 1))
    assert finished(scene.wait(1)) == [("r", Outcome.EXPIRED)]


def test_while_nothing_was_measured_it_waits_until_its_deadline() -> None:
    scene = serving(model("m"))
    asks(scene, "running", 30 * MINUTE_NS)
    asks(scene, "r", MINUTE_NS)
    assert not finished(scene.wait(MINUTE_NS - 1))
    outcome, error = ended_with(scene.wait(1), "r")
    assert outcome is Outcome.EXPIRED
    assert error is not None
    assert error.message.startswith("the deadline passed after 60.0 s of waiting")


def test_what_was_measured_meanwhile_counts_when_it_gets_a_slot() -> None:
    """Nothing was known when it came."""
    scene = serving(model("m"))
    scope = Scope(agent_id="c")
    scene.turn(arrived("known", agent="c"))
    scene.ends("known", agent="c")
    scene.turn(PauseAsked(scope=scope, until_ns=None))
    asks(scene, "r", 14 * MINUTE_NS, agent="c")
    scene.measured(40 * SECOND_NS)
    scene.wait(14 * MINUTE_NS - 20 * 40 * SECOND_NS - 10 * SECOND_NS)
    effects = scene.turn(ResumeAsked(scope))
    outcome, error = ended_with(effects, "r")
    assert outcome is Outcome.EXPIRED
    assert error is not None
    assert "can be answered in time no longer" in error.message
    assert not started(effects)


def test_a_slot_that_comes_too_late_is_given_to_the_next() -> None:
    """It had begun in time and lost its slot; what is left now is too little for another try."""
    scene = busy_for()
    scene.ends("running")
    asks(scene, "r", 8 * SECOND_NS)
    asks(scene, "next", 10 * MINUTE_NS)
    scene.wait(6 * SECOND_NS)
    effects = scene.ends("r", ClosedForCure("its model was cured"))
    assert finished(effects) == [("r", Outcome.EXPIRED)]
    assert started(effects) == ["next"]


def test_what_goes_on_from_what_came_is_not_judged() -> None:
    """How much of an answer is missing nobody knows."""
    scene = busy_for()
    scene.ends("running")
    spec = request("r", deadline_ns=scene.now_ns + 8 * SECOND_NS)
    scene.turn(Arrived(replace(spec, on_interruption=OnInterruption.CONTINUE)))
    record = scene.engine.records["a", "r"]
    scene.turn(FirstToken(scene.attempt("r")))
    record.pieces_kept = 5
    scene.wait(6 * SECOND_NS)
    assert not scene.engine.ledger.gives_up(record, scene.now_ns)


def test_what_stands_before_the_full_queue_ends_as_well() -> None:
    scene = busy_for(queue=QueuePolicy(queued_max=1, room_wait_ns=MINUTE_NS))
    asks(scene, "waits", 10 * MINUTE_NS)
    at_ns = scene.now_ns + 6 * SECOND_NS
    scene.turn(arrived("r", priority=1, deadline_ns=at_ns))
    assert scene.engine.records["a", "r"].state is State.ADMITTED
    assert not finished(scene.wait(SECOND_NS))
    assert finished(scene.wait(1)) == [("r", Outcome.EXPIRED)]


# Loads


def test_a_load_that_is_surely_needed_counts_on_the_way_in() -> None:
    scene = two_models()
    error = refused(asks(scene, "r", 14 * SECOND_NS, of_model="n"))
    assert type(error) is DeadlineExpired
    assert error.message == (
        "14.0 s are left, and by what was measured an answer takes 30.0 s, 20.0 s of them until "
        "its model is loaded"
    )
    told = explain(scene.engine, ("a", "r"), scene.now_ns).gates[-1].detail
    assert "an answer takes about 30.0 s, 20.0 s of them until its model is loaded, 14.0 s" in told
    assert is_let_in(asks(scene, "patient", 16 * SECOND_NS, of_model="n"))
    assert is_let_in(asks(scene, "loaded", 14 * SECOND_NS))


def test_two_loads_may_have_been_chance() -> None:
    scene = two_models(loads=LOADS_MIN - 1)
    assert is_let_in(asks(scene, "r", 14 * SECOND_NS, of_model="n"))


def test_loads_of_long_ago_are_believed_no_more() -> None:
    """Else nobody would ever measure again."""
    scene = two_models()
    scene.wait(BELIEVED_NS)
    assert is_let_in(asks(scene, "r", 14 * SECOND_NS, of_model="n"))


def test_of_a_load_under_way_the_rest_counts_and_is_when_to_come_again() -> None:
    scene = two_models()
    asks(scene, "first", 10 * MINUTE_NS, of_model="n", agent="b")
    scene.unloaded("m")
    error = refused(asks(scene, "early", 14 * SECOND_NS, of_model="n"))
    assert type(error) is DeadlineInfeasible
    assert error.retry_after_ns == pytest.approx(SECOND_NS)
    scene.wait(SECOND_NS)
    assert is_let_in(asks(scene, "again", 14 * SECOND_NS, of_model="n"))


def test_a_model_that_others_wait_for_may_soon_be_there() -> None:
    scene = two_models()
    asks(scene, "running", 30 * MINUTE_NS)
    asks(scene, "first", 30 * MINUTE_NS, of_model="n", agent="b")
    error = refused(asks(scene, "r", 14 * SECOND_NS, of_model="n"))
    assert type(error) is DeadlineInfeasible


def test_a_server_that_is_away_may_come_back_with_the_model_loaded() -> None:
    scene = two_models()
    scene.down("b1")
    away = scene.engine.backends["b1"]
    assert not away.up
    needs = scene.engine._lateness.needs("blob-n", request("r"), scene.now_ns)
    assert needs is not None
    assert needs.load_ns == 0


def test_of_several_servers_the_quickest_counts() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m"))
    scene.open("b2", model("m"))
    estimates = scene.engine.estimates
    for _ in range(LOADS_MIN):
        estimates.loaded("blob-m", 40 * SECOND_NS, "b1", scene.now_ns)
        estimates.loaded("blob-m", 20 * SECOND_NS, "b2", scene.now_ns)
    for _ in range(20):
        estimates.served("blob-m", "b1", request("s"), SECOND_NS, 0, 0, 0, 0)
    needs = scene.engine._lateness.needs("blob-m", request("r"), scene.now_ns)
    assert needs is not None
    assert needs.load_ns == 20 * SECOND_NS


def test_nothing_is_loaded_for_what_would_be_late_all_the_same() -> None:
    """It waits for what runs to end; when that is over, so is the time for its load."""
    scene = two_models()
    asks(scene, "running", 30 * MINUTE_NS)
    asks(scene, "r", 20 * SECOND_NS, of_model="n")
    effects = scene.wait(5 * SECOND_NS)
    assert not finished(effects)
    outcome, error = ended_with(scene.wait(1), "r")
    assert outcome is Outcome.EXPIRED
    assert error is not None
    assert error.message.endswith(
        "15.0 s are left, and by what was measured an answer takes 30.0 s, 20.0 s of them until "
        "its model is loaded"
    )
    assert not switches(scene.ends("running"))


def test_what_drains_for_it_serves_on() -> None:
    """The load had been decided on; its time is over before the other model has left."""
    scene = two_models()
    asks(scene, "running", 30 * MINUTE_NS)
    asks(scene, "r", 45 * SECOND_NS, of_model="n")
    assert scene.state("m") is ResidencyState.DRAINING
    assert finished(scene.wait(30 * SECOND_NS + 1)) == [("r", Outcome.EXPIRED)]
    assert scene.state("m") is ResidencyState.RESIDENT
    assert not switches(scene.ends("running"))


def test_a_fallback_that_is_there_answers_where_the_load_would_take_too_long() -> None:
    scene = two_models()
    at_ns = scene.now_ns + 14 * SECOND_NS
    effects = scene.turn(arrived("r", model="n", deadline_ns=at_ns, fallback_models=("m",)))
    assert started(effects) == ["r"]
    assert not of(effects, Load)


def test_a_fallback_answers_once_the_time_for_its_own_model_is_over() -> None:
    """Its model was not loaded, as the other one works."""
    scene = two_models()
    asks(scene, "running", 30 * MINUTE_NS)
    at_ns = scene.now_ns + 20 * SECOND_NS
    scene.turn(arrived("r", agent="b", model="n", deadline_ns=at_ns, fallback_models=("m",)))
    assert scene.engine.records["b", "r"].model == "n:latest"
    assert not finished(scene.wait(5 * SECOND_NS + 1))
    record = scene.engine.records["b", "r"]
    assert (record.model, record.is_in_haste) == ("m:latest", True)
    [start] = of(scene.ends("running"), StartAttempt)
    assert start.changes == (
        "model is m:latest instead of n: by what was measured n:latest answers after the deadline",
    )


def test_where_its_fallback_comes_too_late_as_well_that_is_the_end() -> None:
    scene = two_models()
    asks(scene, "running", 30 * MINUTE_NS)
    at_ns = scene.now_ns + 20 * SECOND_NS
    scene.turn(arrived("r", agent="b", model="n", deadline_ns=at_ns, fallback_models=("m",)))
    effects = scene.wait(15 * SECOND_NS)
    assert not finished(effects)
    _, error = ended_with(scene.wait(1), "r")
    assert error is not None
    assert error.message == (
        "it waited 15.0 s for a free slot of m:latest on b1, and can be answered in time no "
        "longer: 5.0 s are left, and by what was measured an answer takes 10.0 s"
    )


def test_who_would_wait_for_less_than_a_load_takes_has_its_fallback_too() -> None:
    scene = two_models()
    spec = request("r", model="n", deadline_ns=scene.now_ns + MINUTE_NS, fallback_models=("m",))
    effects = scene.turn(Arrived(replace(spec, time_outs=TimeOuts(queue_ns=9 * SECOND_NS))))
    assert started(effects) == ["r"]


def test_of_the_last_loads_the_shortest_counts() -> None:
    times = LoadTimes()
    for load_ns in (5, 30, 20):
        times.add("r", "b", load_ns, 0)
    assert times.least_ns("r", "b", 0) == 5
    for _ in range(LOADS_KEPT):
        times.add("r", "b", 40, 0)
    assert times.least_ns("r", "b", 0) == 40
    times.keep({"another"})
    assert times.least_ns("r", "b", 0) == 0
