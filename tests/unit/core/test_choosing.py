"""A request that names an alias or only requirements gets a model where it comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import Finish, StartAttempt, TakeOver
from broker.core.errors import CapabilityMissing, ModelUnknown, NoBackend, SmallModelsOnly
from broker.core.level import Level
from broker.core.model_errors import NoModelFits
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestSpec, Substitution
from broker.core.requirements import Alias, Preference, Requirements
from broker.core.resolution import resolve
from broker.core.selection import JUDGED_AT_ONCE, Selection
from broker.core.stimuli import Arrived, LevelAsked, ModelsListed, PolicyChanged
from broker.core.story import explain
from tests.unit.core.choosing_scene import (
    asks,
    embedder,
    embeds,
    having,
    holding,
    llm,
    starts,
    waits_for,
    with_aliases,
)
from tests.unit.core.failover_scene import BROKE, ready
from tests.unit.core.gate_words import is_let_in, refused
from tests.unit.core.scene import Scene, of, resident

GB = 1_000_000_000


def wants(*can: str, **more: object) -> Requirements:
    return Requirements(capabilities=frozenset(can), **more)  # type: ignore[arg-type]


# Aliases


def test_fast_is_what_is_loaded_and_free() -> None:
    scene = holding(llm("m", size_bytes=9000), llm("n"))
    effects = scene.turn(Arrived(asks("x", "fast")))
    assert starts(effects) == {"x": "m"}
    [start] = of(effects, StartAttempt)
    assert start.substituted_for == ""
    assert start.changes == ()
    assert start.chosen_because == "m:latest: the soonest answer of 2 that fit, resident on b1"


def test_fast_goes_to_what_is_free_while_others_work() -> None:
    scene = with_aliases(Scene(BackendPolicy(name="b1", resident_max=2, exclusive=True)))
    scene.open("b1", llm("m"), llm("n"))
    scene.seen("b1", resident("m"), resident("n"))
    found = [starts(scene.turn(Arrived(asks(name, "fast")))) for name in ("x", "y")]
    assert found == [{"x": "m"}, {"y": "n"}]


def test_fast_finds_what_is_loaded_by_another_of_its_names() -> None:
    """The same file under a name whose template can do more."""
    plain, able = llm("plain", size_bytes=9000), llm("able", "tools", size_bytes=9000)
    able = replace(able, runner=plain.runner)
    smaller = [llm(f"s{number:02}", "tools") for number in range(2 * JUDGED_AT_ONCE)]
    scene = holding(plain, able, *smaller)
    assert starts(scene.turn(Arrived(asks("x", wants=wants("tools"))))) == {"x": "able"}


def test_small_is_the_smallest_though_another_is_loaded() -> None:
    scene = holding(llm("m", size_bytes=9000), llm("n"))
    assert is_let_in(scene.turn(Arrived(asks("x", "small"))))
    assert waits_for(scene, "x") == "n"


def test_an_alias_is_known_whatever_its_case() -> None:
    scene = holding(llm("m"))
    assert starts(scene.turn(Arrived(asks("x", "FAST")))) == {"x": "m"}


def test_the_bare_word_is_the_alias_and_with_its_tag_a_model_is_named() -> None:
    scene = holding(llm("m"), llm("fast"))
    assert starts(scene.turn(Arrived(asks("x", "fast")))) == {"x": "m"}
    scene.turn(Arrived(asks("y", "fast:latest")))
    assert waits_for(scene, "y") == "fast"


def test_a_list_is_in_its_order() -> None:
    scene = having(llm("c"), llm("b"))  # "a" is on no backend
    scene.turn(Arrived(asks("x", "coder")))
    assert waits_for(scene, "x") == "b"
    effects = scene.loaded("b")
    [start] = of(effects, StartAttempt)
    assert start.chosen_because == (
        "b:latest: the first on the list that can, to be loaded on b1; a is on no backend"
    )


def test_a_list_skips_what_cannot_do_this() -> None:
    scene = having(llm("a"), llm("b", "tools"))
    scene.turn(Arrived(asks("x", "coder", needs=frozenset({"completion", "tools"}))))
    assert waits_for(scene, "x") == "b"


def test_the_requirements_of_alias_and_request_hold_both() -> None:
    scene = having(llm("m", "tools"), llm("n", "tools", "vision"), llm("o", "vision"))
    scene.turn(Arrived(asks("x", "tools", wants=wants("vision"))))
    assert waits_for(scene, "x") == "n"


def test_aliases_are_those_of_the_newest_configuration() -> None:
    scene = holding(llm("m"))
    new = {"quick": Alias(models=("m",))}
    scene.turn(PolicyChanged(replace(scene.engine.policy, aliases=new)))
    assert starts(scene.turn(Arrived(asks("x", "quick")))) == {"x": "m"}
    scene.ends("x")
    assert isinstance(refused(scene.turn(Arrived(asks("y", "fast")))), ModelUnknown)


# Requirements


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (wants("tools", prefer=Preference.SMALL), "tools-s"),
        (wants("tools", prefer=Preference.LARGE), "tools-l"),
        (wants(prefer=Preference.LARGE, size_bytes_max=5000), "plain-m"),
        (wants("tools", prefer=Preference.LARGE, memory_bytes_max=5000), "tools-s"),
    ],
)
def test_of_what_fits_the_preferred_is_chosen(wanted: Requirements, expected: str) -> None:
    scene = having(
        llm("tools-s", "tools", size_bytes=2000),
        llm("tools-l", "tools", size_bytes=4800),  # with a fifth more in memory
        llm("plain-m", size_bytes=4900),
        llm("plain-l", size_bytes=9000),
        embedder("vectors", size_bytes=10),
    )
    scene.turn(Arrived(asks("x", wants=wanted)))
    assert waits_for(scene, "x") == expected


def test_vectors_are_made_by_what_makes_vectors_and_answers_by_what_answers() -> None:
    scene = holding(embedder("e"), llm("m", size_bytes=9000))
    scene.turn(Arrived(asks("x", "small")))
    assert waits_for(scene, "x") == "m"
    scene.turn(Arrived(embeds("y", wants=wants())))
    assert waits_for(scene, "y") == "e"


def test_vectors_are_made_by_the_same_model_whatever_is_loaded() -> None:
    scene = holding(embedder("l", size_bytes=5000), embedder("s", size_bytes=1000))
    for number in range(3):
        scene.turn(Arrived(embeds(f"x{number}", "fast")))
        assert waits_for(scene, f"x{number}") == "s"
    assert scene.engine.records["a", "x0"].spec.fallback_models == ()


def test_who_judges_is_never_chosen() -> None:
    scene = holding(llm("llama-guard3"), llm("m"))
    scene.turn(Arrived(asks("x", "fast")))
    assert waits_for(scene, "x") == "m"


def test_what_nothing_is_gets_an_error_that_says_what_is_nearest() -> None:
    scene = having(llm("m"), llm("n", "tools"))
    error = refused(scene.turn(Arrived(asks("x", wants=wants("tools", "vision")))))
    assert isinstance(error, NoModelFits)
    assert error.message == "no model fits: n:latest lacks vision; m:latest lacks tools, vision"


def test_while_a_backend_may_have_it_nothing_is_said_for_good() -> None:
    scene = with_aliases(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", llm("m"))
    error = refused(scene.turn(Arrived(asks("x", wants=wants("tools")))))
    assert isinstance(error, NoBackend)
    assert error.retry_after_ns


# Models that are named


def test_a_named_model_must_be_as_is_required_and_the_nearest_is_told() -> None:
    scene = having(llm("big", size_bytes=50 * GB), llm("bag", size_bytes=GB), llm("other"))
    error = refused(scene.turn(Arrived(asks("x", "big", wants=wants(size_bytes_max=10 * GB)))))
    assert isinstance(error, NoModelFits)
    assert error.nearest[0] == "bag:latest"
    assert error.message.startswith("it does not fit: big:latest has 50 GB, more than 10 GB")


def test_what_cannot_do_it_is_refused_before_a_load_with_the_nearest_that_can() -> None:
    scene = having(llm("qwen2"), llm("qwen3", "tools"), llm("llama", "tools"))
    effects = scene.turn(Arrived(asks("x", "qwen2", needs=frozenset({"completion", "tools"}))))
    error = refused(effects)
    assert isinstance(error, CapabilityMissing)
    assert error.nearest == ("qwen3:latest", "llama:latest")
    assert "nearest that can: qwen3:latest" in error.message
    assert len(effects) == 1


def test_a_fallback_must_be_as_is_required_too() -> None:
    scene = ready(having(llm("m"), llm("n", size_bytes=50 * GB), llm("o")))
    scene.turn(ModelsListed("b1", (llm("n", size_bytes=50 * GB), llm("o"))))
    spec = asks("x", "m", wants=wants(size_bytes_max=GB), fallbacks=("n", "o"))
    scene.turn(Arrived(spec))
    assert waits_for(scene, "x") == "o"


def test_a_small_model_in_place_of_another_must_be_as_is_required_too() -> None:
    scene = holding(llm("s"), llm("m", "tools", size_bytes=50 * GB), llm("t", "tools"))
    scene.turn(LevelAsked(level=Level.LEVEL_2, until_ns=None))
    spec = asks("x", "m", wants=wants("tools"), fallbacks=("s", "t"))
    scene.turn(Arrived(spec))
    assert waits_for(scene, "x") == "t"


# The level


def test_what_the_level_does_not_let_answer_is_not_chosen() -> None:
    scene = holding(llm("m", size_bytes=50 * GB), llm("s"))
    scene.turn(LevelAsked(level=Level.LEVEL_2, until_ns=None))
    effects = scene.turn(Arrived(asks("x", "fast")))
    assert waits_for(scene, "x") == "s"
    assert is_let_in(effects)
    assert scene.engine.records["a", "x"].substituted_for == ""


def test_where_no_small_model_fits_it_is_refused_as_one_that_names_a_large_one() -> None:
    scene = holding(llm("m", "tools", size_bytes=50 * GB), llm("s"))
    scene.turn(LevelAsked(level=Level.LEVEL_2, until_ns=None))
    error = refused(scene.turn(Arrived(asks("x", wants=wants("tools")))))
    assert error.reason == "SMALL_MODELS_ONLY"


def test_what_waits_is_chosen_anew_when_the_level_changes() -> None:
    scene = holding(llm("m", size_bytes=50 * GB), llm("s"))
    scene.turn(Arrived(asks("runs", "m")))
    scene.turn(Arrived(asks("x", wants=wants(prefer=Preference.LARGE))))
    assert waits_for(scene, "x") == "m"
    scene.turn(LevelAsked(level=Level.LEVEL_2, until_ns=None))
    record = scene.engine.records["a", "x"]
    assert (waits_for(scene, "x"), record.substituted_for, record.is_for_level) == ("s", "", False)
    assert record.because.startswith("s:latest: the largest of 2 that fit")


# What waits


def test_what_waits_is_chosen_anew_when_its_model_is_gone() -> None:
    scene = holding(llm("m"), llm("n"))
    scene.turn(Arrived(asks("runs", "m")))
    scene.turn(Arrived(asks("x", wants=wants(prefer=Preference.SMALL))))
    scene.turn(Arrived(asks("y", wants=wants(), substitution=Substitution.NEVER)))
    assert [waits_for(scene, name) for name in "xy"] == ["m", "m"]
    scene.turn(ModelsListed("b1", (llm("n"),)))
    assert waits_for(scene, "x") == "n"
    assert ("a", "y") not in scene.engine.records  # its choice is kept, and gone for good


def test_what_waits_is_chosen_anew_when_calls_of_its_model_fail_too_often() -> None:
    scene = ready(holding(llm("m"), llm("n")))
    scene.turn(Arrived(asks("f1", "m")))
    scene.turn(Arrived(asks("f2", "m")))
    scene.turn(Arrived(asks("x", "small")))
    scene.ends("f1", BROKE)
    scene.ends("f2", BROKE)
    assert waits_for(scene, "x") == "n"
    record = scene.engine.records["a", "x"]
    assert "calls of m:latest have failed too often lately" in record.because


def test_of_an_alias_that_is_gone_what_it_meant_is_kept() -> None:
    scene = holding(llm("m"), llm("a"), llm("b"), llm("other", size_bytes=1))
    scene.turn(Arrived(asks("runs", "m")))
    scene.turn(Arrived(asks("x", "coder")))
    scene.turn(Arrived(asks("y", "coder")))
    with_aliases(scene, {})
    assert waits_for(scene, "x") == "a"
    scene.turn(ModelsListed("b1", (llm("m"), llm("b"), llm("other", size_bytes=1))))
    assert waits_for(scene, "x") == "b"  # the next on the list, as it was
    ends = scene.turn(ModelsListed("b1", (llm("m"), llm("other", size_bytes=1))))
    assert [type(each.error) for each in of(ends, Finish)] == [ModelUnknown, ModelUnknown]


def test_what_comes_in_the_place_of_its_model_must_be_as_is_required_too() -> None:
    scene = holding(llm("m"), llm("a", "vision"), llm("n", size_bytes=1500))
    scene.turn(Arrived(asks("runs", "m")))
    scene.turn(Arrived(asks("sees", "a", wants=wants("vision"))))
    scene.turn(Arrived(asks("named", "a", wants=wants(size_bytes_max=2000))))
    scene.turn(Arrived(asks("any", wants=wants(size_bytes_max=1200, prefer=Preference.SMALL))))
    scene.turn(Arrived(asks("plain", "a")))
    assert waits_for(scene, "any") == "a"
    another = replace(llm("a", size_bytes=70 * GB), runner="another")
    small = llm("small", size_bytes=1100)
    ends = scene.turn(ModelsListed("b1", (llm("m", size_bytes=1300), another, small)))
    errors = {each.key[1]: each.error for each in of(ends, Finish)}
    assert {name: type(each) for name, each in errors.items()} == {
        "sees": CapabilityMissing,
        "named": NoModelFits,
    }
    assert isinstance(errors["named"], NoModelFits)
    assert "small:latest" in errors["named"].nearest
    assert [waits_for(scene, name) for name in ("any", "plain")] == ["small", "a"]


def test_what_can_still_answer_stays() -> None:
    scene = holding(llm("m"), llm("n"))
    scene.turn(Arrived(asks("runs", "m")))
    scene.turn(Arrived(asks("x", "fast")))
    assert waits_for(scene, "x") == "m"
    scene.turn(ModelsListed("b1", (llm("m"), llm("n"), llm("tiny", size_bytes=1))))
    assert waits_for(scene, "x") == "m"


def test_the_same_request_again_takes_it_over_whatever_was_chosen() -> None:
    scene = holding(llm("m"))
    scene.turn(Arrived(asks("x", "fast")))
    effects = scene.turn(Arrived(asks("x", "fast")))
    assert of(effects, TakeOver)


def test_a_request_that_names_a_model_is_left_as_it_came() -> None:
    scene = holding(llm("m"))
    spec = asks("x", "m")
    [start] = of(scene.turn(Arrived(spec)), StartAttempt)
    record = scene.engine.records["a", "x"]
    assert record.spec is spec
    assert (record.sent, start.chosen_because) == (None, "")


def test_its_story_says_what_was_asked_for_and_why_what_was_chosen() -> None:
    scene = holding(llm("m"))
    scene.turn(Arrived(asks("x", "fast")))
    story = explain(scene.engine, ("a", "x"), scene.now_ns)
    assert (story.model, story.chosen_because) == (
        "fast",
        "m:latest: the only one that fits, resident on b1",
    )


# Without a request


def test_what_would_answer_is_told_without_a_request() -> None:
    scene = holding(llm("m"), llm("n", size_bytes=5000), embedder("e"))
    found = resolve(scene.engine, "fast", None, scene.now_ns)
    assert (found.model, found.alternatives) == ("m:latest", ("n:latest",))
    assert [each.name for each in found.rejected] == ["e:latest"]
    assert resolve(scene.engine, "", wants("embedding"), scene.now_ns).model == "e:latest"
    named = resolve(scene.engine, "n", None, scene.now_ns)
    assert named.because == "n:latest: named, to be loaded on b1"
    with pytest.raises(ModelUnknown):
        resolve(scene.engine, "z", None, scene.now_ns)
    with pytest.raises(CapabilityMissing):
        resolve(scene.engine, "n", wants("vision"), scene.now_ns)


def test_what_would_answer_is_what_the_level_lets_answer() -> None:
    scene = holding(llm("m", size_bytes=50 * GB), llm("s"))
    scene.turn(LevelAsked(level=Level.LEVEL_2, until_ns=None))
    assert resolve(scene.engine, "fast", None, scene.now_ns).model == "s:latest"
    with pytest.raises(SmallModelsOnly):  # as a request that names it: "s" is not loaded
        resolve(scene.engine, "m", None, scene.now_ns)
    scene.seen("b1", resident("s"))
    assert resolve(scene.engine, "m", None, scene.now_ns).model == "s:latest"


def test_under_one_name_two_backends_may_have_different_models() -> None:
    scene = with_aliases(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", llm("m", "tools"))
    scene.open("b2", llm("m"), llm("n", "tools", size_bytes=9000))
    found = resolve(scene.engine, "", wants("tools", prefer=Preference.SMALL), scene.now_ns)
    assert found.because.startswith("m:latest: the smallest of 2 that fit, to be loaded on b1")
    scene.down("b1")
    found = resolve(scene.engine, "", wants("tools", prefer=Preference.SMALL), scene.now_ns)
    assert found.model == "n:latest"


def test_for_many_that_want_the_same_it_is_chosen_anew_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = holding(llm("m"), llm("n"))
    scene.turn(Arrived(asks("runs", "m")))
    for number in range(20):
        scene.turn(Arrived(asks(f"x{number}", "small", agent=f"a{number}")))
    chosen = list[str]()
    select = scene.engine.choosing.select

    def counted(spec: RequestSpec, now_ns: int, waits_for: str = "") -> Selection:
        chosen.append(spec.model)
        return select(spec, now_ns, waits_for)

    monkeypatch.setattr(scene.engine.choosing, "select", counted)
    scene.turn(ModelsListed("b1", (llm("n"),)))
    assert {waits_for(scene, f"x{number}", f"a{number}") for number in range(20)} == {"n"}
    assert chosen == ["small"]
