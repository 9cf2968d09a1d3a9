"""What waits for a model that cannot be had any more: to a fallback of its caller's, and back."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import StartAttempt, TellBreaker
from broker.core.errors import LoadFailed
from broker.core.lifecycle import State
from broker.core.placement import BackendPolicy
from broker.core.requests import Substitution
from broker.core.retry import RetryPolicy
from broker.core.stimuli import (
    BackendDrainAsked,
    CancelAsked,
    CancelCause,
    ModelsListed,
    PolicyChanged,
)
from tests.unit.core.failover_scene import (
    BROKE,
    OPEN_NS,
    fails,
    on_what,
    ready,
    served,
    serving_m,
    with_fallbacks,
    words_to,
)
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    nothing_remains,
    of,
    started,
    switches,
)

# What waits already


def test_what_waits_goes_to_its_fallback_and_what_has_none_stays() -> None:
    scene = serving_m(model("n"))
    fails(scene, "x1")
    scene.turn(arrived("x2"))
    scene.turn(arrived("stays"))
    scene.turn(with_fallbacks("goes", "n"))
    scene.turn(with_fallbacks("may not", "n", substitution=Substitution.NEVER))
    effects = scene.ends("x2", BROKE)
    assert [each.until_ns for each in of(effects, TellBreaker)] == [scene.now_ns + OPEN_NS]
    assert (switches(effects), finished(effects)[1:]) == (["load n on b1"], [])
    effects = scene.wait(SECOND_NS)
    assert words_to(effects, "stays") == (
        "BREAKER",
        "a try in 9 s: calls of m:latest on b1 have failed too often lately",
    )
    assert words_to(effects, "may not")[0] == "BREAKER"
    assert words_to(effects, "goes") == ("LOADING", "n:latest, which is being loaded on b1")
    assert on_what(scene.loaded("n")) == [("goes", "n:latest", "b1")]


def test_who_is_moved_is_told_so_though_place_and_reason_are_the_same() -> None:
    scene = serving_m(model("n"))
    served(scene, "n", "b1")
    fails(scene, "x1")
    scene.turn(arrived("on n", model="n"))
    scene.turn(arrived("x2"))
    scene.turn(with_fallbacks("r", "n"))
    scene.wait(2 * SECOND_NS)
    scene.ends("x2", BROKE)
    assert words_to(scene.wait(SECOND_NS), "r") == ("SLOT", "a free slot of n:latest on b1")


def test_one_goes_back_as_the_probe_and_all_others_once_it_came_back_well() -> None:
    scene = serving_m(model("n", slots=1))
    served(scene, "n", "b1")
    fails(scene, "x1")
    scene.turn(arrived("on n", model="n"))
    scene.turn(arrived("x2"))
    for name in ("r1", "r2", "r3"):
        scene.turn(with_fallbacks(name, "n"))
    scene.ends("x2", BROKE)
    models = [scene.engine.records["a", name].model for name in ("r1", "r2", "r3")]
    assert models == ["n:latest"] * 3
    assert on_what(scene.wait(OPEN_NS)) == [("r1", "m:latest", "b1")]
    models = [scene.engine.records["a", name].model for name in ("r2", "r3")]
    assert models == ["n:latest"] * 2
    [start] = of(scene.ends("r1"), StartAttempt)
    assert (start.key[1], start.model, start.substituted_for, start.changes) == (
        "r2",
        "m:latest",
        "",
        (),
    )
    assert scene.engine.records["a", "r3"].model == "m:latest"


def test_a_probe_that_fails_sends_those_who_wait_nowhere_else() -> None:
    scene = serving_m()
    fails(scene, "x1")
    for name in ("x2", "r1", "r2"):
        scene.turn(arrived(name))
    scene.ends("x2", BROKE)
    assert started(scene.wait(OPEN_NS)) == ["r1"]
    effects = scene.ends("r1", BROKE)
    assert ([name for name, _ in finished(effects)], started(effects)) == (["r1"], [])
    assert started(scene.wait(2 * OPEN_NS - 1)) == []
    assert started(scene.wait(1)) == ["r2"]
    scene.ends("r2")
    assert nothing_remains(scene)


def test_a_probe_that_is_cancelled_lets_the_next_one_through() -> None:
    scene = serving_m()
    fails(scene, "x1")
    for name in ("x2", "r1", "r2"):
        scene.turn(arrived(name))
    scene.ends("x2", BROKE)
    scene.wait(OPEN_NS)
    attempt = scene.attempt("r1")
    scene.turn(CancelAsked(("a", "r1"), CancelCause.CLIENT_GONE))
    assert scene.engine.attempts[attempt].ending is not None
    scene.ends("r1", BROKE)
    assert started(scene.wait(SECOND_NS)) == ["r2"]  # after the grace of the slot


def test_a_model_that_is_gone_for_good_gives_way_to_a_fallback_and_back() -> None:
    scene = serving_m(model("n"))
    for name in ("x1", "x2"):
        scene.turn(arrived(name))
    scene.turn(with_fallbacks("r", "n"))
    scene.turn(arrived("ends"))
    effects = scene.turn(ModelsListed("b1", (model("n"),)))
    assert [name for name, _ in finished(effects)] == ["x2", "ends"]
    record = scene.engine.records["a", "r"]
    assert (record.model, record.substituted_for, record.instead) == (
        "n:latest",
        "m",
        "no backend has m",
    )
    scene.turn(ModelsListed("b1", (model("n"), model("m"))))
    assert (record.model, record.substituted_for, record.instead) == ("m:latest", "", "")


def test_a_backend_that_falls_away_sends_what_waits_to_a_fallback_elsewhere() -> None:
    scene = ready(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", model("m"))
    scene.open("b2", model("n"))
    served(scene, "m", "b1")
    scene.turn(arrived("x1"))
    scene.turn(with_fallbacks("r", "n"))
    scene.turn(arrived("stays"))
    effects = scene.down("b1")
    assert switches(effects) == ["load n on b2"]
    [start] = of(scene.loaded("n", "b2"), StartAttempt)
    assert start.changes == ("model is n:latest instead of m: no backend that has m answers",)
    assert finished(effects) == []


def test_what_has_begun_with_one_model_goes_on_with_no_other() -> None:
    scene = serving_m(model("n"))
    fails(scene, "x1")
    scene.turn(arrived("x2"))
    scene.turn(with_fallbacks("r", "n"))
    record = scene.engine.records["a", "r"]
    record.pieces_kept = 3
    scene.ends("x2", BROKE)
    assert record.model == "m:latest"


def test_a_fallback_that_breaks_in_turn_leaves_its_guests_where_they_came_from() -> None:
    scene = serving_m(model("n", slots=1))
    served(scene, "n", "b1")
    fails(scene, "x1", "x2")
    fails(scene, "y1", model="n")
    scene.turn(arrived("y2", model="n"))
    scene.turn(with_fallbacks("r", "n"))
    scene.wait(SECOND_NS)
    scene.ends("y2", BROKE)
    assert scene.engine.records["a", "r"].model == "n:latest"  # neither; it waits where it is
    assert on_what(scene.wait(OPEN_NS)) == [("r", "m:latest", "b1")]  # the first that is tried


# What else takes a model away from those who wait


def test_what_waits_goes_to_its_fallback_when_the_load_fails_and_back_when_it_is_tried_again() -> (
    None
):
    scene = serving_m(model("n"), model("o"))
    scene.turn(with_fallbacks("r", "n", model="o"))
    effects = scene.loaded("o", error=LoadFailed("out of memory"))
    assert switches(effects) == ["load n on b1"]
    record = scene.engine.records["a", "r"]
    assert (record.model, record.instead) == ("n:latest", "o could not be loaded")
    scene.wait(scene.engine.policy.placement.failed_load_hold_ns)
    assert (record.model, record.instead) == ("o:latest", "")


def test_what_waits_goes_to_its_fallback_when_its_backend_drains_and_back() -> None:
    scene = ready(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", model("m"))
    scene.open("b2", model("n"))
    served(scene, "m", "b1")
    scene.turn(arrived("running"))
    scene.turn(with_fallbacks("r", "n"))
    assert switches(scene.turn(BackendDrainAsked("b1", True))) == ["load n on b2"]
    record = scene.engine.records["a", "r"]
    assert (record.model, record.instead) == ("n:latest", "nothing is started on b1, which has m")
    scene.turn(BackendDrainAsked("b1", False))
    assert (record.model, record.instead) == ("m:latest", "")


def test_what_backs_off_goes_to_its_fallback_too() -> None:
    scene = serving_m(model("n"))
    scene.turn(PolicyChanged(replace(scene.engine.policy, retry=RetryPolicy())))
    scene.turn(with_fallbacks("r1", "n"))
    scene.turn(with_fallbacks("r2", "n"))
    assert started(scene.ends("r1", BROKE)) == ["r2"]
    record = scene.engine.records["a", "r1"]
    assert (record.state, record.model) == (State.REQUEUED, "m:latest")
    scene.ends("r2", BROKE)
    assert (record.state, record.model) == (State.REQUEUED, "n:latest")
    effects = scene.wait(2 * SECOND_NS) + scene.loaded("n")
    assert ("n:latest", "b1") in {each[1:] for each in on_what(effects)}
