"""What a level does to those who come: shorter answers, other models, refusals, default answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.effects import Admit, Answer, Effect, Finish, Refuse, StartAttempt
from broker.core.errors import BrokerError, Degraded, LoadFailed, SmallModelsOnly
from broker.core.level import DegradationPolicy, Level
from broker.core.requests import Criticality, Outcome, RequestKind, RequestSpec, Substitution
from broker.core.stimuli import Arrived, CancelCause
from broker.core.story import explain
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import SECOND_NS, cancel, model, nothing_remains, of, request

SMALL_MAX = 2_000
POLICY = DegradationPolicy(
    small_model_bytes_max=SMALL_MAX, small_models=("tinyllama", "t2"), has_default_answer=True
)
CHAT = frozenset({"completion"})
BIG = model("big", size_bytes=5_000, slots=2)
SMALL = model("small", size_bytes=SMALL_MAX, slots=2)
TINY = model("tinyllama", size_bytes=900, slots=2)


def scene_at(level: Level, *models: Any, policy: DegradationPolicy = POLICY) -> LevelScene:
    """One backend that has these models, or "big" and "small", and this level by hand."""
    scene = LevelScene(degradation=policy)
    scene.open("b1", *(models or (BIG, SMALL)))
    scene.ask(level)
    return scene


def asks(name: str = "r", **changed: Any) -> RequestSpec:
    """A request for "big" but for what is changed."""
    priority = changed.pop("priority", 5)
    return replace(request(name, model=changed.pop("model", "big"), priority=priority), **changed)


def come(scene: LevelScene, spec: RequestSpec) -> list[Effect]:
    return scene.turn(Arrived(spec))


def refusal(effects: list[Effect]) -> BrokerError:
    [refused] = of(effects, Refuse)
    return refused.error


def start_of(effects: list[Effect]) -> StartAttempt:
    [start] = of(effects, StartAttempt)
    return start


def served_by(scene: LevelScene, spec: RequestSpec) -> StartAttempt:
    """The start of a request whose model is loaded for it."""
    effects = come(scene, spec)
    assert not of(effects, Refuse), effects
    record = scene.engine.records[spec.key]
    name = record.model.removesuffix(":latest")
    return start_of(effects + scene.loaded(name))


# Length


@pytest.mark.parametrize(
    ("level", "asked", "most", "words"),
    [
        (Level.NORMAL, 2000, None, ()),
        (Level.LEVEL_1, 2000, 512, ("max_tokens is 512 instead of 2000 (level 1)",)),
        (Level.LEVEL_1, 0, 512, ("max_tokens is 512, as the level is 1",)),
        (Level.LEVEL_1, 512, None, ()),
        (Level.LEVEL_1, 1, None, ()),
        (Level.LEVEL_2, 0, 512, ("max_tokens is 512, as the level is 2",)),
        (Level.CRITICAL, 600, 512, ("max_tokens is 512 instead of 600 (level critical)",)),
    ],
)
def test_answers_are_cut_at_the_level_at_which_they_start(
    level: Level, asked: int, most: int | None, words: tuple[str, ...]
) -> None:
    scene = scene_at(level)
    start = served_by(scene, asks(model="small", output_tokens_max=asked, priority=3))
    assert (start.level, start.output_tokens_max, start.changes) == (level, most, words)
    assert explain(scene.engine, ("a", "r"), scene.now_ns).changes == words


def test_the_level_at_dispatch_counts_and_not_that_of_the_arrival() -> None:
    scene = scene_at(Level.LEVEL_1)
    come(scene, asks(model="small"))
    scene.ask(Level.NORMAL)
    start = start_of(scene.loaded("small"))
    assert (start.level, start.output_tokens_max, start.changes) == (Level.NORMAL, None, ())


def test_vectors_have_no_length_to_cut() -> None:
    start = served_by(scene_at(Level.LEVEL_1), asks(model="small", kind=RequestKind.EMBED))
    assert (start.level, start.output_tokens_max) == (Level.LEVEL_1, None)


def test_a_tighter_length_of_the_policy_holds_from_a_reload_on() -> None:
    scene = scene_at(Level.LEVEL_1)
    scene.decide(replace(POLICY, output_tokens_max=64))
    assert served_by(scene, asks(model="small", output_tokens_max=100)).output_tokens_max == 64


def test_tokens_are_reserved_for_the_answer_as_it_is_cut() -> None:
    scene = scene_at(Level.NORMAL, model("small", size_bytes=1))
    served_by(scene, asks("first", model="small"))
    scene.ends("first")
    scene.measured(model="small", prompt_tokens=25, output_tokens=2000)
    types = (AgentTypePolicy(name="any", match=("*",), tokens=BucketPolicy(per_minute=100_000.0)),)
    scene.reload(agents=AgentsPolicy(types=types, default_type="any"))
    reserved = []
    for level in (Level.NORMAL, Level.LEVEL_1):
        scene.ask(level)
        come(scene, asks(level.word, model="small", deadline_ns=scene.now_ns + 600 * SECOND_NS))
        reserved.append(scene.engine.records["a", level.word].passage.tokens_reserved)
    assert reserved[0] > 1500 > 600 > reserved[1] > 400


# Not critical


@pytest.mark.parametrize(
    ("priority", "criticality", "comes_in"),
    [
        (7, Criticality.NORMAL, True),
        (8, Criticality.NORMAL, False),
        (10, Criticality.NORMAL, False),
        (1, Criticality.BATCH, False),
        (7, Criticality.CRITICAL, True),
        (8, Criticality.CRITICAL, False),
    ],
)
@pytest.mark.parametrize("level", [Level.LEVEL_1, Level.LEVEL_2, Level.CRITICAL])
def test_from_level_2_on_what_is_not_critical_is_refused(
    level: Level, priority: int, criticality: Criticality, comes_in: bool
) -> None:
    scene = scene_at(level)
    effects = come(scene, asks(model="small", priority=priority, criticality=criticality))
    if comes_in or level is Level.LEVEL_1:
        assert of(effects, Admit)
        return
    error = refusal(effects)
    assert isinstance(error, Degraded)
    assert error.retry_after_ns == scene.engine.degradation.retry_after_ns(scene.now_ns)
    assert scene.engine.tally.refusals == {"DEGRADED": 1}


def test_what_the_level_refuses_gets_back_what_it_paid() -> None:
    types = (AgentTypePolicy(name="any", match=("*",), requests=BucketPolicy(per_minute=6.0)),)
    scene = scene_at(Level.LEVEL_2)
    scene.reload(agents=AgentsPolicy(types=types, default_type="any"))
    for number in range(20):
        assert isinstance(refusal(come(scene, asks(str(number), priority=9))), Degraded)
    gates = explain(scene.engine, ("a", "0"), scene.now_ns).gates
    assert [(each.name, each.passed) for each in gates[-2:]] == [
        ("request bucket", True),
        ("level", False),
    ]
    assert of(come(scene, asks("good", model="small")), Admit)


# Small models only


def test_a_small_model_answers_for_a_large_one_and_says_so() -> None:
    scene = scene_at(Level.LEVEL_2, BIG, TINY)
    start = served_by(scene, asks())
    assert (start.model, start.substituted_for) == ("tinyllama:latest", "big")
    words = "model is tinyllama:latest instead of big: only small models run"
    assert words in start.changes
    gates = {each.name: each for each in explain(scene.engine, ("a", "r"), 0).gates}
    assert "tinyllama:latest answers instead of big" in gates["level"].detail


@pytest.mark.parametrize(
    ("fallbacks", "substitution", "chosen"),
    [
        ((), Substitution.ANY, "small"),  # resident
        (("t2",), Substitution.ANY, "t2"),
        (("big2", "nowhere", "t2", "small"), Substitution.FALLBACKS, "t2"),
        (("big2",), Substitution.ANY, "small"),
        (("big2",), Substitution.FALLBACKS, None),
        ((), Substitution.FALLBACKS, None),
        ((), Substitution.NEVER, None),
    ],
)
def test_the_callers_fallbacks_come_first_then_a_resident_one(
    fallbacks: tuple[str, ...], substitution: Substitution, chosen: str | None
) -> None:
    big2, t2 = model("big2", size_bytes=9_000), model("t2", size_bytes=100_000)
    scene = scene_at(Level.NORMAL, BIG, big2, TINY, SMALL, t2)
    come(scene, asks("first", model="small"))
    scene.loaded("small")
    scene.ask(Level.LEVEL_2)
    effects = come(scene, asks(fallback_models=fallbacks, substitution=substitution))
    if chosen is None:
        error = refusal(effects)
        assert isinstance(error, SmallModelsOnly)
        assert error.retry_after_ns
        assert "big:latest is not one" in error.message
    else:
        assert scene.engine.records["a", "r"].model == f"{chosen}:latest"


def test_the_first_small_model_of_the_policy_that_exists_is_the_last_resort() -> None:
    scene = scene_at(Level.LEVEL_2, BIG, SMALL, model("t2", size_bytes=100_000))
    come(scene, asks())
    assert scene.engine.records["a", "r"].model == "t2:latest"  # small by its name alone


@pytest.mark.parametrize(
    ("small", "changed"),
    [
        (model("tinyllama", size_bytes=1, capabilities=CHAT), {"needs": frozenset({"tools"})}),
        (model("tinyllama", size_bytes=1, num_ctx=4096), {"num_ctx_needed": 8_000}),
        (model("tinyllama", size_bytes=1), {"kind": RequestKind.EMBED}),
    ],
)
def test_a_small_model_that_cannot_do_it_is_none(small: Any, changed: dict[str, Any]) -> None:
    big = model("big", size_bytes=5_000, num_ctx_max=16_384)
    scene = scene_at(Level.LEVEL_2, big, small)
    error = refusal(come(scene, asks(**changed)))
    assert isinstance(error, SmallModelsOnly)
    assert "answers" not in explain(scene.engine, ("a", "r"), 0).gates[-1].detail


def test_a_small_model_that_could_not_be_loaded_just_now_is_none() -> None:
    scene = scene_at(Level.LEVEL_2, BIG, TINY)
    come(scene, asks("first"))
    scene.loaded("tinyllama", error=LoadFailed("out of memory"))
    assert isinstance(refusal(come(scene, asks("second"))), SmallModelsOnly)


def test_a_small_model_that_was_asked_for_is_what_answers() -> None:
    start = served_by(scene_at(Level.LEVEL_2), asks(model="small"))
    assert (start.model, start.substituted_for) == ("small:latest", "")


# The default answer


@pytest.mark.parametrize(
    ("changed", "is_answered"),
    [
        ({}, True),
        ({"model": "big"}, True),
        ({"priority": 4}, True),
        ({"priority": 9}, True),  # else it would be refused
        ({"priority": 3}, False),
        ({"accepts_default": False}, False),
        ({"kind": RequestKind.EMBED}, False),
        ({"model": "big", "priority": 2, "substitution": Substitution.NEVER}, True),
    ],
)
def test_at_the_critical_level_what_would_be_held_or_refused_is_answered_where_it_may(
    changed: dict[str, Any], is_answered: bool
) -> None:
    scene = scene_at(Level.CRITICAL)
    effects = come(scene, asks(**{"model": "small", "accepts_default": True, **changed}))
    if not is_answered:
        assert of(effects, Admit)
        assert not of(effects, Answer)
        return
    assert [type(each) for each in effects[:3]] == [Admit, Answer, Finish]
    [answer], [finish] = of(effects, Answer), of(effects, Finish)
    assert (answer.level, answer.queue_wait_ns) == (Level.CRITICAL, 0)
    assert answer.changes == ("the operator's default answer, as the level is critical",)
    assert (finish.outcome, finish.error) == (Outcome.COMPLETED, None)
    told = explain(scene.engine, ("a", "r"), 0)
    assert (told.state, told.changes) == ("completed", answer.changes)
    assert [each.name for each in told.gates][-1] == "level"
    assert nothing_remains(scene)


@pytest.mark.parametrize("level", [Level.NORMAL, Level.LEVEL_1, Level.LEVEL_2])
def test_below_the_critical_level_nobody_gets_the_default_answer(level: Level) -> None:
    effects = come(scene_at(level), asks(model="small", accepts_default=True))
    assert not of(effects, Answer)


def test_without_a_default_answer_nobody_gets_it() -> None:
    scene = scene_at(Level.CRITICAL, policy=replace(POLICY, has_default_answer=False))
    assert not of(come(scene, asks(model="small", accepts_default=True)), Answer)


def test_the_default_answer_costs_a_request_and_no_tokens() -> None:
    per_minute = BucketPolicy(per_minute=60.0)
    kind = AgentTypePolicy(name="any", match=("*",), requests=per_minute, tokens=per_minute)
    scene = scene_at(Level.CRITICAL)
    scene.reload(agents=AgentsPolicy(types=(kind,), default_type="any"))
    come(scene, asks(model="small", accepts_default=True))
    buckets = scene.engine.agents.quota("a", 1, scene.now_ns).buckets
    assert sorted(each.left for each in buckets) == [59.0, 60.0]


def test_it_cannot_be_cancelled_after_it_was_given() -> None:
    scene = scene_at(Level.CRITICAL)
    come(scene, asks(model="small", accepts_default=True))
    assert not of(scene.turn(cancel("r", CancelCause.CLIENT_GONE)), Finish)
