"""Models that somebody wishes to leave memory, without a request."""

from __future__ import annotations

import pytest

from broker.core.errors import LoadFailed
from broker.core.placement import BackendPolicy
from broker.core.residency import ResidencyState
from broker.core.stimuli import (
    BackendDrainAsked,
    ModelsListed,
    WishWithdrawn,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    resident,
    serving,
    started,
    switches,
)
from tests.unit.core.wish_scene import M, N, answers, error_of, unload


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
