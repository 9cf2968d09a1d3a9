"""Models that somebody wishes to be loaded without a request."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.arrivals import DRAIN_RETRY_NS
from broker.core.effects import AbortLoad, WishEnded
from broker.core.errors import BackendUnreachable, LoadFailed
from broker.core.level import Level
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.residency import ResidencyState
from broker.core.stimuli import (
    BackendDrainAsked,
    DrainAsked,
    LevelAsked,
    ModelsListed,
    WishWithdrawn,
)
from broker.core.wishes import FULL_RETRY_NS, WISHES_MAX
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    serving,
    started,
    switches,
)
from tests.unit.core.wish_scene import M, N, answers, error_of, load, unload


def test_a_model_is_loaded_where_there_is_room_and_answered_when_it_is_there() -> None:
    scene = Scene()
    scene.open("b1", M, N)
    assert switches(load(scene)) == ["load n on b1"]
    scene.wait(2 * SECOND_NS)
    effects = scene.loaded("n")
    assert answers(effects) == [(1, "b1")]
    assert of(effects, WishEnded)[0].load_ns == 2 * SECOND_NS
    again = load(scene, wish=2)
    assert (answers(again), of(again, WishEnded)[0].load_ns) == ([(2, "b1")], 0)


def test_two_who_wish_the_same_share_its_load() -> None:
    scene = Scene()
    scene.open("b1", M, N)
    load(scene)
    assert switches(load(scene, wish=2)) == []
    assert answers(scene.loaded("n")) == [(1, "b1"), (2, "b1")]


def test_an_idle_model_makes_room_for_it() -> None:
    scene = serving(M, N)
    assert switches(load(scene)) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]
    assert answers(scene.loaded("n")) == [(1, "b1")]


def test_nothing_leaves_for_it_that_makes_no_room_for_it() -> None:
    """Of models of the same weights a server holds one, whatever room there is; and of what is
    small and old nothing leaves where something large does anyhow."""
    scene = Scene(BackendPolicy(name="b1", resident_max=4, memory_bytes=9000))
    twin, other = model("a", runner="w+1"), model("b", runner="w+2")
    scene.open("b1", M, twin, other, model("c", size_bytes=6000))
    for name in ("m", "a"):
        scene.turn(arrived(f"for-{name}", model=name))
        scene.wait(SECOND_NS)
        scene.loaded(name)
        scene.ends(f"for-{name}")
    assert switches(load(scene, "b")) == ["unload a on b1"]
    assert switches(scene.unloaded("a")) == ["load b on b1"]
    scene.loaded("b")
    assert switches(load(scene, "c", wish=2)) == ["unload m on b1"]


def test_one_that_works_or_is_waited_for_does_not() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    scene.turn(arrived("waiting"))
    assert load(scene, for_ns=30 * SECOND_NS) == [] or not switches(load(scene, wish=2))
    assert switches(scene.ends("running")) == []
    effects = scene.wait(31 * SECOND_NS)
    assert switches(effects) == []
    refused = of(effects, WishEnded)[0]
    assert type(refused.error).__name__ == "NoRoom"
    assert "have work" in str(refused.error)


def test_it_comes_to_it_once_that_has_nothing_left_to_do() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    load(scene)
    assert switches(scene.ends("running")) == ["unload m on b1"]


def test_what_others_loaded_makes_no_room() -> None:
    scene = Scene()
    scene.open("b1", M, N)
    scene.seen("b1", resident("m"))
    error = error_of(load(scene))
    assert (error.reason, "beside what others" in error.message) == ("NO_ROOM", True)


def test_where_the_whole_server_is_the_brokers_it_does() -> None:
    scene = Scene(BackendPolicy(name="b1", exclusive=True))
    scene.open("b1", M, N)
    scene.seen("b1", resident("m"))
    assert switches(load(scene)) == ["unload m on b1"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda scene: scene.down("b1"), "NO_BACKEND"),
        (lambda scene: scene.turn(BackendDrainAsked("b1", True)), "NO_BACKEND"),
        (lambda scene: scene.turn(LevelAsked(level=Level.LEVEL_2)), "SMALL_MODELS_ONLY"),
        (lambda scene: scene.turn(DrainAsked(scene.now_ns)), "DRAINING"),
    ],
    ids=["away", "drained", "level", "leaving"],
)
def test_what_keeps_requests_away_keeps_a_wish_away_too(spoil: Any, reason: str) -> None:
    scene = Scene()
    scene.open("b1", model("n", size_bytes=10**11))
    spoil(scene)
    assert error_of(load(scene)).reason == reason


def test_a_load_that_failed_is_told_and_not_tried_again_at_once() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=15 * SECOND_NS))
    scene.open("b1", N)
    load(scene)
    assert error_of(scene.loaded("n", error=LoadFailed("out of memory"))).reason == "LOAD_FAILED"
    later = error_of(load(scene, wish=2))
    assert (later.reason, later.retry_after_ns) == ("LOAD_FAILED", 15 * SECOND_NS)
    assert later.message == "out of memory"


def test_a_server_lost_during_its_load_is_told() -> None:
    scene = Scene()
    scene.open("b1", N)
    load(scene)
    effects = scene.loaded("n", error=BackendUnreachable("refused"))
    assert answers(effects) == [(1, "BackendUnreachable")]


def test_a_model_that_nobody_has_is_told_with_the_nearest() -> None:
    scene = Scene()
    scene.open("b1", M)
    assert error_of(load(scene, "mm")).reason == "MODEL_UNKNOWN"
    assert "m:latest" in str(error_of(load(scene, "mm", wish=2)))
    assert error_of(load(scene, wish=3, backend="b2")).reason == "BACKEND_NOT_FOUND"


def test_while_a_backend_has_not_told_what_it_has_nothing_is_said_for_good() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", M)
    scene.down("b2", "refused")
    for effects in (load(scene, "n"), unload(scene, "n", wish=2)):
        error = error_of(effects)
        assert (error.reason, error.retry_after_ns) == ("NO_BACKEND", 2 * SECOND_NS)
        assert "b2: refused" in error.message
    error = error_of(load(scene, "n", wish=3, backend="b1"))
    assert (error.reason, "'n' is not on b1" in error.message) == ("MODEL_UNKNOWN", True)


def test_one_that_is_deleted_while_it_is_wished_for_is_told() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    load(scene)
    effects = scene.turn(ModelsListed("b1", (M,)))
    assert answers(effects) == [(1, "ModelUnknown")]


def test_a_load_that_is_late_is_told_and_goes_on() -> None:
    scene = Scene()
    scene.open("b1", N)
    load(scene, for_ns=10 * SECOND_NS)
    assert answers(scene.wait(11 * SECOND_NS)) == [(1, "TimedOut")]
    assert scene.state("n") is ResidencyState.LOADING
    assert answers(scene.loaded("n")) == []
    assert scene.state("n") is ResidencyState.RESIDENT


def test_a_wished_load_is_not_ended_for_others_but_one_that_was_withdrawn_is() -> None:
    scene = Scene()
    scene.open("b1", M, N)
    load(scene, for_ns=10 * MINUTE_NS)
    scene.wait(MINUTE_NS)
    assert of(scene.turn(arrived("r")), AbortLoad) == []
    assert of(scene.turn(WishWithdrawn(1)), AbortLoad) != []


def guessing() -> Scene:
    """m is loaded ahead of need on b1."""
    two = (BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene = Scene(*two)
    for each in two:
        scene.open(each.name, M, N)
    load(scene, "m", backend="b1")
    scene.turn(WishWithdrawn(1))
    scene.residency("m").is_ahead_of_need = True
    return scene


def test_a_load_ahead_of_need_makes_way_for_it() -> None:
    scene = guessing()
    effects = load(scene, wish=2, backend="b1")
    assert [each.runner for each in of(effects, AbortLoad)] == ["blob-m"]
    assert of(load(scene, wish=3, backend="b1"), AbortLoad) == [], "it was told already"
    effects = scene.loaded("m", error=LoadFailed("it was aborted"))
    assert switches(effects) == ["load n on b1"]
    assert answers(scene.loaded("n")) == [(2, "b1"), (3, "b1")]


def test_it_goes_on_where_the_wish_can_be_done_elsewhere() -> None:
    scene = guessing()
    effects = load(scene, wish=2)
    assert (switches(effects), of(effects, AbortLoad)) == (["load n on b2"], [])


def test_it_goes_on_where_somebody_waits_for_it_by_now() -> None:
    scene = guessing()
    scene.turn(BackendDrainAsked("b2", True))
    scene.turn(arrived("r"))
    assert of(load(scene, wish=2), AbortLoad) == []
    assert started(scene.loaded("m")) == ["r"]


def test_the_backend_where_it_loads_soonest_gets_it_or_the_one_that_is_named() -> None:
    two = (BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene = Scene(*two)
    for each in ("b1", "b2"):
        scene.open(each, M, N)
    assert switches(load(scene, backend="b2")) == ["load n on b2"]
    assert answers(scene.loaded("n", "b2")) == [(1, "b2")]
    assert answers(load(scene, wish=2)) == [(2, "b2")]
    assert switches(load(scene, wish=3, backend="b1")) == ["load n on b1"]


def test_only_so_many_wishes_are_open() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    for wish in range(WISHES_MAX):
        load(scene, wish=wish)
    error = error_of(load(scene, wish=WISHES_MAX))
    assert (error.reason, error.retry_after_ns) == ("QUEUE_FULL", FULL_RETRY_NS)
    effects = scene.turn(DrainAsked(scene.now_ns + MINUTE_NS))
    assert {each.error.retry_after_ns for each in of(effects, WishEnded) if each.error} == {
        DRAIN_RETRY_NS
    }
    assert answers(effects) == [(wish, "Draining") for wish in range(WISHES_MAX)]
