"""Slots that a backend has lost: noticed by waits that nothing explains, won back by an unload."""

from __future__ import annotations

from broker.core.errors import Cancelled, LoadFailed
from broker.core.placement import BackendPolicy
from broker.core.stimuli import AttemptEnded
from tests.unit.core.healing_scene import evidence, steps
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    model,
    resident,
    serving,
    started,
    switches,
)

LONG_NS = 60 * MINUTE_NS


def run(scene: Scene, name: str, *, wait_ns: int, service_ns: int = 4 * SECOND_NS) -> list[str]:
    """A request that takes so long, and of that waits so long in the backend; the steps told."""
    scene.turn(arrived(name, deadline_ns=scene.now_ns + LONG_NS))
    scene.wait(service_ns)
    attempt = scene.attempt(name)
    effects = scene.turn(AttemptEnded(attempt, None, 10, 10, slot_wait_ns=wait_ns))
    return steps(effects) + switches(effects)


def test_two_calls_in_a_row_that_wait_for_a_slot_show_that_one_is_lost() -> None:
    scene = serving(model("m"))
    assert run(scene, "r1", wait_ns=3 * SECOND_NS) == []
    words = ["slot_lost m on b1", "unload m on b1"]  # it is idle: at once
    assert run(scene, "r2", wait_ns=3 * SECOND_NS) == words
    effects = scene.unloaded("m")
    assert (steps(effects), switches(effects)) == (["cured m on b1"], [])
    assert switches(scene.turn(arrived("again", deadline_ns=LONG_NS))) == ["load m on b1"]


def test_short_waits_and_waits_that_are_a_small_part_are_none() -> None:
    scene = serving(model("m"))
    for number in range(4):
        assert run(scene, f"short{number}", wait_ns=SECOND_NS) == []
        assert run(scene, f"part{number}", wait_ns=2 * SECOND_NS) == []


def test_a_call_that_does_not_wait_says_that_none_is_lost() -> None:
    scene = serving(model("m"))
    for number in range(3):
        assert run(scene, f"waits{number}", wait_ns=3 * SECOND_NS) == []
        assert run(scene, f"runs{number}", wait_ns=0) == []


def test_work_that_was_cut_off_just_before_explains_a_wait() -> None:
    scene = serving(model("m"))
    for number in range(3):
        scene.turn(arrived(f"cut{number}", deadline_ns=scene.now_ns + LONG_NS))
        scene.wait(SECOND_NS)
        scene.turn(cancel(f"cut{number}"))
        scene.ends(f"cut{number}", Cancelled("aborted"))
        scene.wait(SECOND_NS)
        assert run(scene, f"r{number}", wait_ns=3 * SECOND_NS) == []


def test_it_is_unloaded_when_its_queue_is_exhausted() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("waits", deadline_ns=LONG_NS))
    for number in range(2):
        scene.turn(arrived(f"then{number}", deadline_ns=LONG_NS))
        scene.wait(4 * SECOND_NS)
        attempt = next(iter(scene.engine.attempts))
        effects = scene.turn(AttemptEnded(attempt, None, slot_wait_ns=3 * SECOND_NS))
    assert steps(effects) == ["slot_lost m on b1"]
    assert started(effects) == ["then1"]
    assert "(3.0 s of the last one) though no more than 1 run" in evidence(effects)
    assert switches(scene.ends("then1")) == ["unload m on b1"]


def test_one_that_is_never_idle_is_gated_after_a_minute() -> None:
    scene = serving(model("m"))
    for number in range(40):
        scene.turn(arrived(f"r{number}", deadline_ns=LONG_NS))
    told = list[str]()
    for _ in range(2):
        scene.wait(4 * SECOND_NS)
        attempt = next(iter(scene.engine.attempts))
        told += steps(scene.turn(AttemptEnded(attempt, None, slot_wait_ns=3 * SECOND_NS)))
    assert told == ["slot_lost m on b1"]
    assert started(scene.ends("r2")) == ["r3"]
    scene.wait(MINUTE_NS)
    effects = scene.ends("r3")
    assert (started(effects), switches(effects)) == ([], ["unload m on b1"])
    assert switches(scene.unloaded("m")) == ["load m on b1"]
    assert started(scene.loaded("m")) == ["r4"]


def test_never_in_a_loop() -> None:
    scene = serving(model("m"))
    run(scene, "r1", wait_ns=3 * SECOND_NS)
    run(scene, "r2", wait_ns=3 * SECOND_NS)
    scene.unloaded("m")
    scene.turn(arrived("again", deadline_ns=LONG_NS))
    scene.loaded("m")
    scene.ends("again")
    told = list[str]()
    for number in range(200):
        told += run(scene, f"then{number}", wait_ns=3 * SECOND_NS)
        assert not told or scene.now_ns > 10 * MINUTE_NS
        if told:
            break
    assert told == ["slot_lost m on b1", "unload m on b1"]


def test_an_unload_for_a_lost_slot_that_fails_is_tried_again() -> None:
    scene = serving(model("m"))
    run(scene, "r1", wait_ns=3 * SECOND_NS)
    run(scene, "r2", wait_ns=3 * SECOND_NS)
    assert steps(scene.unloaded("m", error=LoadFailed("late"))) == ["cure_failed m on b1"]
    assert switches(scene.wait(30 * SECOND_NS)) == ["unload m on b1"]


def test_a_backend_that_keeps_its_models_is_left_alone() -> None:
    scene = Scene(BackendPolicy(name="b1", keeps_models=True))
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    for number in range(3):
        assert run(scene, f"r{number}", wait_ns=3 * SECOND_NS) == []
