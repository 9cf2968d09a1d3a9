"""Every way for a request to end or to be tried again, at every stage of its life."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.core.arrivals import DRAIN_RETRY_NS
from broker.core.effects import (
    AbortAttempt,
    Drained,
    Effect,
    Finish,
    Refuse,
    StartAttempt,
    TakeOver,
    TellRequeued,
)
from broker.core.errors import (
    BackendRefused,
    BackendUnreachable,
    Cancelled,
    ClientTooSlow,
    DeadlineExpired,
    Draining,
)
from broker.core.estimates import Estimates
from broker.core.placement import BackendPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.retry import RetryPolicy
from broker.core.stimuli import (
    AttemptEnded,
    CancelCause,
    DrainAsked,
    FirstToken,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    Scene,
    arrived,
    busy,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    resident,
    serving,
    started,
)

GRACE_NS = 300_000_000
UNREACHABLE = BackendUnreachable("connection refused")


# Endings at every stage


def queued(scene: Scene) -> None:
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))


def loading(scene: Scene) -> None:
    scene.seen("b1")
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))


def dispatched(scene: Scene) -> None:
    scene.ends("running")
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))


def streaming(scene: Scene) -> None:
    dispatched(scene)
    scene.turn(FirstToken(scene.attempt("r1")))


def requeued(scene: Scene) -> None:
    dispatched(scene)
    scene.ends("r1", UNREACHABLE)


BEFORE_A_SLOT = [queued, requeued]
WITH_A_SLOT = [dispatched, streaming]
ENDINGS: list[tuple[Callable[[Scene], list[Effect]], Outcome]] = [
    (lambda scene: scene.turn(cancel("r1")), Outcome.CANCELLED),
    (lambda scene: scene.wait(MINUTE_NS), Outcome.EXPIRED),
]


@pytest.mark.parametrize(("end", "outcome"), ENDINGS, ids=["cancel", "expire"])
@pytest.mark.parametrize("stage", BEFORE_A_SLOT)
def test_what_waits_ends_at_once(
    stage: Callable[[Scene], None], end: Callable[[Scene], list[Effect]], outcome: Outcome
) -> None:
    scene = busy()
    stage(scene)
    effects = end(scene)
    assert finished(effects) == [("r1", outcome)]
    assert of(effects, AbortAttempt) == []
    assert (("a", "r1") in scene.engine.records, len(scene.engine.lines)) == (False, 0)


@pytest.mark.parametrize(("end", "outcome"), ENDINGS, ids=["cancel", "expire"])
@pytest.mark.parametrize("stage", WITH_A_SLOT)
def test_what_runs_is_aborted_and_its_slot_free_after_the_grace(
    stage: Callable[[Scene], None], end: Callable[[Scene], list[Effect]], outcome: Outcome
) -> None:
    scene = busy()
    stage(scene)
    attempt = scene.attempt("r1")
    effects = end(scene)
    assert finished(effects) == [("r1", outcome)]  # its client hears at once
    assert of(effects, AbortAttempt) == [AbortAttempt(attempt)]
    later = scene.turn(arrived("next", deadline_ns=9 * MINUTE_NS))
    assert started(later) == []
    assert started(scene.turn(AttemptEnded(attempt, Cancelled("aborted")))) == []
    assert started(scene.wait(GRACE_NS - 1)) == []
    assert started(scene.wait(1)) == ["next"]
    scene.ends("next")
    assert nothing_remains(scene)


def test_a_model_that_loads_for_a_cancelled_request_is_loaded_all_the_same() -> None:
    """The load is the broker's own: aborting it would have been for nothing."""
    scene = busy()
    scene.ends("running")
    loading(scene)
    assert finished(scene.turn(cancel("r1"))) == [("r1", Outcome.CANCELLED)]
    scene.loaded("m")
    assert scene.state("m") is ResidencyState.RESIDENT
    assert started(scene.turn(arrived("next"))) == ["next"]


def test_an_aborted_attempt_that_came_to_its_terminator_needs_no_grace() -> None:
    scene = busy()
    dispatched(scene)
    attempt = scene.attempt("r1")
    scene.turn(cancel("r1"))
    scene.turn(arrived("next"))
    assert started(scene.turn(AttemptEnded(attempt, None))) == ["next"]


def test_an_expiry_says_what_it_waited_for() -> None:
    scene = busy()
    queued(scene)
    [end] = of(scene.wait(MINUTE_NS), Finish)
    assert isinstance(end.error, DeadlineExpired)
    assert "after 60.0 s of waiting for a free slot of m:latest on b1" in end.error.message


def test_an_expiry_of_what_runs_says_that_it_ran() -> None:
    scene = busy()
    dispatched(scene)
    [end] = of(scene.wait(MINUTE_NS), Finish)
    assert isinstance(end.error, DeadlineExpired)
    assert end.error.message == "the deadline passed after 60.0 s, while it ran"


def test_a_token_that_was_on_its_way_when_its_request_was_cancelled_is_no_error() -> None:
    scene = busy()
    dispatched(scene)
    attempt = scene.attempt("r1")
    scene.turn(cancel("r1"))
    assert scene.turn(FirstToken(attempt)) == []
    scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    scene.wait(GRACE_NS)
    assert scene.turn(FirstToken(attempt)) == []


def test_cancelling_what_is_not_under_way_is_no_error() -> None:
    scene = serving(model("m"))
    assert scene.turn(cancel("never")) == []


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (CancelCause.BY_AGENT, Cancelled),
        (CancelCause.CLIENT_GONE, Cancelled),
        (CancelCause.BROKER_STOPS, Draining),
    ],
)
def test_a_cancelled_request_hears_why(cause: CancelCause, kind: type[Exception]) -> None:
    scene = busy()
    queued(scene)
    [end] = of(scene.turn(cancel("r1", cause)), Finish)
    assert isinstance(end.error, kind)
    assert end.outcome is Outcome.CANCELLED


# A backend that falls away


def test_what_was_surely_not_begun_waits_again_at_its_old_place() -> None:
    scene = busy()
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2"))
    scene.ends("running")
    effects = scene.ends("r1", UNREACHABLE)
    assert of(effects, TellRequeued) == [TellRequeued(("a", "r1"), "connection refused")]
    assert (finished(effects), started(effects)) == ([], [])
    assert scene.engine.backends["b1"].up is False
    assert started(scene.up("b1")) == ["r1"]
    assert started(scene.ends("r1")) == ["r2"]


def test_requests_come_back_in_the_order_in_which_they_had_come() -> None:
    scene = serving(model("m", slots=3))
    for name in ("r1", "r2", "r3", "r4"):
        scene.now_ns += 1
        scene.turn(arrived(name))
    for name in ("r2", "r1", "r3"):
        scene.ends(name, UNREACHABLE)
    assert started(scene.up("b1")) == ["r1", "r2", "r3"]


def test_a_request_is_tried_three_times_at_most() -> None:
    scene = busy()
    dispatched(scene)
    for _ in range(RetryPolicy().tries_max - 1):
        assert finished(scene.ends("r1", UNREACHABLE)) == []
        assert started(scene.up("b1")) == ["r1"]
    effects = scene.ends("r1", UNREACHABLE)
    assert of(effects, Finish) == [Finish(("a", "r1"), Outcome.FAILED, UNREACHABLE)]


def test_nothing_is_tried_again_after_its_first_token() -> None:
    scene = busy()
    streaming(scene)
    assert finished(scene.ends("r1", UNREACHABLE)) == [("r1", Outcome.FAILED)]


def test_a_failure_of_the_request_itself_is_not_tried_again_and_the_backend_stays_up() -> None:
    scene = busy()
    dispatched(scene)
    refused = BackendRefused("no such option", status=400)
    assert finished(scene.ends("r1", refused)) == [("r1", Outcome.FAILED)]
    assert scene.engine.backends["b1"].up


def test_another_backend_takes_over_what_one_lost() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    for backend in ("b1", "b2"):
        scene.open(backend, model("m"))
        scene.seen(backend, resident("m"))
    [first] = of(scene.turn(arrived("r1")), StartAttempt)
    [second] = of(scene.ends("r1", UNREACHABLE), StartAttempt)
    assert (first.backend, second.backend) == ("b1", "b2")


def test_what_comes_back_may_exceed_the_limit_of_the_queue() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=1, live_max=9))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2"))
    scene.ends("r1", UNREACHABLE)
    assert scene.engine.tally.queued == 2
    assert of(scene.turn(arrived("r3")), Refuse) != []


def test_what_waits_for_a_backend_that_is_down_starts_when_it_is_back() -> None:
    scene = busy()
    queued(scene)
    scene.down("b1")
    assert started(scene.ends("running")) == []
    assert started(scene.up("b1")) == ["r1"]


# Draining


def test_draining_refuses_what_is_new_and_lets_the_rest_finish() -> None:
    scene = busy()
    queued(scene)
    assert scene.turn(DrainAsked(MINUTE_NS)) == []
    [refusal] = of(scene.turn(arrived("new")), Refuse)
    assert isinstance(refusal.error, Draining)
    assert refusal.error.retry_after_ns == DRAIN_RETRY_NS
    assert started(scene.ends("running")) == ["r1"]
    effects = scene.ends("r1")
    assert finished(effects) == [("r1", Outcome.COMPLETED)]
    assert of(effects, Drained) == [Drained()]
    assert of(scene.wait(2 * MINUTE_NS), Drained) == []  # told once


def test_draining_an_idle_broker_is_over_at_once() -> None:
    assert Drained() in serving(model("m")).turn(DrainAsked(MINUTE_NS))


def test_what_is_not_done_when_the_drain_is_over_is_ended_and_drained_after_the_grace() -> None:
    scene = busy()
    scene.turn(arrived("r1"))
    attempt = scene.attempt("running")
    scene.turn(DrainAsked(MINUTE_NS))
    effects = scene.wait(MINUTE_NS)
    assert finished(effects) == [("running", Outcome.CANCELLED), ("r1", Outcome.CANCELLED)]
    assert all(isinstance(each.error, Draining) for each in of(effects, Finish))
    assert of(effects, Drained) == []
    scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    assert of(scene.wait(GRACE_NS), Drained) == [Drained()]


def test_the_last_word_on_how_long_a_drain_may_take_counts() -> None:
    scene = busy()
    scene.turn(DrainAsked(MINUTE_NS))
    scene.turn(DrainAsked(3 * MINUTE_NS))
    assert finished(scene.wait(2 * MINUTE_NS)) == []
    assert finished(scene.wait(MINUTE_NS)) == [("running", Outcome.CANCELLED)]


def test_while_draining_a_client_may_come_back_but_nothing_is_tried_again() -> None:
    scene = busy()
    dispatched(scene)
    scene.turn(DrainAsked(MINUTE_NS))
    assert len(of(scene.turn(arrived("r1")), TakeOver)) == 1
    assert finished(scene.ends("r1", UNREACHABLE)) == [("r1", Outcome.FAILED)]


def test_a_call_that_we_cut_keeps_its_slot_for_the_time_of_grace() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", agent="b"))
    effects = scene.ends("r1", ClientTooSlow("too much waits to be read"))
    assert finished(effects) == [("r1", Outcome.FAILED)]
    assert started(effects) == []
    assert started(scene.wait(GRACE_NS - 1)) == []
    assert started(scene.wait(1)) == ["r2"]


def test_a_quiet_night_is_no_measure_of_the_rate_at_which_places_become_free() -> None:
    estimates = Estimates()
    estimates.departed(0)
    estimates.departed(10)
    estimates.emptied()
    estimates.departed(8 * 60 * MINUTE_NS)
    assert estimates.departure_gap_ns() == 10
