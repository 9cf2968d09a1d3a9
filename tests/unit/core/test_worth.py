"""The placement rule: what is loaded next, what is left for it, and when nobody may wait longer."""

from __future__ import annotations

import pytest

from broker.core.placement import BackendPolicy
from broker.core.residency import ResidencyState
from broker.core.worth import PATIENCE_NS_MIN, URGENT_LATE_NS
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    serving,
    started,
    switches,
)

DAY_NS = 24 * 60 * MINUTE_NS
LOAD_NS = 10 * SECOND_NS


def learned(*names: str, service_s: float = 1.0, loads_s: dict[str, float] | None = None) -> Scene:
    """One place for a model. Each of these was loaded before, in LOAD_NS or as said, and what asks
    for it has run for so long; the first of them is there."""
    scene = Scene()
    scene.open("b1", *(model(name) for name in names))
    before = ""
    for name in (*names[1:], names[0]):
        scene.turn(arrived(f"first-{name}", model=name, deadline_ns=scene.now_ns + DAY_NS))
        if before:
            scene.unloaded(before)
        scene.wait(int((loads_s or {}).get(name, LOAD_NS / SECOND_NS) * SECOND_NS))
        scene.loaded(name)
        scene.wait(int(service_s * SECOND_NS))
        scene.ends(f"first-{name}", output_tokens=10)
        before = name
    return scene


def come(scene: Scene, *names: str, within_s: float = 3600.0, priority: int = 5) -> list[str]:
    """Requests for these models, named after them and numbered; what that switches."""
    done = list[str]()
    for number, name in enumerate(names):
        stamp = f"{name}-{scene.now_ns}-{number}"
        deadline_ns = scene.now_ns + int(within_s * SECOND_NS)
        effects = scene.turn(arrived(stamp, model=name, deadline_ns=deadline_ns, priority=priority))
        done += switches(effects)
    return done


def end_one(scene: Scene) -> None:
    """The oldest call ends after a second."""
    scene.wait(SECOND_NS)
    scene.end_one(output_tokens=10)


# What next


def test_the_most_that_can_be_served_in_a_second_is_loaded_next() -> None:
    scene = learned("m", "few", "many")
    come(scene, "m", "few")
    scene.wait(20 * SECOND_NS)
    come(scene, "many", "many", "many")
    scene.end_one()
    assert switches(scene.unloaded("m")) == ["load many on b1"]


def test_a_load_that_takes_longer_is_worth_less() -> None:
    scene = learned("m", "slow", "quick", loads_s={"slow": 40.0, "quick": 4.0})
    come(scene, "m", "slow", "slow", "quick")
    scene.end_one()
    assert switches(scene.unloaded("m")) == ["load quick on b1"]


def test_nothing_is_loaded_for_work_that_cannot_start_in_time() -> None:
    scene = learned("m", "late")
    assert come(scene, "late", within_s=9.0) == []
    assert scene.state("m") is ResidencyState.RESIDENT
    assert switches(scene.wait(9 * SECOND_NS)) == []
    assert come(scene, "late", within_s=12.0) == ["unload m on b1"]


def test_of_two_alike_that_goes_first_whose_time_runs_out() -> None:
    """The other is still in time afterwards."""
    scene = learned("m", "calm", "hurried")
    come(scene, "m", "calm", within_s=600.0)
    scene.wait(SECOND_NS)
    come(scene, "hurried", within_s=20.0)
    scene.end_one()
    assert switches(scene.unloaded("m")) == ["load hurried on b1"]


def test_urgent_work_whose_time_runs_out_outweighs_many() -> None:
    scene = learned("m", "urgent", "many")
    come(scene, "m")
    come(scene, "many", "many", "many", "many")
    late_s = (LOAD_NS + URGENT_LATE_NS) / SECOND_NS - 1
    come(scene, "urgent", within_s=late_s, priority=2)
    scene.end_one()
    assert switches(scene.unloaded("m")) == ["load urgent on b1"]


def test_urgent_work_that_has_time_waits_for_many() -> None:
    scene = learned("m", "urgent", "many")
    come(scene, "m")
    come(scene, "many", "many", "many", "many")
    come(scene, "urgent", within_s=600.0, priority=2)
    scene.end_one()
    assert switches(scene.unloaded("m")) == ["load many on b1"]


# What is left, and when


def test_what_still_has_as_much_to_do_is_not_left() -> None:
    scene = learned("m", "n")
    come(scene, "m", "m", "m", "m")
    assert come(scene, "n", "n", "n", "n") == []
    for _ in range(2):
        end_one(scene)
        assert scene.state("m") is ResidencyState.RESIDENT
    end_one(scene)
    assert scene.state("m") is ResidencyState.DRAINING  # its last one runs


def test_what_has_no_queue_serves_who_comes_while_more_than_a_few_of_its_slots_work() -> None:
    """It could not leave before they have ended, and who comes meanwhile needs no load."""
    scene = serving(model("m", slots=2), model("n"))
    come(scene, "m")
    assert come(scene, "n") == []
    assert scene.state("m") is ResidencyState.RESIDENT
    assert started(scene.turn(arrived("late"))) == ["late"]
    end_one(scene)
    assert scene.state("m") is ResidencyState.RESIDENT
    end_one(scene)
    assert scene.state("m") is ResidencyState.UNLOADING


def test_of_many_slots_the_last_few_keep_no_model_open() -> None:
    scene = serving(model("m", slots=8), model("n"))
    come(scene, *["m"] * 3)
    come(scene, "n")
    assert scene.state("m") is ResidencyState.RESIDENT
    end_one(scene)
    assert scene.state("m") is ResidencyState.DRAINING


def test_who_has_waited_beyond_the_patience_is_not_kept_waiting_by_who_comes_meanwhile() -> None:
    scene = serving(model("m", slots=2), model("n"))
    come(scene, "m", within_s=DAY_NS / SECOND_NS)
    come(scene, "n", within_s=DAY_NS / SECOND_NS)
    scene.wait(10 * MINUTE_NS)
    come(scene, "m", within_s=DAY_NS / SECOND_NS)
    assert scene.state("m") is ResidencyState.DRAINING


def test_what_has_little_to_do_is_left_for_far_more() -> None:
    """One of m that takes a minute, against many of n that take a second."""
    scene = learned("m", "n", loads_s={"m": 2.0, "n": 2.0})
    for _ in range(30):
        come(scene, "m")
        scene.wait(MINUTE_NS)
        scene.end_one(output_tokens=600)
    come(scene, "m", "m")
    assert come(scene, *["n"] * 12) == []
    scene.wait(SECOND_NS)
    come(scene, "n")
    assert scene.state("m") is ResidencyState.DRAINING
    scene.end_one(output_tokens=600)
    assert switches(scene.unloaded("m")) == ["load n on b1"]


@pytest.mark.parametrize("backlog", [1, 40])
def test_nobody_waits_beyond_the_patience_however_much_others_have_to_do(backlog: int) -> None:
    scene = learned("busy", "rare")
    come(scene, *["busy"] * (backlog + 80))
    come(scene, "rare")
    waited_ns = 0
    while scene.state("busy") is ResidencyState.RESIDENT:
        end_one(scene)
        waited_ns += SECOND_NS
        come(scene, "busy")
    assert waited_ns >= PATIENCE_NS_MIN
    effects = scene.unloaded("busy")
    assert switches(effects) == ["load rare on b1"]
    scene.wait(LOAD_NS)
    assert [name.partition("-")[0] for name in started(scene.loaded("rare"))] == ["rare"]


def test_a_turn_that_was_cut_short_is_followed_by_its_own() -> None:
    """What had to leave with work to do comes back after the one it left for."""
    scene = learned("busy", "rare")
    come(scene, *["busy"] * 100)
    come(scene, "rare")
    while scene.state("busy") is ResidencyState.RESIDENT:
        end_one(scene)
    scene.unloaded("busy")
    scene.wait(LOAD_NS)
    scene.loaded("rare")
    end_one(scene)
    assert scene.state("rare") in (ResidencyState.DRAINING, ResidencyState.UNLOADING)
    assert switches(scene.unloaded("rare")) == ["load busy on b1"]


def test_without_any_measurement_the_longest_total_wait_decides_among_equals() -> None:
    scene = serving(model("m"), model("young"), model("old"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("o", model="old"))
    scene.wait(5 * SECOND_NS)
    scene.turn(arrived("y", model="young"))
    scene.ends("m1")
    assert switches(scene.unloaded("m")) == ["load old on b1"]


def test_where_two_fit_the_one_that_idles_leaves() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", model("m"), model("n"), model("o"))
    for name in ("m", "n"):
        come(scene, name)
        scene.loaded(name)
    scene.wait(SECOND_NS)
    scene.end_one()
    assert come(scene, "o") == ["unload m on b1"]
    assert scene.state("n") is ResidencyState.RESIDENT


def test_a_third_is_not_forgotten_while_two_with_older_requests_take_turns() -> None:
    """Of both some request always stays behind that is older than all of the third."""
    scene = learned("one", "two", "third")
    come(scene, *["one"] * 400, *["two"] * 400)
    scene.wait(SECOND_NS)
    come(scene, "third")
    there = list[str]()
    for _ in range(2000):
        scene.wait(SECOND_NS)
        if scene.engine.attempts:
            scene.end_one(output_tokens=10)
        for name in ("one", "two", "third"):
            if scene.state(name) is ResidencyState.UNLOADING:
                scene.unloaded(name)
            elif scene.state(name) is ResidencyState.LOADING:
                scene.wait(LOAD_NS)
                scene.loaded(name)
                there.append(name)
        if "third" in there:
            break
    assert there[-1] == "third"
    assert there.count("one") + there.count("two") <= 3
