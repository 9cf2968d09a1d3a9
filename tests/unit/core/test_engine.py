"""Whole lives of requests: every way to begin, to go on and to end."""

from __future__ import annotations

import pytest

from broker.core import invariants
from broker.core.effects import (
    Admit,
    Effect,
    Finish,
    Refuse,
    SetTimer,
    StartAttempt,
    TakeOver,
    TellAttemptFailed,
    TellQueued,
)
from broker.core.errors import (
    BackendRefused,
    BackendUnreachable,
    Cancelled,
    InvariantBroken,
    RequestIdInUse,
)
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import AttemptId, Outcome
from broker.core.state_machine import InvalidTransition
from broker.core.stimuli import (
    AttemptEnded,
    FirstToken,
    TimerFired,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    busy,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    serving,
    started,
    switches,
    told,
)

GRACE_NS = 300_000_000
UNREACHABLE = BackendUnreachable("connection refused")


# The straight way


def test_a_request_is_admitted_told_started_and_completed() -> None:
    scene = serving(model("m"))
    effects = scene.turn(arrived("r1"))
    assert [type(each) for each in effects] == [Admit, TellQueued, StartAttempt]
    assert scene.turn(FirstToken(scene.attempt("r1"))) == []
    effects = scene.ends("r1")
    assert effects == [Finish(("a", "r1"), Outcome.COMPLETED, None)]
    assert nothing_remains(scene)


def test_an_answer_without_any_text_is_complete_too() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]


@pytest.mark.parametrize("has_token", [False, True])
def test_a_failed_call_fails_the_request_with_its_error(has_token: bool) -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    if has_token:
        scene.turn(FirstToken(scene.attempt("r1")))
    error = BackendRefused("no such option", status=400)
    told, end = scene.ends("r1", error)
    assert isinstance(told, TellAttemptFailed)
    assert end == Finish(("a", "r1"), Outcome.FAILED, error)
    assert nothing_remains(scene)


def test_every_slot_is_used_and_none_twice() -> None:
    scene = serving(model("m", slots=2))
    effects = [each for number in range(4) for each in scene.turn(arrived(f"r{number}"))]
    assert started(effects) == ["r0", "r1"]
    assert started(scene.ends("r1")) == ["r2"]
    assert started(scene.ends("r0")) == ["r3"]


def test_attempts_are_numbered_and_never_the_same() -> None:
    scene = serving(model("m"))
    first = of(scene.turn(arrived("r1")), StartAttempt)
    scene.ends("r1")
    second = of(scene.turn(arrived("r1")), StartAttempt)
    assert first[0].attempt != second[0].attempt


def test_the_start_says_how_long_it_waited_and_how_much_of_that_was_the_load() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("early"))
    scene.wait(3 * SECOND_NS)
    scene.turn(arrived("late", agent="b"))
    scene.wait(4 * SECOND_NS)
    [order] = of(scene.loaded("m"), StartAttempt)
    assert (order.queue_wait_ns, order.load_wait_ns) == (7 * SECOND_NS, 7 * SECOND_NS)
    scene.wait(2 * SECOND_NS)
    [order] = of(scene.ends("early"), StartAttempt)
    assert (order.queue_wait_ns, order.load_wait_ns) == (6 * SECOND_NS, 4 * SECOND_NS)
    scene.ends("late", agent="b")
    [order] = of(scene.turn(arrived("warm")), StartAttempt)
    assert (order.queue_wait_ns, order.load_wait_ns) == (0, 0)


def test_a_substitute_is_named_at_the_start() -> None:
    scene = serving(model("m"))
    [order] = of(scene.turn(arrived("r1", model="big", fallback_models=("m",))), StartAttempt)
    assert (order.model, order.substituted_for) == ("m:latest", "big")


# Refusals


def test_a_refusal_leaves_nothing_behind() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=1, live_max=10))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2"))
    timers = len(scene.engine.timers)
    effects = scene.turn(arrived("r3"))
    assert [type(each) for each in effects] == [Refuse]
    assert of(effects, Refuse)[0].error.reason == "QUEUE_FULL"
    assert ("a", "r3") not in scene.engine.records
    assert len(scene.engine.timers) == timers
    assert scene.engine.tally.outcomes[Outcome.REFUSED] == 1


# The same request again


@pytest.mark.parametrize("stage", ["queued", "dispatched", "streaming"])
def test_the_same_content_takes_the_running_request_over(stage: str) -> None:
    scene = serving(model("m"))
    if stage == "queued":
        scene.turn(arrived("other"))
    scene.turn(arrived("r1"))
    if stage == "streaming":
        scene.turn(FirstToken(scene.attempt("r1")))
    effects = scene.turn(arrived("r1", deadline_ns=20 * MINUTE_NS))
    kinds = [type(each) for each in effects]
    assert kinds == ([TakeOver, TellQueued] if stage == "queued" else [TakeOver])
    assert len(of(effects, TakeOver)) == 1


def test_whoever_takes_over_is_told_the_place_that_was_told_last() -> None:
    scene = serving(model("m"))
    for name in ("running", "r1", "r2", "r3"):
        scene.turn(arrived(name))
    assert told(scene.turn(arrived("r1"))) == [("r1", 1, "SLOT")]


def test_the_deadline_of_the_newer_call_counts() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))
    scene.turn(arrived("r1", deadline_ns=3 * MINUTE_NS))
    assert finished(scene.wait(2 * MINUTE_NS)) == []
    assert finished(scene.wait(MINUTE_NS)) == [("r1", Outcome.EXPIRED)]


def test_other_content_under_a_live_id_is_refused_and_the_first_runs_on() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    [refusal] = of(scene.turn(arrived("r1", content=b"other")), Refuse)
    assert isinstance(refusal.error, RequestIdInUse)
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]


def test_an_id_is_free_again_when_its_request_has_ended() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    scene.ends("r1")
    assert started(scene.turn(arrived("r1", content=b"other"))) == ["r1"]


def test_an_id_is_free_while_its_cancelled_work_still_holds_a_slot() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    first = scene.attempt("r1")
    scene.turn(cancel("r1"))
    effects = scene.turn(arrived("r1", content=b"other"))
    assert (len(of(effects, Admit)), started(effects)) == (1, [])
    scene.turn(AttemptEnded(first, Cancelled("aborted")))
    assert started(scene.wait(GRACE_NS)) == ["r1"]


def test_one_id_of_two_agents_is_two_requests() -> None:
    scene = serving(model("m", slots=2))
    scene.turn(arrived("r1", agent="a"))
    assert started(scene.turn(arrived("r1", agent="b", content=b"other"))) == ["r1"]


# Alarms


def test_an_alarm_is_set_when_the_next_moment_comes_nearer_and_only_then() -> None:
    scene = serving(model("m", slots=3))
    scene.wait(SECOND_NS)
    scene.turn(arrived("r1", deadline_ns=4 * MINUTE_NS))
    [nearer] = of(scene.turn(arrived("r2", deadline_ns=2 * MINUTE_NS)), SetTimer)
    assert nearer.at_ns == 2 * MINUTE_NS
    assert of(scene.turn(arrived("r3", deadline_ns=3 * MINUTE_NS)), SetTimer) == []


def test_an_alarm_that_goes_off_for_nothing_does_nothing_but_set_the_next() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))
    scene.ends("r1")
    [timer] = scene.turn(TimerFired())
    assert isinstance(timer, SetTimer)  # the renewal of the model's keep_alive


def test_an_alarm_that_goes_off_too_early_is_set_again() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))
    scene.now_ns = MINUTE_NS - 1
    assert scene.turn(TimerFired()) == [SetTimer(MINUTE_NS)]


def test_all_that_is_due_at_one_moment_happens_in_one_turn() -> None:
    scene = serving(model("m"))
    for name in ("r1", "r2", "r3"):
        scene.turn(arrived(name, deadline_ns=MINUTE_NS))
    scene.now_ns = MINUTE_NS
    effects = scene.turn(TimerFired())
    assert [name for name, _ in finished(effects)] == ["r1", "r2", "r3"]


# Our own bugs


def test_an_end_of_no_attempt_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="never began"):
        serving(model("m")).turn(AttemptEnded(AttemptId(99), None))


def test_a_second_end_during_the_grace_is_a_bug() -> None:
    scene = busy()
    attempt = scene.attempt("running")
    scene.turn(cancel("running"))
    scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    with pytest.raises(InvariantBroken, match="ended twice"):
        scene.turn(AttemptEnded(attempt, Cancelled("aborted")))


def test_a_second_first_token_is_a_bug() -> None:
    scene = busy()
    scene.turn(FirstToken(scene.attempt("running")))
    with pytest.raises(InvalidTransition):
        scene.turn(FirstToken(scene.attempt("running")))


def test_the_invariants_can_fail() -> None:
    scene = busy()
    scene.turn(arrived("r1"))
    invariants.check(scene.engine)
    scene.residency("m").slots = 2
    with pytest.raises(InvariantBroken, match="a slot is free while a request waits"):
        invariants.check(scene.engine)
    scene.residency("m").running = 2
    with pytest.raises(InvariantBroken, match="slots held and attempts differ"):
        invariants.check(scene.engine)
    scene.engine.tally.queued = 2
    with pytest.raises(InvariantBroken, match="the tally differ"):
        invariants.check(scene.engine)


@pytest.mark.parametrize("names", [[], ["b1", "b1"]])
def test_backends_must_be_there_and_tell_apart(names: list[str]) -> None:
    with pytest.raises(ValueError):
        EnginePolicy(backends=tuple(BackendPolicy(name=name) for name in names))
    assert PlacementPolicy().slot_grace_ns == GRACE_NS


def test_a_whole_life_switches_nothing_where_one_model_serves_all() -> None:
    scene = serving(model("m"))
    effects: list[Effect] = []
    for number in range(20):
        effects += scene.turn(arrived(f"r{number}", priority=number % 10 + 1))
    for _ in range(20):
        [running] = [each.record.spec.key[1] for each in scene.engine.attempts.values()]
        effects += scene.ends(running)
    assert (len(finished(effects)), switches(effects)) == (20, [])
