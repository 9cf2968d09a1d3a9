"""Where a model cannot be had: another backend, or a fallback of the caller's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.breaker import BreakerState
from broker.core.effects import StartAttempt, TellBreaker
from broker.core.errors import CircuitOpen, LoadFailed, ModelUnknown, NoBackend
from broker.core.level import Level
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestKind, Substitution
from broker.core.stimuli import Arrived, LevelAsked, ModelsListed, PolicyChanged
from tests.unit.core.failover_scene import (
    BROKE,
    OPEN_NS,
    fails,
    on_what,
    ready,
    served,
    serving_m,
    spec_with,
    with_fallbacks,
    words_to,
)
from tests.unit.core.gate_words import is_let_in, refused
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    started,
    switches,
)


def two_backends() -> Scene:
    """Both have "m" and "n"; "m" is loaded on b1."""
    scene = ready(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    for name in ("b1", "b2"):
        scene.open(name, model("m"), model("n"))
    served(scene, "m", "b1")
    return scene


# Another backend


def test_what_waits_for_a_broken_model_is_served_by_another_backend() -> None:
    scene = two_backends()
    fails(scene, "x1")
    scene.turn(arrived("x2"))
    assert is_let_in(scene.turn(arrived("waits")))
    effects = scene.ends("x2", BROKE)
    assert (started(effects), switches(effects)) == ([], ["load m on b2"])
    assert on_what(scene.loaded("m", "b2")) == [("waits", "m:latest", "b2")]


def test_the_other_backend_makes_room_for_it() -> None:
    scene = two_backends()
    scene.turn(arrived("n1", model="n"))
    scene.loaded("n", "b2")
    scene.ends("n1")
    effects = fails(scene, "x1", "x2") + scene.turn(arrived("r"))
    assert switches(effects) == ["unload n on b2"]


def test_a_newcomer_is_let_in_while_any_backend_takes_its_model() -> None:
    scene = two_backends()
    fails(scene, "x1", "x2")
    assert is_let_in(scene.turn(arrived("r")))


def test_another_backend_has_it_under_the_same_name_as_another_runner() -> None:
    scene = ready(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", model("m"))
    served(scene, "m", "b1")
    scene.open("b2", model("m", runner="blob-other"))
    fails(scene, "x1")
    scene.turn(arrived("x2"))
    scene.turn(arrived("waits"))
    effects = scene.ends("x2", BROKE)
    assert switches(effects) == ["load m on b2"]
    effects = scene.loaded("m", "b2")
    [start] = of(effects, StartAttempt)
    assert (start.key[1], start.substituted_for, start.changes) == ("waits", "", ())


# Newcomers


def test_a_newcomer_without_any_way_hears_when_the_next_call_is_let_through() -> None:
    scene = serving_m()
    fails(scene, "x1", "x2")
    scene.wait(4 * SECOND_NS)
    error = refused(scene.turn(arrived("r")))
    assert isinstance(error, CircuitOpen)
    assert error.retry_after_ns == 6 * SECOND_NS
    assert error.message == (
        "calls of m:latest on b1 have failed too often lately: the next is let through in 6 s"
    )
    scene.wait(error.retry_after_ns)
    assert started(scene.turn(arrived("r"))) == ["r"]


def test_while_a_probe_runs_a_newcomer_waits_for_its_outcome() -> None:
    scene = serving_m()
    fails(scene, "x1", "x2")
    scene.wait(OPEN_NS)
    assert started(scene.turn(arrived("probe"))) == ["probe"]
    effects = scene.turn(arrived("r"))
    assert is_let_in(effects)
    assert words_to(effects, "r") == (
        "BREAKER",
        "the outcome of a try: calls of m:latest on b1 have failed too often lately",
    )
    assert started(scene.ends("probe")) == ["r"]


def test_a_newcomer_gets_its_fallback_and_is_told_why() -> None:
    scene = serving_m(model("n"))
    fails(scene, "x1", "x2")
    assert switches(scene.turn(with_fallbacks("r", "n"))) == ["load n on b1"]
    [start] = of(scene.loaded("n"), StartAttempt)
    assert (start.model, start.substituted_for) == ("n:latest", "m")
    assert start.changes == (
        "model is n:latest instead of m: calls of m have failed too often lately",
    )


def test_the_fallback_has_room_though_somebody_waits_for_the_broken_model() -> None:
    """What nothing may be started of keeps no other from its turn."""
    scene = serving_m(model("n"), resident_max=1)
    fails(scene, "x1")
    scene.turn(arrived("x2"))
    scene.turn(arrived("waits"))
    scene.ends("x2", BROKE)
    assert switches(scene.turn(with_fallbacks("r", "n"))) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]
    assert started(scene.loaded("n")) == ["r"]


def test_fallbacks_are_tried_in_the_callers_order_and_only_those_that_can_do_it() -> None:
    able = frozenset({"completion", "tools"})
    scene = serving_m(
        model("unable", capabilities=frozenset({"completion"})),
        model("small", num_ctx=4096),
        model("n", capabilities=able, num_ctx_max=16_384),
        model("o", capabilities=able, num_ctx_max=16_384),
    )
    scene.turn(ModelsListed("b1", (*scene.engine.backends["b1"].models.values(),)))
    fails(scene, "x1", "x2")
    spec = replace(
        spec_with("r", "nowhere", "unable", "small", "n", "o"),
        needs=frozenset({"tools"}),
        num_ctx_needed=0,
    )
    assert switches(scene.turn(Arrived(spec))) == ["load small on b1"]  # it tells no capabilities
    scene.loaded("small")
    spec = replace(spec, key=("a", "r2"), fallback_models=("unable", "o", "n"))
    scene.turn(Arrived(spec))
    assert scene.engine.records["a", "r2"].model == "o:latest"


def test_a_fallback_that_is_broken_itself_is_passed_over() -> None:
    scene = serving_m(model("n"), model("o"))
    served(scene, "n", "b1")
    fails(scene, "x1", "x2")
    fails(scene, "y1", "y2", model="n")
    scene.turn(with_fallbacks("r", "n", "o"))
    assert scene.engine.records["a", "r"].model == "o:latest"
    error = refused(scene.turn(with_fallbacks("r2", "n")))
    assert isinstance(error, CircuitOpen)


@pytest.mark.parametrize("kind", ["never", "embed"])
def test_who_may_not_be_answered_by_another_is_refused(kind: str) -> None:
    scene = serving_m(model("n"))
    fails(scene, "x1", "x2")
    spec = spec_with("r", "n", substitution=Substitution.FALLBACKS)
    if kind == "never":
        spec = replace(spec, substitution=Substitution.NEVER)
    else:
        spec = replace(spec, kind=RequestKind.EMBED)
    assert isinstance(refused(scene.turn(Arrived(spec))), CircuitOpen)


def test_a_model_whose_load_failed_gives_way_to_a_fallback_and_else_is_refused() -> None:
    scene = serving_m(model("n"))
    state = scene.engine.backends["b1"]
    state.residents.clear()
    state.held_until_ns["blob-m"] = scene.now_ns + 7 * SECOND_NS
    error = refused(scene.turn(arrived("r")))
    assert isinstance(error, LoadFailed)
    assert error.retry_after_ns == 7 * SECOND_NS
    scene.turn(with_fallbacks("r", "n"))
    record = scene.engine.records["a", "r"]
    assert (record.model, record.instead) == ("n:latest", "m could not be loaded")


def test_a_model_whose_backend_drains_gives_way_to_a_fallback_and_else_is_refused() -> None:
    scene = ready(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", model("m"))
    scene.open("b2", model("n"))
    scene.engine.backends["b1"].is_draining = True
    error = refused(scene.turn(arrived("r")))
    assert isinstance(error, NoBackend)
    assert error.message.startswith("b1, which has m:latest, is being drained")
    scene.turn(with_fallbacks("r", "n"))
    record = scene.engine.records["a", "r"]
    assert (record.model, record.instead) == ("n:latest", "nothing is started on b1, which has m")


def test_a_model_that_is_being_cured_gives_way_to_a_fallback_and_else_is_waited_for() -> None:
    scene = serving_m(model("n"))
    scene.engine.backends["b1"].healing.add("blob-m")
    effects = scene.turn(arrived("r"))
    assert words_to(effects, "r") == ("HEALING", "m:latest to be cured on b1")
    scene.turn(with_fallbacks("r2", "n"))
    record = scene.engine.records["a", "r2"]
    assert (record.model, record.instead) == ("n:latest", "m is being cured")


# A backend that comes back


def test_a_backend_that_was_away_and_is_back_has_no_open_breakers() -> None:
    scene = serving_m()
    fails(scene, "x1", "x2")
    scene.down("b1")
    [told] = of(scene.up("b1"), TellBreaker)
    assert told.after is BreakerState.CLOSED
    assert started(scene.turn(arrived("r"))) == ["r"]


def test_what_was_counted_before_a_backend_was_away_does_not_count_after_it() -> None:
    scene = serving_m()
    fails(scene, "x1")
    scene.down("b1")
    scene.up("b1")
    assert of(fails(scene, "x2"), TellBreaker) == []
    assert len(of(fails(scene, "x3"), TellBreaker)) == 1


def test_a_model_unknown_everywhere_is_unknown_whatever_is_broken() -> None:
    scene = serving_m()
    fails(scene, "x1", "x2")
    assert isinstance(refused(scene.turn(arrived("r", model="nope"))), ModelUnknown)


def test_of_a_backend_that_is_taken_out_no_breaker_remains() -> None:
    scene = two_backends()
    fails(scene, "x1", "x2")
    scene.seen("b1", resident("m"))
    scene.seen("b2")
    policy = scene.engine.policy
    [kept] = [each for each in policy.backends if each.name == "b2"]
    effects = scene.turn(PolicyChanged(replace(policy, backends=(kept,))))
    assert [each.after for each in of(effects, TellBreaker)] == [BreakerState.CLOSED]
    assert (list(scene.engine.backends), len(scene.engine.breakers)) == (["b2"], 0)
    assert of(scene.wait(4 * OPEN_NS), TellBreaker) == []


# While only small models run

BIG = 4_000_000_000_000


def test_at_a_level_for_small_models_only_a_small_fallback_stands_in_for_a_small_one() -> None:
    scene = serving_m(model("big", size_bytes=BIG), model("n"))
    fails(scene, "x1", "x2")
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    scene.turn(with_fallbacks("r", "big", "n"))
    assert scene.engine.records["a", "r"].model == "n:latest"
    assert isinstance(refused(scene.turn(with_fallbacks("r2", "big"))), CircuitOpen)


def test_a_broken_small_model_is_not_what_the_level_offers_for_a_large_one() -> None:
    scene = serving_m(model("big", size_bytes=BIG), model("n"))
    fails(scene, "x1", "x2")
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    scene.turn(with_fallbacks("r", "m", "n", model="big"))
    record = scene.engine.records["a", "r"]
    assert (record.model, record.is_for_level) == ("n:latest", True)


def test_who_went_to_a_small_fallback_stays_there_while_the_level_bars_its_own_large_one() -> None:
    scene = ready(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", model("big", size_bytes=BIG))
    scene.open("b2", model("n"))
    scene.down("b1")
    scene.turn(arrived("on n", model="n"))
    scene.loaded("n", "b2")
    scene.turn(with_fallbacks("r", "n", model="big"))
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    scene.up("b1")
    record = scene.engine.records["a", "r"]
    assert record.model == "n:latest"
    scene.turn(LevelAsked(level=Level.NORMAL))
    assert (record.model, record.substituted_for) == ("big:latest", "")
