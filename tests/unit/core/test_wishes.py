"""Models that somebody wishes to be loaded, or to leave, without a request."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.effects import AbortLoad, Effect, WishEnded
from broker.core.errors import BackendUnreachable, BrokerError, LoadFailed
from broker.core.level import Level
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.residency import ResidencyState
from broker.core.stimuli import (
    BackendDrainAsked,
    DrainAsked,
    LevelAsked,
    LoadAsked,
    ModelsListed,
    UnloadAsked,
    WishWithdrawn,
)
from broker.core.wishes import WISHES_MAX
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

M, N = model("m"), model("n")


def load(
    scene: Scene, name: str = "n", *, wish: int = 1, backend: str = "", for_ns: int = MINUTE_NS
) -> list[Effect]:
    until_ns = scene.now_ns + for_ns
    return scene.turn(LoadAsked(wish=wish, model=name, backend=backend, until_ns=until_ns))


def unload(
    scene: Scene, name: str = "m", *, wish: int = 1, backend: str = "", **more: Any
) -> list[Effect]:
    until_ns = scene.now_ns + more.pop("for_ns", MINUTE_NS)
    asked = UnloadAsked(wish=wish, model=name, backend=backend, until_ns=until_ns, **more)
    return scene.turn(asked)


def answers(effects: list[Effect]) -> list[tuple[int, str]]:
    """(wish, where or why not) of each answer."""
    return [
        (each.wish, type(each.error).__name__ if each.error else " ".join(each.backends))
        for each in of(effects, WishEnded)
    ]


def error_of(effects: list[Effect]) -> BrokerError:
    (answer,) = of(effects, WishEnded)
    assert answer.error is not None
    return answer.error


# Loads


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
    assert error_of(load(scene, "n", wish=3, backend="b1")).reason == "MODEL_UNKNOWN"


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
    assert error_of(load(scene, wish=WISHES_MAX)).reason == "QUEUE_FULL"
    effects = scene.turn(DrainAsked(scene.now_ns + MINUTE_NS))
    assert answers(effects) == [(wish, "Draining") for wish in range(WISHES_MAX)]


# Unloads


def test_a_model_leaves_when_its_work_has_ended_and_is_proven_gone() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    assert switches(unload(scene)) == []
    assert scene.state("m") is ResidencyState.DRAINING
    assert started(scene.turn(arrived("next"))) == []
    assert switches(scene.ends("running")) == ["unload m on b1"]
    effects = scene.unloaded("m")
    assert answers(effects) == [(1, "b1")]
    assert switches(effects) == ["load m on b1"], "who waits may have it loaded again"


def test_what_is_to_leave_leaves_though_others_wait_for_it() -> None:
    """Unlike what was told to leave for others, which nobody wants any more."""
    scene = serving(M, N)
    scene.turn(arrived("running"))
    unload(scene)
    for number in range(3):
        scene.turn(arrived(f"r{number}"))
        scene.wait(SECOND_NS)
    assert scene.state("m") is ResidencyState.DRAINING


def test_what_is_loaded_nowhere_has_left() -> None:
    scene = serving(M, N)
    assert answers(unload(scene, "n")) == [(1, "")]
    assert error_of(unload(scene, "nobody", wish=2)).reason == "MODEL_UNKNOWN"


def test_what_others_loaded_is_not_unloaded() -> None:
    scene = Scene()
    scene.open("b1", M)
    scene.seen("b1", resident("m"))
    error = error_of(unload(scene))
    assert error.reason == "MODEL_IN_USE"
    assert "exclusive" in error.message


def test_what_keeps_its_models_cannot() -> None:
    scene = Scene(BackendPolicy(name="b1", keeps_models=True))
    scene.open("b1", M)
    scene.seen("b1", resident("m"))
    assert error_of(unload(scene)).reason == "BACKEND_REFUSED"


def test_one_that_does_not_come_to_rest_serves_on() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    unload(scene, for_ns=10 * SECOND_NS)
    scene.turn(arrived("next"))
    effects = scene.wait(11 * SECOND_NS)
    assert answers(effects) == [(1, "ModelInUse")]
    assert scene.state("m") is ResidencyState.RESIDENT
    assert started(scene.ends("running")) == ["next"]


def test_one_that_will_not_leave_is_told() -> None:
    scene = serving(M, N)
    unload(scene)
    effects = scene.unloaded("m", error=LoadFailed("it did not leave"))
    assert answers(effects) == [(1, "LoadFailed")]


def test_whoever_goes_away_takes_it_back() -> None:
    scene = serving(M, N)
    scene.turn(arrived("running"))
    unload(scene)
    unload(scene, wish=2)
    scene.turn(WishWithdrawn(1))
    assert scene.state("m") is ResidencyState.DRAINING, "another still wants it to leave"
    scene.turn(WishWithdrawn(2))
    assert scene.state("m") is ResidencyState.RESIDENT


def test_what_is_to_be_deleted_is_not_loaded_again_meanwhile() -> None:
    scene = serving(M, N)
    unload(scene, hold_until_ns=scene.now_ns + 30 * SECOND_NS)
    scene.turn(arrived("r"))
    effects = scene.unloaded("m")
    assert answers(effects) == [(1, "b1")]
    assert switches(effects) == []
    assert switches(scene.wait(31 * SECOND_NS)) == ["load m on b1"]


def test_once_that_is_done_what_is_left_of_it_may_be_loaded_again() -> None:
    """By another of its names, say."""
    scene = serving(M, N)
    unload(scene, hold_until_ns=scene.now_ns + MINUTE_NS)
    scene.turn(arrived("r"))
    scene.unloaded("m")
    assert switches(scene.turn(WishWithdrawn(1))) == ["load m on b1"]


def test_it_may_be_once_its_name_is_gone_from_the_list() -> None:
    """The list of models may tell of a delete before whoever asked for that does."""
    scene = serving(M, model("copy", runner="blob-m"))
    unload(scene, "copy", hold_until_ns=scene.now_ns + MINUTE_NS)
    scene.turn(arrived("r"))
    scene.unloaded("m")
    assert switches(scene.turn(ModelsListed("b1", (M,)))) == []
    assert switches(scene.turn(WishWithdrawn(1))) == ["load m on b1"]


@pytest.mark.parametrize("first", [1, 2])
def test_what_two_hold_away_comes_when_both_let_it(first: int) -> None:
    scene = serving(M, N)
    unload(scene, hold_until_ns=scene.now_ns + MINUTE_NS)
    unload(scene, wish=2, hold_until_ns=scene.now_ns + 2 * MINUTE_NS)
    scene.turn(arrived("r"))
    scene.unloaded("m")
    assert switches(scene.turn(WishWithdrawn(first))) == []
    assert switches(scene.wait(50 * SECOND_NS)) == []
    assert switches(scene.turn(WishWithdrawn(3 - first))) == ["load m on b1"]


def test_a_drained_backend_lets_its_models_go() -> None:
    scene = serving(M, N)
    scene.turn(BackendDrainAsked("b1", True))
    assert switches(unload(scene)) == ["unload m on b1"]
    assert answers(scene.unloaded("m")) == [(1, "b1")]
