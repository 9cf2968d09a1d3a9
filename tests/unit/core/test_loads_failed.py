"""Loads that fail: who hears of it, and when the model is tried again."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import Finish
from broker.core.errors import BackendUnreachable, LoadFailed
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.requests import Outcome
from broker.core.residencies import LOADS_FAILED_MAX
from broker.core.residency import ResidencyState as _State
from broker.core.stimuli import Arrived
from broker.core.time_outs import TimeOuts
from tests.unit.core.gate_words import refused
from tests.unit.core.healing_scene import evidence, steps
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    of,
    request,
    started,
    switches,
)

BROKEN = LoadFailed("out of memory")


def test_a_failed_load_is_not_tried_again_for_a_while_and_those_who_wait_do_so_for_that() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", agent="b"))
    effects = scene.loaded("m", error=BROKEN)
    assert (finished(effects), steps(effects)) == ([], ["sick m on b1"])
    assert evidence(effects) == "out of memory; failed 1 times in a row, next try in 60 s"
    assert (switches(scene.wait(MINUTE_NS - 1)), scene.state("m")) == ([], _State.ABSENT)
    assert switches(scene.wait(1)) == ["load m on b1"]
    assert started(scene.loaded("m")) == ["r1"]


def test_the_third_failure_in_a_row_ends_those_who_wait() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", agent="b"))
    for _ in range(LOADS_FAILED_MAX - 1):
        assert finished(scene.loaded("m", error=BROKEN)) == []
        scene.wait(MINUTE_NS)
    effects = scene.loaded("m", error=BROKEN)
    assert finished(effects) == [("r1", Outcome.FAILED), ("r2", Outcome.FAILED)]
    assert {each.error for each in of(effects, Finish)} == {BROKEN}


def test_who_has_not_the_time_until_the_next_try_hears_at_once_why() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    scene.turn(arrived("in a hurry", deadline_ns=MINUTE_NS))
    scene.turn(arrived("patient", agent="b", deadline_ns=MINUTE_NS + 1))
    short = replace(request("short of patience"), time_outs=TimeOuts(queue_ns=30 * SECOND_NS))
    scene.turn(Arrived(short))
    effects = scene.loaded("m", error=BROKEN)
    names = ["in a hurry", "short of patience"]
    assert finished(effects) == [(each, Outcome.FAILED) for each in names]


def test_a_failed_load_leaves_its_waiters_to_another_backend() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m"))
    scene.open("b2", model("m"))
    scene.turn(arrived("r1"))
    effects = scene.loaded("m", error=BROKEN)
    assert (finished(effects), switches(effects)) == ([], ["load m on b2"])
    for backend, other in (("b2", "b1"), ("b1", "b2"), ("b2", "b1"), ("b1", "b2")):
        effects = scene.loaded("m", backend, error=BROKEN)
        if not switches(effects):
            effects += scene.wait(MINUTE_NS)
        assert (finished(effects), switches(effects)) == ([], [f"load m on {other}"])
    assert finished(scene.loaded("m", "b2", error=BROKEN)) == [("r1", Outcome.FAILED)]


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


def fail_again(scene: Scene) -> int:
    """The load that somebody waits for fails: how long it is left alone then."""
    scene.loaded("m", error=LoadFailed("it does not fit"))
    return scene.engine.backends["b1"].held_until_ns["blob-m"] - scene.now_ns


def test_a_load_that_fails_again_is_left_alone_for_longer_up_to_a_limit() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    waits_ns = []
    for number in range(6):
        if scene.state("m") is not _State.LOADING:  # nobody waited for it any more
            scene.turn(arrived(f"r{number}", deadline_ns=120 * MINUTE_NS))
        waits_ns.append(fail_again(scene))
        scene.wait(waits_ns[-1])
    assert [each // MINUTE_NS for each in waits_ns] == [1, 2, 4, 8, 16, 16]


def test_who_comes_while_it_is_left_alone_hears_until_when() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    scene.turn(arrived("r"))
    scene.loaded("m", error=BROKEN)
    scene.wait(SECOND_NS)
    assert refused(scene.turn(arrived("late"))).retry_after_ns == MINUTE_NS - SECOND_NS


def test_a_load_that_works_makes_the_next_failure_the_first() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    scene.turn(arrived("r", deadline_ns=60 * MINUTE_NS))
    for _ in range(2):
        scene.wait(fail_again(scene))
    scene.loaded("m")
    scene.ends("r")
    scene.wait(SECOND_NS)
    scene.seen("b1")  # somebody else made it leave
    scene.turn(arrived("again", deadline_ns=60 * MINUTE_NS))
    assert fail_again(scene) == MINUTE_NS
