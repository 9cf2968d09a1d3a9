"""Loads that fail: who hears of it, and when the model is tried again."""

from __future__ import annotations

from broker.core.effects import Finish
from broker.core.errors import BackendUnreachable, LoadFailed
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.requests import Outcome
from tests.unit.core.gate_words import refused
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    of,
    switches,
)

BROKEN = LoadFailed("out of memory")


def test_a_failed_load_ends_those_who_wait_and_is_not_tried_again_for_a_while() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", agent="b"))
    effects = scene.loaded("m", error=BROKEN)
    assert finished(effects) == [("r1", Outcome.FAILED), ("r2", Outcome.FAILED)]
    assert {each.error for each in of(effects, Finish)} == {BROKEN}
    scene.wait(MINUTE_NS - 1)
    refusal = scene.turn(arrived("r3"))
    assert switches(refusal) == []
    scene.wait(1)
    assert switches(scene.turn(arrived("r4"))) == ["load m on b1"]


def test_a_failed_load_leaves_its_waiters_to_another_backend() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m"))
    scene.open("b2", model("m"))
    scene.turn(arrived("r1"))
    effects = scene.loaded("m", error=BROKEN)
    assert (finished(effects), switches(effects)) == ([], ["load m on b2"])
    effects = scene.loaded("m", "b2", error=BROKEN)
    assert finished(effects) == [("r1", Outcome.FAILED)]


def test_other_models_are_loaded_while_one_is_held_off() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", model="n"))
    assert switches(scene.loaded("m", error=BROKEN)) == ["load n on b1"]


def test_a_load_that_found_no_server_is_tried_again_as_soon_as_it_is_back() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    effects = scene.loaded("m", error=BackendUnreachable("refused"))
    assert (finished(effects), switches(effects)) == ([], [])
    assert switches(scene.up("b1")) == ["load m on b1"]


def test_a_load_that_fails_again_is_left_alone_for_longer_up_to_a_limit() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    waits_ns = []
    for number in range(6):
        assert switches(scene.turn(arrived(f"r{number}", deadline_ns=120 * MINUTE_NS))) == [
            "load m on b1"
        ]
        scene.loaded("m", error=LoadFailed("it does not fit"))
        refusal = refused(scene.turn(arrived("at once", deadline_ns=120 * MINUTE_NS)))
        assert refusal.retry_after_ns is not None
        waits_ns.append(refusal.retry_after_ns)
        scene.wait(refusal.retry_after_ns)
    assert [each // MINUTE_NS for each in waits_ns] == [1, 2, 4, 8, 16, 16]


def test_a_load_that_works_makes_the_next_failure_the_first() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    for name in ("r1", "r2"):
        scene.turn(arrived(name, deadline_ns=60 * MINUTE_NS))
        scene.loaded("m", error=LoadFailed("it does not fit"))
        scene.wait(2 * MINUTE_NS)
    scene.turn(arrived("r3", deadline_ns=60 * MINUTE_NS))
    scene.loaded("m")
    scene.ends("r3")
    scene.wait(SECOND_NS)
    scene.seen("b1")  # somebody else made it leave
    scene.turn(arrived("r4", deadline_ns=60 * MINUTE_NS))
    scene.loaded("m", error=LoadFailed("it does not fit"))
    refusal = refused(scene.turn(arrived("r5", deadline_ns=60 * MINUTE_NS)))
    assert refusal.retry_after_ns == MINUTE_NS
