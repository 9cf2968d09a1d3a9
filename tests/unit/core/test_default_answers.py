"""The operator's default answer in place of an end that its caller would rather not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.core.effects import AbortAttempt, Answer, Effect, Finish, StartAttempt
from broker.core.errors import BackendFailed, BackendRefused, Cancelled, LoadFailed
from broker.core.level import DegradationPolicy, Level
from broker.core.placement import BackendPolicy
from broker.core.requests import OnInterruption, Outcome, RequestKind
from broker.core.stimuli import Arrived, AttemptEnded, FirstToken, LevelAsked, PolicyChanged
from broker.core.story import explain
from broker.core.time_outs import TimeOutPolicy, TimeOuts
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    aborted,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    request,
    resident,
)

KEY = ("a", "r1")
BROKEN = BackendFailed("it broke")
TIME_OUTS = TimeOuts(queue_ns=2 * SECOND_NS, load_ns=2 * SECOND_NS, first_token_ns=2 * SECOND_NS)


def house(
    *,
    time_outs: TimeOuts = TIME_OUTS,
    kinds: frozenset[str] = frozenset(),
    has_general: bool = True,
    tries_max: int = 1,
) -> Scene:
    """A backend that holds "m", and an operator who has answers."""
    scene = Scene(BackendPolicy(name="b1", exclusive=True))
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"))
    policy = scene.engine.policy
    changed = replace(
        policy,
        time_outs=TimeOutPolicy(of_all=time_outs),
        retry=replace(policy.retry, tries_max=tries_max),
        degradation=DegradationPolicy(has_default_answer=has_general, default_kinds=kinds),
    )
    scene.turn(PolicyChanged(changed))
    return scene


def come(
    scene: Scene,
    *,
    model: str = "m",
    accepts: bool = True,
    prompt_type: str = "",
    kind: RequestKind = RequestKind.GENERATE,
    on_interruption: OnInterruption = OnInterruption.FAIL,
) -> list[Effect]:
    spec = replace(
        request("r1", model=model, deadline_ns=scene.now_ns + 10 * SECOND_NS),
        accepts_default=accepts,
        prompt_type=prompt_type,
        kind=kind,
        on_interruption=on_interruption,
    )
    return scene.turn(Arrived(spec))


def queue(scene: Scene) -> list[Effect]:
    scene.turn(Arrived(request("running")))
    come(scene)
    return scene.wait(2 * SECOND_NS - 1) + scene.wait(1)


def load(scene: Scene) -> list[Effect]:
    come(scene, model="n")
    scene.unloaded("m")
    return scene.wait(2 * SECOND_NS)


def load_failed(scene: Scene) -> list[Effect]:
    come(scene, model="n")
    scene.unloaded("m")
    return scene.loaded("n", error=LoadFailed("no memory"))


def no_token(scene: Scene) -> list[Effect]:
    come(scene)
    scene.wait(2 * SECOND_NS)
    return scene.turn(AttemptEnded(scene.attempt("r1"), Cancelled("aborted")))


def failed(scene: Scene) -> list[Effect]:
    come(scene)
    return scene.ends("r1", BROKEN)


@pytest.mark.parametrize(
    ("fail", "why"),
    [
        (queue, "it waited for too long"),
        (load_failed, "its model could not be loaded"),
        (no_token, "its first token took too long"),
        (failed, "every attempt failed"),
    ],
)
def test_it_is_given_in_place_of(fail: Callable[[Scene], list[Effect]], why: str) -> None:
    scene = house()
    effects = fail(scene)
    [answer] = of(effects, Answer)
    assert answer.changes == (f"the operator's default answer, as {why}",)
    assert of(effects, Finish) == [Finish(KEY, Outcome.COMPLETED, None)]
    story = explain(scene.engine, KEY, scene.now_ns)
    assert (story.state, story.changes, story.problem) == ("completed", answer.changes, "")


def test_it_is_given_in_place_of_a_long_load() -> None:
    scene = house(time_outs=TimeOuts(load_ns=2 * SECOND_NS))
    [answer] = of(load(scene), Answer)
    assert answer.changes == ("the operator's default answer, as its model took too long to load",)


def test_it_is_given_when_the_deadline_passes_and_what_runs_is_closed() -> None:
    scene = house(time_outs=TimeOuts())
    come(scene)
    attempt = scene.attempt("r1")
    effects = scene.wait(10 * SECOND_NS)
    [answer] = of(effects, Answer)
    assert answer.changes == ("the operator's default answer, as its deadline passed",)
    assert (aborted(effects), finished(effects)) == ([attempt], [("r1", Outcome.COMPLETED)])
    kinds = [type(each) for each in effects]
    assert kinds.index(Answer) < kinds.index(AbortAttempt) < kinds.index(Finish)
    scene.turn(AttemptEnded(attempt, Cancelled("aborted")))
    assert nothing_remains(scene)


def test_it_is_given_only_once_no_attempt_is_left() -> None:
    scene = house(tries_max=2)
    come(scene)
    assert of(scene.ends("r1", BROKEN), Answer) == []
    assert len(of(scene.wait(SECOND_NS), StartAttempt)) == 1
    assert len(of(scene.ends("r1", BROKEN), Answer)) == 1
    assert nothing_remains(scene)


def test_it_is_given_while_its_next_attempt_has_to_wait() -> None:
    scene = house(tries_max=2, time_outs=TimeOuts(queue_ns=1))
    come(scene)
    scene.ends("r1", BROKEN)
    effects = scene.wait(1)
    assert len(of(effects, Answer)) == 1
    assert finished(effects) == [("r1", Outcome.COMPLETED)]
    assert nothing_remains(scene)


# Where it is not


def test_not_without_leave() -> None:
    scene = house()
    come(scene, accepts=False)
    assert finished(scene.ends("r1", BROKEN)) == [("r1", Outcome.FAILED)]


def test_not_where_the_operator_has_none() -> None:
    scene = house(has_general=False)
    come(scene)
    assert finished(scene.ends("r1", BROKEN)) == [("r1", Outcome.FAILED)]


@pytest.mark.parametrize(("prompt_type", "is_answered"), [("summary", True), ("code", False)])
def test_an_answer_of_its_kind_is_enough(prompt_type: str, is_answered: bool) -> None:
    scene = house(has_general=False, kinds=frozenset({"summary"}))
    come(scene, prompt_type=prompt_type)
    answers = of(scene.ends("r1", BROKEN), Answer)
    assert [each.prompt_type for each in answers] == [prompt_type] * is_answered


@pytest.mark.parametrize(("prompt_type", "is_answered"), [("summary", True), ("code", False)])
def test_an_answer_of_its_kind_is_enough_at_the_critical_level(
    prompt_type: str, is_answered: bool
) -> None:
    scene = house(has_general=False, kinds=frozenset({"summary"}))
    scene.turn(LevelAsked(level=Level.CRITICAL))
    answers = of(come(scene, prompt_type=prompt_type), Answer)
    assert [each.prompt_type for each in answers] == [prompt_type] * is_answered


def test_not_in_place_of_vectors() -> None:
    scene = house()
    come(scene, kind=RequestKind.EMBED)
    assert finished(scene.ends("r1", BROKEN)) == [("r1", Outcome.FAILED)]


def test_not_after_a_piece() -> None:
    scene = house()
    come(scene)
    scene.turn(FirstToken(scene.attempt("r1")))
    assert finished(scene.ends("r1", BROKEN)) == [("r1", Outcome.FAILED)]


def test_not_after_a_piece_that_is_void_by_now() -> None:
    scene = house(tries_max=2)
    come(scene, on_interruption=OnInterruption.RESTART)
    scene.turn(FirstToken(scene.attempt("r1")))
    scene.ends("r1", BROKEN)
    scene.wait(SECOND_NS)
    assert finished(scene.ends("r1", BROKEN)) == [("r1", Outcome.FAILED)]


def test_not_in_place_of_what_its_caller_did() -> None:
    scene = house()
    come(scene)
    refused = BackendRefused("no such option", status=400)
    assert finished(scene.ends("r1", refused)) == [("r1", Outcome.FAILED)]
    come(scene)
    assert finished(scene.turn(cancel("r1"))) == [("r1", Outcome.CANCELLED)]
