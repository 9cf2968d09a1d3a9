"""Models that left though nobody here told them to, and two tools that take turns at loading."""

from __future__ import annotations

from broker.core.effects import Effect, Refuse, TellSwitch
from broker.core.errors import LoadFailed
from broker.core.placement import BackendPolicy
from broker.core.residency import SwitchStep
from broker.core.stimuli import BackendDrainAsked
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    switches,
)


def steps(effects: list[Effect]) -> list[str]:
    return [each.step.value for each in of(effects, TellSwitch)]


def evicted(scene: Scene, number: int) -> list[str]:
    """m is loaded, serves one, and is gone at the next look, where a stranger is; that leaves."""
    scene.turn(arrived(f"m{number}", deadline_ns=scene.now_ns + MINUTE_NS))
    scene.loaded("m")
    scene.seen("b1", resident("m"))
    scene.ends(f"m{number}")
    told = steps(scene.seen("b1", resident("foreign")))
    scene.seen("b1")
    return told


def scene_of() -> Scene:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    return scene


def test_what_left_behind_our_back_is_counted_and_told_with_who_is_there_now() -> None:
    scene = scene_of()
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.ends("m1")
    effects = scene.seen("b1", resident("foreign"))
    [told] = of(effects, TellSwitch)
    assert (told.step, told.model) == (SwitchStep.VANISHED, "m:latest")
    assert told.detail == "nobody here told it to leave; others held foreign:latest there"
    assert scene.engine.backends["b1"].vanished == 1


def test_two_tools_that_take_turns_are_held_apart() -> None:
    scene = scene_of()
    assert evicted(scene, 1) == ["vanished"]
    assert evicted(scene, 2) == ["vanished"]
    assert evicted(scene, 3) == ["vanished", "contested"]
    [refused] = of(scene.turn(arrived("m4")), Refuse)  # it is left alone for a while
    assert isinstance(refused.error, LoadFailed)
    assert "models left b1 3 times within 5 minutes" in str(refused.error)
    assert (refused.error.retry_after_ns or 0) > 14 * SECOND_NS
    assert switches(scene.turn(arrived("n1", model="n"))) == ["load n on b1"]
    scene.loaded("n")
    scene.ends("n1")


def test_it_is_loaded_again_after_a_while_and_then_left_alone_for_longer() -> None:
    scene = scene_of()
    for number in range(3):
        evicted(scene, number)
    scene.wait(16 * SECOND_NS)
    assert evicted(scene, 3) == ["vanished", "contested"]
    scene.wait(29 * SECOND_NS)
    assert switches(scene.turn(arrived("m4"))) == []
    scene.wait(2 * SECOND_NS)
    assert switches(scene.turn(arrived("m5"))) == ["load m on b1"]


def test_losses_of_long_ago_do_not_count() -> None:
    scene = scene_of()
    for number in range(6):
        assert evicted(scene, number) == ["vanished"]
        scene.wait(150 * SECOND_NS)


def test_a_server_that_was_away_lost_its_models_by_itself() -> None:
    scene = scene_of()
    for number in range(5):
        scene.turn(arrived(f"m{number}"))
        scene.loaded("m")
        scene.ends(f"m{number}")
        scene.wait(SECOND_NS)
        scene.down("b1")
        scene.up("b1")
        assert steps(scene.seen("b1")) == []
    assert scene.engine.backends["b1"].vanished == 0


def test_what_nobody_has_kept_leaves_by_itself() -> None:
    scene = scene_of()
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.ends("m1")
    scene.seen("b1", resident("m"))
    scene.turn(BackendDrainAsked("b1", True))  # from now on it is not renewed
    scene.wait(10 * MINUTE_NS)
    assert steps(scene.seen("b1")) == []


def test_what_others_loaded_on_a_server_of_ours_alone_is_not_kept_either() -> None:
    scene = Scene(BackendPolicy(name="b1", exclusive=True))
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"))
    scene.wait(5 * MINUTE_NS)
    assert steps(scene.seen("b1")) == []


def test_a_stranger_that_leaves_is_no_loss_of_ours() -> None:
    scene = scene_of()
    scene.seen("b1", resident("m"))
    assert steps(scene.seen("b1")) == []
