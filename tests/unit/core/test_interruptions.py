"""An attempt that is lost after a piece of it came, or that the broker itself gives up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.breaker import BreakerPolicy
from broker.core.effects import StartAttempt, TellRequeued
from broker.core.errors import BackendFailed, BackendRefused, Cancelled
from broker.core.placement import BackendPolicy
from broker.core.requests import OnInterruption, Outcome
from broker.core.snapshot import take_snapshot
from broker.core.stimuli import AttemptEnded, PolicyChanged
from tests.unit.core.retry_scene import (
    BROKEN,
    POLICY,
    UNREACHABLE,
    come,
    lost,
    scene_of,
    stream,
)
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    aborted,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    resident,
    started,
)

# After a piece


def test_what_a_client_has_read_of_is_not_begun_again_unless_it_asked_for_that() -> None:
    scene = scene_of()
    come(scene)
    stream(scene)
    assert finished(lost(scene, pieces=2)) == [("r1", Outcome.FAILED)]


def test_a_restart_voids_what_came() -> None:
    scene = scene_of()
    come(scene, on_interruption=OnInterruption.RESTART)
    stream(scene)
    effects = lost(scene, pieces=2)
    assert of(effects, TellRequeued) == [TellRequeued(("a", "r1"), BROKEN.message, True)]
    [start] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (start.number, start.continues) == (2, False)
    effects = lost(scene)  # before a piece: nothing new is void
    assert of(effects, TellRequeued) == [TellRequeued(("a", "r1"), BROKEN.message, False)]


def test_going_on_voids_nothing_and_shortens_the_answer_by_what_came() -> None:
    scene = scene_of()
    come(scene, on_interruption=OnInterruption.CONTINUE, output_tokens_max=10)
    stream(scene)
    [requeued] = of(lost(scene, pieces=4), TellRequeued)
    assert not requeued.voids_pieces
    [start] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (start.continues, start.output_tokens_max) == (True, 6)
    lost(scene)  # no piece of this one came: those of the first still stand
    [start] = of(scene.wait(2 * SECOND_NS), StartAttempt)
    assert (start.number, start.continues, start.output_tokens_max) == (3, True, 6)
    stream(scene)
    assert finished(lost(scene, pieces=1)) == [("r1", Outcome.FAILED)]  # the last try


def test_going_on_without_a_limit_stays_without() -> None:
    scene = scene_of()
    come(scene, on_interruption=OnInterruption.CONTINUE)
    stream(scene)
    lost(scene, pieces=4)
    [start] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (start.continues, start.output_tokens_max) == (True, None)


def test_what_cannot_be_gone_on_from_begins_anew() -> None:
    scene = scene_of()
    come(scene, on_interruption=OnInterruption.CONTINUE, output_tokens_max=10)
    stream(scene)
    [requeued] = of(lost(scene, pieces=4, is_continuable=False), TellRequeued)
    assert requeued.voids_pieces
    [start] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (start.continues, start.output_tokens_max) == (False, None)


def test_a_server_that_takes_many_streams_along_loses_none_that_another_can_take_up() -> None:
    slots = 12  # more than the budget
    scene = scene_of(slots=slots, backends=2)
    names = [f"r{number}" for number in range(2 * slots)]
    for name in names:
        come(scene, name, OnInterruption.CONTINUE)
        stream(scene, name)
    dying = [each for each in scene.engine.attempts.values() if each.backend == "b1"]
    assert len(dying) == slots
    for attempt in dying:
        assert finished(lost(scene, attempt.record.spec.key[1], pieces=1)) == []
    scene.down("b1")
    scene.wait(SECOND_NS)
    done = [scene.end_one()[1] for _ in range(2 * slots)]
    assert sorted(done) == sorted(names)


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "not loaded"])
def test_what_comes_again_to_the_backend_that_lost_it_is_charged_there(is_full: bool) -> None:
    """Another backend may take it up, and has no slot for it: it is no free call of the first."""
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    no_breaker = BreakerPolicy(failures=10_000)
    scene.turn(PolicyChanged(replace(scene.engine.policy, breaker=no_breaker)))
    for name in ("b1", "b2"):
        scene.open(name, model("m"))
    scene.seen("b1", resident("m"))
    if is_full:
        scene.seen("b2", resident("m"))
        come(scene, "first")
        come(scene, "long")
        scene.ends("first")
    calls = 0
    for number in range(20):
        effects, name = come(scene, f"r{number}", OnInterruption.RESTART), f"r{number}"
        while of(effects, StartAttempt):
            calls += 1
            stream(scene, name)
            lost(scene, name, pieces=1)
            effects = scene.wait(5 * SECOND_NS)
    # The last of them could be paid in part only.
    assert 20 < calls <= 20 + POLICY.budget_max + 20 * POLICY.budget_share + 1
    assert take_snapshot(scene.engine, scene.now_ns, requests_max=0).backends[0].retries_left == 0


def test_a_call_that_was_charged_and_reached_nobody_is_given_back() -> None:
    scene = scene_of(backends=2)
    come(scene, "long")
    come(scene, "r1", OnInterruption.RESTART)
    [attempt] = [each for each in scene.engine.attempts.values() if each.record.spec.key[1] == "r1"]
    stream(scene)
    lost(scene, pieces=1)
    [again] = of(scene.wait(SECOND_NS), StartAttempt)
    retries = scene.engine.retries
    assert (again.backend, retries.left(again.backend)) == (attempt.backend, POLICY.budget_max - 1)
    lost(scene, error=UNREACHABLE)
    assert retries.left(again.backend) == POLICY.budget_max


def test_what_is_kept_is_paid_with_the_attempt_that_goes_on() -> None:
    scene = scene_of()
    come(scene, on_interruption=OnInterruption.CONTINUE)
    stream(scene)
    lost(scene, pieces=4)
    scene.wait(SECOND_NS)
    [agent] = scene.engine.agents
    assert agent.served_cost == 0  # what was lost was not its fault
    scene.turn(AttemptEnded(scene.attempt("r1"), None, 10, 3, pieces=3))
    costs = scene.engine.policy.queue
    assert agent.served_cost == 10 * costs.prompt_token_cost + 7 * costs.output_token_cost


# Giving up


LATE = BackendFailed("it is frozen")


def test_what_is_given_up_is_closed_first_and_then_tried_again() -> None:
    scene = scene_of()
    come(scene)
    attempt = scene.attempt("r1")
    scene.engine._attempts.give_up(attempt, LATE, scene.now_ns)
    assert scene.engine.attempts[attempt].given_up is LATE
    effects = scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    assert of(effects, TellRequeued) == [TellRequeued(("a", "r1"), LATE.message)]
    assert started(come(scene, "r2")) == ["r2"]  # its call was closed: its slot is free
    scene.ends("r2")
    assert started(scene.wait(SECOND_NS)) == ["r1"]


def give_up(scene: Scene, request_id: str = "r1") -> None:
    scene.engine._attempts.give_up(scene.attempt(request_id), LATE, scene.now_ns)


def test_what_completed_while_it_was_given_up_is_complete() -> None:
    scene = scene_of()
    come(scene)
    give_up(scene)
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]
    assert nothing_remains(scene)


def test_what_ended_by_itself_while_it_was_given_up_ends_by_its_own_error() -> None:
    scene = scene_of()
    come(scene)
    give_up(scene)
    refused = BackendRefused("bad option", status=400)
    assert finished(lost(scene, error=refused)) == [("r1", Outcome.FAILED)]


def test_what_is_cancelled_while_it_is_given_up_is_closed_once() -> None:
    scene = scene_of()
    come(scene)
    attempt = scene.attempt("r1")
    give_up(scene)
    effects = scene.turn(cancel("r1"))
    assert (finished(effects), aborted(effects)) == ([("r1", Outcome.CANCELLED)], [])
    give_up(scene)  # and what is ending is not given up
    scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    assert nothing_remains(scene)


def test_giving_up_twice_or_what_is_over_is_no_error() -> None:
    scene = scene_of()
    come(scene)
    attempt = scene.attempt("r1")
    give_up(scene)
    give_up(scene)
    scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    scene.engine._attempts.give_up(attempt, LATE, scene.now_ns)
    assert started(scene.wait(SECOND_NS)) == ["r1"]


def test_a_token_that_was_on_its_way_when_its_attempt_was_given_up_counts() -> None:
    scene = scene_of()
    come(scene)
    give_up(scene)
    stream(scene)
    assert finished(lost(scene, pieces=1, error=Cancelled("aborted"))) == [("r1", Outcome.FAILED)]
