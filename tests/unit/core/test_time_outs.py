"""How long each phase of a request may take, who says so, and what happens then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import Effect, Finish, TellRequeued
from broker.core.errors import BackendBusy, Cancelled, DeadlineExpired, TimedOut
from broker.core.placement import BackendPolicy
from broker.core.requests import OnInterruption, Outcome
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    FirstToken,
    ModelsListed,
    PauseAsked,
    PolicyChanged,
    Quiet,
    Scope,
)
from broker.core.time_outs import NO_TIME_OUTS, Phase, TimeOutPolicy, TimeOuts, tightest
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    aborted,
    arrived,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    request,
    resident,
    started,
)

HOUR_NS = 60 * MINUTE_NS


def scene_of(
    of_all: TimeOuts = NO_TIME_OUTS, by_model: dict[str, TimeOuts] | None = None, *, slots: int = 1
) -> Scene:
    """A backend that holds the model "m"."""
    policy = TimeOutPolicy(of_all=of_all, by_model=by_model or {})
    scene = Scene(BackendPolicy(name="b1", exclusive=True), time_outs=policy)
    scene.open("b1", model("m", slots=slots), model("n"))
    scene.seen("b1", resident("m"))
    return scene


def come(
    scene: Scene,
    request_id: str = "r1",
    time_outs: TimeOuts = NO_TIME_OUTS,
    *,
    model: str = "m",
    on_interruption: OnInterruption = OnInterruption.FAIL,
) -> list[Effect]:
    spec = request(request_id, model=model, deadline_ns=scene.now_ns + HOUR_NS)
    spec = replace(spec, time_outs=time_outs, on_interruption=on_interruption)
    return scene.turn(Arrived(spec))


def late(effects: list[Effect]) -> tuple[Outcome, Phase]:
    """How the only end came about, which is a time-out."""
    [end] = of(effects, Finish)
    assert isinstance(end.error, TimedOut)
    return end.outcome, end.error.phase


def closed(scene: Scene, request_id: str = "r1") -> list[Effect]:
    """The call that was told to close has."""
    return scene.turn(AttemptEnded(scene.attempt(request_id), Cancelled("aborted")))


# Who says so


def test_the_tightest_of_each_phase_counts() -> None:
    own = TimeOuts(queue_ns=5, load_ns=9)
    house = TimeOuts(queue_ns=7, load_ns=3, total_ns=1)
    assert tightest(own, house) == TimeOuts(queue_ns=5, load_ns=3, total_ns=1)
    assert tightest(house, NO_TIME_OUTS) is house


@pytest.mark.parametrize(
    ("own_s", "model_s", "all_s"), [(3, None, None), (None, 3, None), (None, None, 3), (3, 4, 5)]
)
def test_a_time_out_of_whomever_holds(
    own_s: int | None, model_s: int | None, all_s: int | None
) -> None:
    own, of_model, of_all = (
        TimeOuts(queue_ns=None if each is None else each * SECOND_NS)
        for each in (own_s, model_s, all_s)
    )
    scene = scene_of(of_all, {"m:latest": of_model})
    come(scene, "running")
    come(scene, "r1", own)
    assert finished(scene.wait(3 * SECOND_NS - 1)) == []
    effects = scene.wait(1)
    assert finished(effects) == [("r1", Outcome.EXPIRED)]


def test_another_models_time_outs_do_not_hold() -> None:
    scene = scene_of(by_model={"n:latest": TimeOuts(queue_ns=SECOND_NS)})
    come(scene, "running")
    come(scene)
    assert finished(scene.wait(MINUTE_NS)) == []


def test_what_nobody_bounds_has_no_timer() -> None:
    scene = scene_of()
    before = len(scene.engine.timers)
    come(scene)
    assert len(scene.engine.timers) == before + 1  # its deadline


# The queue


def test_a_wait_that_is_too_long_says_what_it_waited_for() -> None:
    scene = scene_of(TimeOuts(queue_ns=2 * SECOND_NS))
    come(scene, "running")
    come(scene)
    [end] = of(scene.wait(2 * SECOND_NS), Finish)
    assert end.error is not None
    assert end.error.message == (
        "the time-out of 2 s for waiting passed: it waited for a free slot of m:latest on b1"
    )


def test_what_has_a_slot_waits_no_longer() -> None:
    scene = scene_of(TimeOuts(queue_ns=2 * SECOND_NS))
    come(scene)
    assert finished(scene.wait(MINUTE_NS)) == []
    scene.ends("r1")
    assert nothing_remains(scene)


def test_each_wait_of_a_request_has_its_own_time() -> None:
    scene = scene_of(TimeOuts(queue_ns=10 * SECOND_NS))
    come(scene, "running")
    come(scene)
    scene.wait(9 * SECOND_NS)
    scene.ends("running")
    busy = BackendBusy("503", status=503, retry_after_ns=20 * SECOND_NS)
    scene.turn(AttemptEnded(scene.attempt("r1"), busy))
    assert finished(scene.wait(10 * SECOND_NS - 1)) == []
    effects = scene.wait(1)  # while it backs off
    assert late(effects) == (Outcome.EXPIRED, Phase.QUEUE)
    assert nothing_remains(scene)


def test_a_reload_holds_for_what_waits() -> None:
    scene = scene_of()
    come(scene, "running")
    come(scene)
    scene.wait(5 * SECOND_NS)
    policy = scene.engine.policy
    tight = TimeOutPolicy(of_all=TimeOuts(queue_ns=8 * SECOND_NS))
    scene.turn(PolicyChanged(replace(policy, time_outs=tight)))
    assert finished(scene.wait(3 * SECOND_NS - 1)) == []
    assert finished(scene.wait(1)) == [("r1", Outcome.EXPIRED)]
    come(scene, "r2")
    scene.turn(PolicyChanged(replace(policy, time_outs=TimeOutPolicy())))
    assert finished(scene.wait(MINUTE_NS)) == []


# In its own line nothing bounds it, in that of its fallback two time-outs do.
OF_N = {"n:latest": TimeOuts(queue_ns=5 * SECOND_NS, total_ns=9 * SECOND_NS)}


def moved(scene: Scene) -> None:
    """What waits goes to its fallback, as its model is gone; nothing of its agent starts."""
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    scene.turn(arrived("r1", deadline_ns=HOUR_NS, fallback_models=("n",)))
    scene.wait(4 * SECOND_NS)
    scene.turn(ModelsListed("b1", (model("n"),)))
    assert scene.engine.records["a", "r1"].model == "n:latest"


def test_what_moves_to_another_model_is_held_to_its_time_outs() -> None:
    scene = scene_of(by_model=OF_N)
    moved(scene)
    record = scene.engine.records["a", "r1"]
    assert record.deadline_ns == record.arrived_ns + 9 * SECOND_NS
    assert late(scene.wait(SECOND_NS)) == (Outcome.EXPIRED, Phase.QUEUE)


def test_what_comes_back_to_its_model_is_held_to_that_again() -> None:
    scene = scene_of(by_model=OF_N)
    moved(scene)
    scene.turn(ModelsListed("b1", (model("m"), model("n"))))
    record = scene.engine.records["a", "r1"]
    assert (record.model, record.deadline_ns) == ("m:latest", HOUR_NS)
    assert finished(scene.wait(MINUTE_NS)) == []


# The load


def test_a_load_may_take_its_time_from_when_it_began() -> None:
    scene = scene_of(TimeOuts(load_ns=10 * SECOND_NS))
    come(scene, "running")
    come(scene, "r1", model="n")  # which has to wait for "running" first
    scene.wait(40 * SECOND_NS)
    scene.ends("running")
    scene.unloaded("m")
    assert finished(scene.wait(10 * SECOND_NS - 1)) == []
    assert late(scene.wait(1)) == (Outcome.EXPIRED, Phase.LOAD)


def test_who_comes_while_a_load_is_under_way_has_the_whole_time() -> None:
    scene = scene_of(TimeOuts(load_ns=10 * SECOND_NS))
    come(scene, "r1", model="n")
    scene.unloaded("m")
    scene.wait(6 * SECOND_NS)
    come(scene, "r2", model="n")
    assert finished(scene.wait(5 * SECOND_NS)) == [("r1", Outcome.EXPIRED)]
    assert finished(scene.wait(5 * SECOND_NS - 1)) == []
    assert finished(scene.wait(1)) == [("r2", Outcome.EXPIRED)]


def test_a_wait_for_a_slot_is_no_load() -> None:
    scene = scene_of(TimeOuts(load_ns=SECOND_NS))
    come(scene, "running")
    come(scene)
    assert finished(scene.wait(MINUTE_NS)) == []
    scene.ends("running")
    scene.ends("r1")
    assert nothing_remains(scene)


def test_where_another_backend_has_it_nobody_waits_for_a_load() -> None:
    time_outs = TimeOutPolicy(of_all=TimeOuts(load_ns=SECOND_NS))
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"), time_outs=time_outs)
    for name in ("b1", "b2"):
        scene.open(name, model("m"))
    come(scene, "r1")
    scene.seen("b2", resident("m"))
    come(scene, "r2")
    come(scene, "r3")
    assert finished(scene.wait(MINUTE_NS)) == []


# The first token


def test_an_attempt_without_a_token_is_closed_and_tried_again() -> None:
    scene = scene_of(TimeOuts(first_token_ns=5 * SECOND_NS))
    come(scene)
    attempt = scene.attempt("r1")
    assert aborted(scene.wait(5 * SECOND_NS - 1)) == []
    effects = scene.wait(1)
    assert (aborted(effects), finished(effects)) == ([attempt], [])
    [told] = of(closed(scene), TellRequeued)
    assert told.reason == "b1 gave no first token within 5.0 s"
    assert started(scene.wait(SECOND_NS)) == ["r1"]


def test_after_the_last_try_it_fails_by_its_time_out() -> None:
    scene = scene_of(TimeOuts(first_token_ns=5 * SECOND_NS))
    come(scene)
    for _ in range(2):
        scene.wait(5 * SECOND_NS)
        closed(scene)
        scene.wait(3 * SECOND_NS)
    scene.wait(5 * SECOND_NS)
    assert late(closed(scene)) == (Outcome.FAILED, Phase.FIRST_TOKEN)
    assert nothing_remains(scene)


@pytest.mark.parametrize("how", ["token", "end", "cancel"])
def test_nothing_is_left_of_its_timer(how: str) -> None:
    scene = scene_of(TimeOuts(first_token_ns=5 * SECOND_NS))
    come(scene)
    attempt, timers = scene.attempt("r1"), len(scene.engine.timers)
    if how == "token":
        scene.turn(FirstToken(attempt))
        assert len(scene.engine.timers) == timers - 1
        assert aborted(scene.wait(MINUTE_NS)) == []
    elif how == "cancel":
        scene.turn(cancel("r1"))
        assert aborted(scene.wait(MINUTE_NS)) == []  # it was told already
        closed(scene)
    else:
        scene.ends("r1")
    if how == "token":
        scene.ends("r1")
    assert nothing_remains(scene)


# Between tokens


def quiet_for(scene: Scene, duration_ns: int) -> list[Effect]:
    """The stream of r1 gives nothing for so long, which is then told."""
    since_ns = scene.now_ns
    effects = scene.wait(duration_ns)
    return effects + scene.turn(Quiet(scene.attempt("r1"), since_ns, 3, SECOND_NS))


def streaming(on_interruption: OnInterruption = OnInterruption.FAIL) -> Scene:
    scene = scene_of(TimeOuts(token_gap_ns=8 * SECOND_NS))
    come(scene, on_interruption=on_interruption)
    scene.turn(FirstToken(scene.attempt("r1")))
    return scene


def test_a_stream_that_is_quiet_for_too_long_is_given_up() -> None:
    scene = streaming()
    attempt = scene.attempt("r1")
    assert aborted(quiet_for(scene, 8 * SECOND_NS)) == [attempt]
    assert late(closed(scene)) == (Outcome.FAILED, Phase.TOKEN_GAP)


def test_a_shorter_silence_is_none_of_its_business() -> None:
    scene = streaming()
    assert aborted(quiet_for(scene, 8 * SECOND_NS - 1)) == []


def test_a_quiet_stream_goes_on_elsewhere_where_its_caller_asked_for_that() -> None:
    scene = streaming(OnInterruption.RESTART)
    quiet_for(scene, 9 * SECOND_NS)
    [told] = of(closed(scene), TellRequeued)
    assert told.voids_pieces
    assert told.reason == "b1 gave nothing for 9.0 s after 3 pieces"


def test_what_is_told_of_an_attempt_that_is_over_is_no_error() -> None:
    scene = streaming()
    attempt = scene.attempt("r1")
    scene.ends("r1")
    assert scene.turn(Quiet(attempt, 0, 3, SECOND_NS)) == []


# The whole


def test_the_whole_request_has_its_time_out_where_that_is_before_its_deadline() -> None:
    scene = scene_of()
    come(scene, "running", TimeOuts(total_ns=20 * SECOND_NS))
    come(scene, "r1", TimeOuts(total_ns=10 * SECOND_NS))
    assert finished(scene.wait(10 * SECOND_NS - 1)) == []
    assert late(scene.wait(1)) == (Outcome.EXPIRED, Phase.TOTAL)
    assert late(scene.wait(10 * SECOND_NS)) == (Outcome.EXPIRED, Phase.TOTAL)


def test_a_deadline_before_it_is_a_deadline() -> None:
    scene = scene_of(TimeOuts(total_ns=HOUR_NS))
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))
    [end] = of(scene.wait(MINUTE_NS), Finish)
    assert isinstance(end.error, DeadlineExpired)


def test_a_newer_call_does_not_prolong_it() -> None:
    scene = scene_of(TimeOuts(total_ns=MINUTE_NS))
    scene.turn(arrived("r1", deadline_ns=HOUR_NS))
    scene.wait(30 * SECOND_NS)
    scene.turn(arrived("r1", deadline_ns=2 * HOUR_NS))
    assert late(scene.wait(30 * SECOND_NS)) == (Outcome.EXPIRED, Phase.TOTAL)


def test_a_reload_of_it_holds_for_what_waits_and_not_for_what_runs() -> None:
    scene = scene_of()
    come(scene, "running")
    come(scene)
    scene.wait(5 * SECOND_NS)
    policy = scene.engine.policy
    tight = TimeOutPolicy(of_all=TimeOuts(total_ns=8 * SECOND_NS))
    scene.turn(PolicyChanged(replace(policy, time_outs=tight)))
    assert late(scene.wait(3 * SECOND_NS)) == (Outcome.EXPIRED, Phase.TOTAL)
    come(scene, "r2")
    scene.turn(PolicyChanged(replace(policy, time_outs=TimeOutPolicy())))
    assert finished(scene.wait(MINUTE_NS)) == []
