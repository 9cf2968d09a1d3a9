"""What becomes of a request whose attempt came to nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from broker.core.breaker import BreakerPolicy
from broker.core.effects import (
    AbortAttempt,
    Drained,
    Effect,
    StartAttempt,
    TakeOver,
    TellAttemptFailed,
    TellQueued,
    TellRequeued,
    WaitReason,
)
from broker.core.errors import (
    AccessDenied,
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
    ClientTooSlow,
    ClosedForCure,
    Internal,
)
from broker.core.lifecycle import State
from broker.core.requests import OnInterruption, Outcome
from broker.core.retry import RetryBudget, RetryPolicy, backoff_ns
from broker.core.snapshot import take_snapshot
from broker.core.stimuli import (
    AttemptEnded,
    BlockAsked,
    CancelCause,
    DrainAsked,
    ModelsListed,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
)
from broker.core.story import explain
from tests.unit.core.retry_scene import (
    BROKEN,
    POLICY,
    UNREACHABLE,
    backing_off,
    come,
    lost,
    scene_of,
    stream,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    started,
    told,
)

# The numbers


def test_the_backoff_grows_up_to_its_longest_and_chance_takes_any_part_of_it() -> None:
    policy = RetryPolicy(backoff_ns=100, backoff_base=2.0, backoff_ns_max=500)
    assert [backoff_ns(policy, tries, 1.0) for tries in (1, 2, 3, 4, 99)] == [
        *(100, 200, 400, 500, 500)
    ]
    assert (backoff_ns(policy, 2, 0.0), backoff_ns(policy, 2, 0.25)) == (0, 50)


def test_a_budget_is_spent_whole_and_earned_in_parts() -> None:
    policy = RetryPolicy(budget_share=0.25, budget_max=2.0)
    budget = RetryBudget(policy)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(3):
        budget.earn(policy)
    assert not budget.spend()
    budget.earn(policy)
    assert budget.spend()
    for _ in range(100):
        budget.earn(policy)
    assert budget.left == policy.budget_max


# Before a piece


def test_what_failed_waits_for_its_backoff_and_starts_again() -> None:
    scene = scene_of()
    come(scene)
    effects = lost(scene)
    assert of(effects, TellRequeued) == [TellRequeued(("a", "r1"), BROKEN.message)]
    assert (told(effects), started(effects)) == ([("r1", 1, "BACKOFF")], [])
    [failed] = of(effects, TellAttemptFailed)
    wait_ns = int(SECOND_NS * Random(0).random())  # of the engine's seed
    assert failed.report.backoff_ns == wait_ns
    assert started(scene.wait(wait_ns - 1)) == []
    [start] = of(scene.wait(1), StartAttempt)
    assert (start.key, start.number, start.continues) == (("a", "r1"), 2, False)
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]
    assert nothing_remains(scene)


def test_it_waits_in_no_line_and_holds_no_slot_and_is_under_way_all_the_same() -> None:
    scene = scene_of()
    come(scene)
    lost(scene)
    engine = scene.engine
    assert (engine.tally.queued, engine.tally.running, engine.ledger.live) == (0, 0, 1)
    assert started(come(scene, "r2")) == ["r2"]  # its slot is free


def test_it_comes_back_before_what_came_later() -> None:
    scene = scene_of()
    come(scene)
    come(scene, "r2")
    come(scene, "r3")
    assert started(lost(scene)) == ["r2"]
    scene.wait(SECOND_NS)
    assert started(scene.ends("r2")) == ["r1"]


def test_after_the_last_try_it_fails_with_the_last_error() -> None:
    scene = scene_of(replace(POLICY, tries_max=2))
    come(scene)
    lost(scene)
    scene.wait(SECOND_NS)
    last = BackendFailed("out of luck")
    effects = lost(scene, error=last)
    assert finished(effects) == [("r1", Outcome.FAILED)]
    [failed] = of(effects, TellAttemptFailed)
    assert (failed.report.is_retried, failed.report.number) == (False, 2)
    assert nothing_remains(scene)


@pytest.mark.parametrize(
    "error",
    [BackendRefused("bad option", status=400), ClientTooSlow("full"), Internal("a bug")],
    ids=lambda error: type(error).__name__,
)
def test_what_no_attempt_can_help_is_not_tried_again(error: BrokerError) -> None:
    scene = scene_of()
    come(scene)
    assert finished(lost(scene, error=error)) == [("r1", Outcome.FAILED)]


def test_a_backend_that_says_when_to_come_again_is_heeded() -> None:
    scene = scene_of()
    come(scene)
    lost(scene, error=BackendBusy("503", status=503, retry_after_ns=7 * SECOND_NS))
    assert started(scene.wait(7 * SECOND_NS - 1)) == []
    assert started(scene.wait(1)) == ["r1"]


def test_when_a_backend_wants_to_be_left_alone_another_is_asked() -> None:
    scene = scene_of(backends=2)
    come(scene)
    busy = BackendBusy("503", status=503, retry_after_ns=3600 * SECOND_NS)
    assert finished(lost(scene, error=busy)) == []
    [again] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (again.key[1], again.backend) == ("r1", "b2")


def test_what_only_a_backend_has_a_slot_for_that_wants_to_be_left_alone_waits_for_either() -> None:
    scene = scene_of(backends=2)
    come(scene)
    come(scene, "r2")
    busy = BackendBusy("503", status=503, retry_after_ns=7 * SECOND_NS)
    lost(scene, error=busy)
    assert started(scene.wait(7 * SECOND_NS - 1)) == []
    assert started(scene.wait(1)) == ["r1"]
    assert scene.engine.attempts[scene.attempt("r1")].backend == "b1"
    lost(scene, error=busy)
    scene.wait(2 * SECOND_NS)
    scene.ends("r2")
    assert started(scene.wait(SECOND_NS)) == ["r1"]
    assert scene.engine.attempts[scene.attempt("r1")].backend == "b2"


def test_a_backend_that_starts_nothing_keeps_nobody_back() -> None:
    scene = scene_of(backends=2)
    come(scene)
    come(scene, "r2")
    lost(scene, error=BackendBusy("503", status=503, retry_after_ns=60 * SECOND_NS))
    scene.down("b1")
    scene.wait(2 * SECOND_NS)
    assert started(scene.ends("r2")) == ["r1"]


def test_what_would_be_late_after_its_backoff_ends_at_once() -> None:
    scene = scene_of()
    scene.turn(arrived("r1", deadline_ns=5 * SECOND_NS))
    busy = BackendBusy("503", status=503, retry_after_ns=6 * SECOND_NS)
    assert finished(lost(scene, error=busy)) == [("r1", Outcome.FAILED)]


def test_a_backend_that_took_no_connection_costs_neither_backoff_nor_budget() -> None:
    scene = scene_of(replace(POLICY, budget_share=0.0, budget_max=0.0), backends=2)
    come(scene)
    [again] = of(lost(scene, error=UNREACHABLE), StartAttempt)
    assert (again.backend, again.number) == ("b2", 2)
    assert scene.engine.backends["b1"].retries == 1


def test_a_backend_that_does_not_take_our_key_is_not_asked_again_for_it() -> None:
    denied = AccessDenied("the key is not taken", status=401)
    alone = scene_of()
    come(alone)
    assert finished(lost(alone, error=denied)) == [("r1", Outcome.FAILED)]
    scene = scene_of(backends=2)
    come(scene)
    lost(scene, error=denied)
    [again] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (again.backend, scene.engine.retries.left("b1")) == ("b2", POLICY.budget_max)


def test_nothing_is_tried_again_beyond_the_budget_of_its_backend() -> None:
    scene = scene_of(replace(POLICY, budget_share=0.5, budget_max=1.0), slots=3)
    for name in ("r1", "r2", "r3"):
        come(scene, name)
    assert finished(lost(scene, "r1")) == []
    assert finished(lost(scene, "r2")) == [("r2", Outcome.FAILED)]
    come(scene, "r4")
    come(scene, "r5")  # two first attempts have earned one retry
    assert finished(lost(scene, "r3")) == []
    assert finished(lost(scene, "r4")) == [("r4", Outcome.FAILED)]


def test_a_backend_that_always_fails_is_called_little_more_often_than_it_was_asked() -> None:
    scene = scene_of(slots=1)
    no_breaker = BreakerPolicy(failures=10_000)
    scene.turn(PolicyChanged(replace(scene.engine.policy, breaker=no_breaker)))
    calls = 0
    for number in range(200):
        calls += len(of(come(scene, f"r{number}"), StartAttempt))
        while scene.engine.attempts:
            [attempt] = scene.engine.attempts
            scene.turn(AttemptEnded(attempt, BROKEN))
            calls += len(of(scene.wait(MINUTE_NS), StartAttempt))
    assert 200 < calls <= 200 * (1 + POLICY.budget_share) + POLICY.budget_max


def test_what_the_broker_closed_itself_costs_neither_budget_nor_a_try_nor_a_backoff() -> None:
    scene = scene_of(RetryPolicy(tries_max=1, budget_share=0.0, budget_max=0.0))
    come(scene)
    closed = ClosedForCure("another call there is frozen")
    for number in (2, 3):
        [again] = of(lost(scene, error=closed), StartAttempt)
        assert again.number == number
    assert finished(lost(scene)) == [("r1", Outcome.FAILED)]  # its one try
    assert nothing_remains(scene)


def test_a_stream_that_the_broker_closed_itself_goes_on_only_by_leave() -> None:
    scene = scene_of(RetryPolicy(budget_share=0.0, budget_max=0.0), slots=2)
    closed = ClosedForCure("another call there is frozen")
    come(scene)
    stream(scene)
    assert finished(lost(scene, pieces=2, error=closed)) == [("r1", Outcome.FAILED)]
    come(scene, "r2", OnInterruption.CONTINUE)
    stream(scene, "r2")
    [again] = of(lost(scene, "r2", pieces=2, error=closed), StartAttempt)
    assert again.continues


# While it waits for its backoff


ENDS: list[tuple[Callable[[Scene], list[Effect]], Outcome]] = [
    (lambda scene: scene.turn(cancel("r1")), Outcome.CANCELLED),
    (lambda scene: scene.turn(cancel("r1", CancelCause.BROKER_STOPS)), Outcome.CANCELLED),
    (
        lambda scene: scene.turn(BlockAsked(scope=Scope(agent_id="a"), cancels_waiting=True)),
        Outcome.CANCELLED,
    ),
]


@pytest.mark.parametrize(("end", "outcome"), ENDS, ids=["cancel", "stop", "block"])
def test_it_can_be_ended(end: Callable[[Scene], list[Effect]], outcome: Outcome) -> None:
    scene = backing_off()
    effects = end(scene)
    assert finished(effects) == [("r1", outcome)]
    assert of(effects, AbortAttempt) == []
    assert scene.engine.ledger.backing_off == 0
    assert started(scene.wait(MINUTE_NS)) == []
    assert nothing_remains(scene)


def test_a_deadline_that_a_newer_call_shortens_ends_it() -> None:
    scene = backing_off()
    effects = scene.turn(arrived("r1", deadline_ns=10 * SECOND_NS))
    assert len(of(effects, TakeOver)) == 1
    assert told(effects) == [("r1", 1, "BACKOFF")]
    assert finished(scene.wait(10 * SECOND_NS)) == [("r1", Outcome.EXPIRED)]
    assert nothing_remains(scene)


def test_a_pause_holds_it_back_once_its_backoff_is_over() -> None:
    scene = backing_off()
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    effects = scene.wait(31 * SECOND_NS)
    assert started(effects) == []
    assert [each.reason for each in of(effects, TellQueued)] == [WaitReason.PAUSED]
    assert started(scene.turn(ResumeAsked(Scope(agent_id="a")))) == ["r1"]


def test_a_drain_lets_it_have_its_next_attempt() -> None:
    scene = backing_off()
    assert of(scene.turn(DrainAsked(MINUTE_NS)), Drained) == []
    assert started(scene.wait(31 * SECOND_NS)) == ["r1"]
    assert of(scene.ends("r1"), Drained) == [Drained()]


def test_while_draining_nothing_is_put_back() -> None:
    scene = scene_of()
    come(scene)
    scene.turn(DrainAsked(MINUTE_NS))
    assert finished(lost(scene)) == [("r1", Outcome.FAILED)]


def test_a_model_that_is_deleted_meanwhile_ends_it_when_its_backoff_is_over() -> None:
    scene = backing_off()
    scene.turn(ModelsListed("b1", (model("n"),)))
    effects = scene.wait(31 * SECOND_NS)
    assert finished(effects) == [("r1", Outcome.FAILED)]
    assert scene.engine.ledger.backing_off == 0


def test_explain_says_what_it_waits_for_and_what_was_tried() -> None:
    scene = backing_off()
    story = explain(scene.engine, ("a", "r1"), scene.now_ns)
    assert (story.state, story.wait_reason, story.position) == ("requeued", "BACKOFF", 1)
    assert story.wait_detail == "its next attempt: b1 failed it (503)"
    [failed] = story.attempts
    assert (failed.number, failed.backend, failed.reason) == (1, "b1", "BACKEND_FAILED")
    assert failed.backoff_ns == 30 * SECOND_NS
    scene.wait(30 * SECOND_NS)
    stream(scene)
    scene.wait(SECOND_NS)
    attempt = scene.attempt("r1")
    scene.turn(AttemptEnded(attempt, None, 5, 3, pieces=3))
    first, second = explain(scene.engine, ("a", "r1"), scene.now_ns).attempts
    assert first == failed
    assert (second.number, second.problem, second.pieces) == (2, "", 3)
    assert second.ended_ns - second.started_ns == SECOND_NS


def test_a_picture_shows_what_backs_off_and_what_its_backend_may_still_cause() -> None:
    scene = backing_off()
    view = take_snapshot(scene.engine, scene.now_ns, requests_max=9)
    [waiting], [backend] = view.requests, view.backends
    assert (waiting.state, waiting.wait_reason) == (State.REQUEUED, WaitReason.BACKOFF)
    assert (view.queued, view.running) == (0, 0)
    assert (backend.retries, backend.retries_left) == (1, POLICY.budget_max - 1)
    [breaker] = backend.breakers
    assert (breaker.failures, breaker.model) == (1, "m:latest")


def test_nobody_overtakes_what_is_in_no_line() -> None:
    scene = backing_off()
    scene.now_ns += 1
    scene.turn(arrived("later", deadline_ns=MINUTE_NS))
    scene.ends("later")
    assert explain(scene.engine, ("a", "r1"), scene.now_ns).overtaken == ()


def test_no_more_attempts_are_remembered_than_may_be() -> None:
    scene = scene_of(RetryPolicy(tries_max=40))
    come(scene)
    for _ in range(30):
        lost(scene, error=UNREACHABLE)
        scene.up("b1")
    attempts = explain(scene.engine, ("a", "r1"), scene.now_ns).attempts
    assert [each.number for each in attempts] == list(range(16, 32))
