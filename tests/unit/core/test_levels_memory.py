"""What memory alone bars, and what it does not: a level has more than one cause."""

from __future__ import annotations

from dataclasses import replace

from broker.core.level import Level
from broker.core.requests import Substitution
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import SECOND_NS, started, switches
from tests.unit.core.test_levels_waiting import BIG, POLICY, busy_with, come, ends


def test_memory_below_its_own_level_bars_nothing_of_what_the_queue_holds_back() -> None:
    """A steady 75 % asks for level 1. That the queue asks for more is cured by working it off."""
    scene = LevelScene(degradation=replace(POLICY, small_models=()))
    scene.open("b1", BIG)
    come(scene, "run", model="big")
    scene.loaded("big")
    for number in range(9):
        come(scene, f"q{number}", model="big")
    assert scene.memory(0.75) is Level.LEVEL_2
    assert ends(scene, "run") == ["q0"]
    for number in range(9):
        ends(scene, f"q{number}")
    for _ in range(16):
        scene.wait(SECOND_NS)
        scene.memory(0.75)
    assert scene.level is Level.LEVEL_1


def test_what_level_2_bars_for_memory_is_barred_at_critical_as_well() -> None:
    scene = busy_with("small")
    come(scene, "b", model="big", substitution=Substitution.NEVER)
    come(scene, "five")
    scene.memory(0.85)
    assert scene.cpu(0.97) is Level.CRITICAL
    assert (scene.memory_level, ends(scene, "small-0")) == (Level.LEVEL_2, ["five"])
    effects = scene.ends("five", agent="five")
    assert (started(effects), switches(effects)) == ([], [])
