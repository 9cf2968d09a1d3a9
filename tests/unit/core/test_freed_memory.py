"""A model that left a server of this host is gone once its GPU memory is seen to be back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import SenseGpus, TellSwitch
from broker.core.errors import LoadFailed
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.residency import ResidencyState, SwitchStep
from broker.core.sensing import GpuReading, GpuSample, SensorState
from broker.core.stimuli import GpusSensed
from tests.unit.core.scene import SECOND_NS, Scene, arrived, model, of, resident, switches
from tests.unit.core.sensed import GB, card, gpus

FREEING = ResidencyState.FREEING


def sense(scene: Scene, *cards: GpuSample) -> list[str]:
    """A sample of this moment, and what is switched for it."""
    scene.now_ns += 1
    return switches(scene.turn(GpusSensed(gpus(*cards, at_ns=scene.now_ns))))


def left(
    *cards: GpuSample,
    is_local: bool = True,
    placement: PlacementPolicy | None = None,
    on_gpu: bool = True,
) -> Scene:
    """m, which held 8 GB, was told to leave for n and is not listed any more; the cards were seen
    so before that."""
    scene = Scene(BackendPolicy(name="b1", is_local=is_local), placement=placement)
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.ends("m1")
    scene.seen("b1", resident("m", memory_bytes=8 * GB if on_gpu else 0))
    if cards:
        sense(scene, *cards)
    assert switches(scene.turn(arrived("n1", model="n"))) == ["unload m on b1"]
    return scene


def test_the_next_is_loaded_when_the_memory_is_back_and_no_earlier() -> None:
    scene = left(card(9, ours_gb=9))
    effects = scene.unloaded("m")
    assert (switches(effects), scene.state("m")) == ([], FREEING)
    assert of(effects, SenseGpus)  # nobody waits for the next regular look
    assert sense(scene, card(9, ours_gb=9)) == []
    assert sense(scene, card(3.1, ours_gb=3.1)) == []  # 5.9 of 8 GB: not yet three quarters
    assert sense(scene, card(3, ours_gb=3)) == ["load n on b1"]
    assert scene.engine.backends["b1"].memory_held == 0


def test_the_sensor_is_asked_again_and_again_meanwhile_and_never_after() -> None:
    scene = left(card(9, ours_gb=9))
    scene.unloaded("m")
    assert len(of(scene.wait(SECOND_NS), SenseGpus)) == 10
    sense(scene, card(1, ours_gb=1))
    assert of(scene.wait(SECOND_NS), SenseGpus) == []


def test_memory_that_does_not_come_back_is_told_and_waited_for_no_longer() -> None:
    scene = left(card(9, ours_gb=9))
    scene.unloaded("m")
    sense(scene, card(9, ours_gb=8))
    effects = scene.wait(5 * SECOND_NS)
    assert switches(effects) == ["load n on b1"]
    [told] = of(effects, TellSwitch)
    assert (told.step, told.model) == (SwitchStep.MEMORY_HELD, "m:latest")
    assert told.detail.startswith("1.0 GB of 8.0 GB had come back 5.0 s after")
    assert scene.engine.backends["b1"].memory_held == 1


def test_an_unload_as_a_whole_takes_no_longer_than_that() -> None:
    scene = left(card(9, ours_gb=9))
    scene.wait(4 * SECOND_NS)
    scene.unloaded("m")
    assert switches(scene.wait(SECOND_NS)) == ["load n on b1"]
    slow = left(card(9, ours_gb=9))
    slow.wait(5 * SECOND_NS)
    assert switches(slow.unloaded("m")) == ["load n on b1"]


def test_what_others_take_meanwhile_is_told_apart_where_processes_are_seen() -> None:
    scene = left(card(9, ours_gb=9))
    scene.unloaded("m")
    assert sense(scene, card(9, ours_gb=1, others_gb=8)) == ["load n on b1"]


def test_where_no_process_is_seen_the_whole_card_tells() -> None:
    scene = left(card(9))
    scene.unloaded("m")
    assert sense(scene, card(4)) == []
    assert sense(scene, card(1)) == ["load n on b1"]


def test_a_sample_of_before_the_model_left_tells_nothing() -> None:
    scene = left(card(9))
    scene.unloaded("m")
    reading = gpus(card(1), at_ns=scene.now_ns)
    assert switches(scene.turn(GpusSensed(reading))) == []


def test_a_sensor_that_fails_meanwhile_tells_nothing() -> None:
    scene = left(card(9))
    scene.unloaded("m")
    failing = GpuReading(at_ns=scene.now_ns + 1, state=SensorState.FAILING, problem="gone")
    assert switches(scene.turn(GpusSensed(failing))) == []
    assert switches(scene.wait(5 * SECOND_NS)) == ["load n on b1"]


@pytest.mark.parametrize(
    "scene_of",
    [
        lambda: left(),  # no sensor
        lambda: left(card(9), is_local=False),  # it sees other cards
        lambda: left(card(9), on_gpu=False),
        lambda: left(card(9), placement=PlacementPolicy(memory_wait_ns=0)),
    ],
)
def test_where_nothing_tells_the_list_alone_is_the_proof(scene_of: object) -> None:
    assert callable(scene_of)
    scene = scene_of()
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_a_picture_that_is_old_is_no_picture_of_the_moment() -> None:
    scene = Scene(BackendPolicy(name="b1", is_local=True))
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.ends("m1")
    scene.seen("b1", resident("m", memory_bytes=8 * GB))
    sense(scene, card(9))
    scene.wait(11 * SECOND_NS)
    scene.turn(arrived("n1", model="n"))
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_where_another_server_of_this_host_switches_too_nobody_can_tell() -> None:
    two = (BackendPolicy(name=name, is_local=True) for name in ("b1", "b2"))
    scene = Scene(*two)
    scene.open("b1", model("m"), model("n"))
    scene.open("b2", model("o"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.ends("m1")
    scene.seen("b1", resident("m", memory_bytes=8 * GB))
    sense(scene, card(9))
    scene.turn(arrived("n1", model="n"))
    scene.turn(arrived("o1", model="o"))  # is being loaded
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_an_unload_that_failed_waits_for_no_memory() -> None:
    scene = left(card(9))
    scene.unloaded("m", error=LoadFailed("still there"))
    assert scene.state("m") is ResidencyState.RESIDENT


def test_what_was_loaded_since_the_last_picture_hides_what_comes_back() -> None:
    policy = BackendPolicy(name="b1", is_local=True, memory_bytes=20 * GB, loaded_max=2)
    scene = Scene(policy)
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.seen("b1", resident("m", memory_bytes=8 * GB))
    scene.engine.backends["b1"].memory_seen["blob-n"] = 8 * GB
    sense(scene, card(9, ours_gb=9))
    assert switches(scene.turn(arrived("n1", model="n"))) == ["load n on b1"]  # beside it
    scene.ends("m1")
    scene.wait(3 * SECOND_NS)
    assert switches(scene.loaded("n")) == ["unload m on b1"]
    scene.unloaded("m")
    assert "blob-m" not in scene.engine.backends["b1"].residents
    assert scene.engine.backends["b1"].memory_held == 0


def test_of_two_that_leave_one_after_the_other_each_has_to_come_back() -> None:
    scene = Scene(BackendPolicy(name="b1", is_local=True, memory_bytes=20 * GB, resident_max=2))
    large = replace(model("n"), size_bytes=16 * GB)  # needs the room of both
    scene.open("b1", model("m"), model("o"), large)
    for name in ("m", "o"):
        scene.turn(arrived(f"{name}1", model=name))
        scene.loaded(name)
        scene.ends(f"{name}1")
    scene.seen("b1", *(resident(name, memory_bytes=8 * GB) for name in ("m", "o")))
    sense(scene, card(18, total_gb=24, ours_gb=18))
    assert switches(scene.turn(arrived("n1", model="n"))) == ["unload m on b1"]
    scene.unloaded("m")
    assert sense(scene, card(9, total_gb=24, ours_gb=9)) == ["unload o on b1"]
    scene.unloaded("o")
    assert sense(scene, card(9, total_gb=24, ours_gb=9)) == []
    assert sense(scene, card(1, total_gb=24, ours_gb=1)) == ["load n on b1"]
