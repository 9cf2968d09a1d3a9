"""What waiting clients are told: at once, then what has changed materially, and not too often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.announcements import FRONT_MAX, ROUNDS, is_material, wait_reason
from broker.core.effects import TellQueued
from broker.core.errors import BackendUnreachable
from broker.core.placement import BackendPolicy
from broker.core.stimuli import CancelAsked, CancelCause
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    serving,
    told,
)


@pytest.mark.parametrize(
    ("before", "now", "material"),
    [
        (1, 1, False),
        (2, 1, True),
        (4, 3, True),  # near the front every step counts
        (1, 3, True),
        (100, 99, False),
        (100, 76, False),
        (100, 75, True),  # a quarter of the way
        (100, 125, False),
        (100, 126, True),
        (0, 9, True),  # never told
    ],
)
def test_a_position_is_worth_a_word_near_the_front_or_after_a_quarter(
    before: int, now: int, material: bool
) -> None:
    assert is_material(before, now) is material


def test_the_first_word_comes_at_once_and_says_what_it_waits_for() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("running"))
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    assert (word.position, word.reason.value) == (1, "SLOT")
    assert word.detail == "a free slot of m:latest on b1"


def test_who_comes_while_a_slot_is_free_waits_for_its_turn_only() -> None:
    [word] = of(serving(model("m")).turn(arrived("r1")), TellQueued)
    assert (word.reason.value, word.detail) == (
        *("SLOT", "its turn at m:latest on b1, which has a free slot"),
    )


def test_models_are_called_as_their_backend_calls_them() -> None:
    """Not each dialect knows tags: a name that nobody has would be of no use to anybody."""
    scene = serving(model("m"))
    scene.turn(arrived("running"))
    [backend] = scene.engine.backends.values()
    backend.models["m:latest"] = replace(backend.models["m:latest"], name="Org/M")
    assert reason_of(scene, "m")[1] == "a free slot of Org/M on b1"


def test_nobody_is_told_anything_while_nothing_changes() -> None:
    scene = serving(model("m"))
    for name in ("running", "r1", "r2"):
        scene.turn(arrived(name))
    scene.wait(2 * SECOND_NS)
    assert told(scene.wait(60 * SECOND_NS)) == []


def test_who_moves_up_is_told_once_per_interval_however_often_it_moves() -> None:
    scene = serving(model("m"))
    for number in range(6):
        scene.turn(arrived(f"r{number}"))
    scene.wait(2 * SECOND_NS)
    effects = scene.ends("r0") + scene.ends("r1")
    assert told(effects) == []
    assert told(scene.wait(SECOND_NS - 1)) == []
    assert told(scene.wait(1)) == [("r3", 1, "SLOT"), ("r4", 2, "SLOT"), ("r5", 3, "SLOT")]
    assert told(scene.wait(60 * SECOND_NS)) == []


def test_far_back_only_a_quarter_of_the_way_is_told() -> None:
    scene = serving(model("m"))
    for number in range(41):
        scene.turn(arrived(f"r{number}"))
    scene.wait(2 * SECOND_NS)
    scene.ends("r0")
    names = [name for name, _, _ in told(scene.wait(SECOND_NS))]
    assert names == ["r2", "r3", "r4"]  # those in front; the 40th is now the 39th


def test_positions_told_later_follow_the_rules_of_the_queue() -> None:
    """At arrival one is told the last place; the first round then tells the true one."""
    scene = serving(model("m"))
    for number in range(5):
        scene.turn(arrived(f"a{number}", priority=9))
    assert told(scene.turn(arrived("urgent", agent="b", priority=1))) == [("urgent", 5, "SLOT")]
    assert ("urgent", 1, "SLOT") in told(scene.wait(SECOND_NS))


def test_a_change_of_reason_is_told_even_where_the_position_stays() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1"))
    assert told(scene.turn(arrived("n1", model="n"))) == [("n1", 1, "SWAP")]
    scene.wait(SECOND_NS)
    scene.ends("m1")
    scene.unloaded("m")
    assert told(scene.wait(SECOND_NS)) == [("n1", 1, "LOADING")]


@pytest.mark.parametrize("by", ["a poll", "a call", "a load"])
def test_everybody_hears_that_the_backend_fell_away_and_came_back(by: str) -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1"))
    if by == "a load":
        scene.ends("m1")
        scene.seen("b1")
    scene.turn(arrived("m2"))
    scene.turn(arrived("n1", model="n"))
    scene.wait(2 * SECOND_NS)
    if by == "a poll":
        scene.down("b1")
    elif by == "a call":
        scene.ends("m1", BackendUnreachable("refused"))
    else:
        scene.loaded("m", error=BackendUnreachable("refused"))
    words = told(scene.wait(SECOND_NS))
    assert {name: reason for name, _, reason in words if name != "m1"} == {
        "m2": "BACKEND_DOWN",
        "n1": "BACKEND_DOWN",
    }
    scene.up("b1")
    reasons = {name: reason for name, _, reason in told(scene.wait(SECOND_NS))}
    assert reasons["n1"] in ("SWAP", "LOADING")


def test_of_a_long_line_the_last_hear_what_they_wait_for_too() -> None:
    """Not all are looked at in one round; nothing may have to change for the next."""
    scene = serving(model("m"))
    for number in range(FRONT_MAX + 40):
        scene.turn(arrived(f"r{number}", agent=f"a{number}"))
    scene.wait(10 * SECOND_NS)
    scene.down("b1")
    words = told(scene.wait(ROUNDS * SECOND_NS))
    reasons = {name: reason for name, _, reason in words}
    assert reasons == dict.fromkeys((f"r{n}" for n in range(1, FRONT_MAX + 40)), "BACKEND_DOWN")
    assert told(scene.wait(60 * SECOND_NS)) == []


def test_a_place_given_back_is_told_in_the_next_round() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r1"))
    scene.ends("r1", BackendUnreachable("refused"))
    assert told(scene.wait(SECOND_NS)) == [("r1", 1, "BACKEND_DOWN")]


def test_who_left_is_told_nothing_more() -> None:
    scene = serving(model("m"))
    for name in ("running", "r1", "r2"):
        scene.turn(arrived(name))
    scene.wait(2 * SECOND_NS)
    scene.turn(CancelAsked(("a", "r1"), CancelCause.BY_AGENT))
    assert told(scene.wait(SECOND_NS)) == [("r2", 1, "SLOT")]


# Reasons


def reason_of(scene: Scene, name: str) -> tuple[str, str]:
    [word] = of(scene.turn(arrived(f"to {name}", model=name)), TellQueued)
    return word.reason.value, word.detail


def test_an_empty_backend_is_about_to_load() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    assert reason_of(scene, "m") == ("LOADING", "m:latest, which is about to be loaded on b1")
    scene.turn(arrived("second"))
    assert reason_of(scene, "m") == ("LOADING", "m:latest, which is being loaded on b1")


def test_room_beside_others_is_no_swap() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    assert reason_of(scene, "n")[0] == "LOADING"


def test_a_swap_names_what_is_in_the_way() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1"))
    words = "b1 to make room for n:latest (it holds m:latest)"
    assert reason_of(scene, "n") == ("SWAP", words)


def test_no_room_names_what_the_broker_does_not_manage() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"))
    words = "room for n:latest on b1, which holds m:latest, loaded by others"
    assert reason_of(scene, "n") == ("NO_ROOM", words)


def test_a_backend_that_is_down_is_named() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("m2"))
    scene.wait(2 * SECOND_NS)
    scene.down("b1")
    [word] = of(scene.wait(SECOND_NS), TellQueued)
    assert word.detail == "a backend that has m:latest to answer: b1 does not"
    assert word.eta_ns is None


def test_a_model_that_could_not_be_loaded_is_sick_for_a_while_and_why() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("waits", model="n"))
    backend = scene.engine.backends["b1"]
    backend.held_until_ns["blob-n"] = scene.now_ns + 7 * SECOND_NS
    backend.held_because["blob-n"] = "out of memory"
    record = scene.engine.records["a", "waits"]
    reason, detail = wait_reason(
        record, scene.engine.backends, scene.engine.backlog, scene.now_ns + 2 * SECOND_NS
    )
    assert (reason.value, detail) == (
        "SICK",
        "n:latest to be loaded on b1 again in 5 s, where that failed (out of memory)",
    )


def test_a_backend_that_drains_is_named() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("running"))
    scene.turn(arrived("waits"))
    scene.engine.backends["b1"].is_draining = True
    record = scene.engine.records["a", "waits"]
    reason, detail = wait_reason(record, scene.engine.backends, scene.engine.backlog, scene.now_ns)
    assert (reason.value, detail) == (
        "BACKEND_DRAINS",
        "b1, which has m:latest, to be opened again: nothing is started there",
    )


def test_of_several_backends_the_one_that_is_there_again_first_is_told() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"), BackendPolicy(name="b3"))
    for name in ("b1", "b2", "b3"):
        scene.open(name, model("m"))
    scene.turn(arrived("waits"))
    backends, record = scene.engine.backends, scene.engine.records["a", "waits"]
    backends["b1"].is_draining = True
    backends["b2"].broken.add("blob-m")
    backends["b2"].broken_until_ns["blob-m"] = scene.now_ns + 60 * SECOND_NS
    backends["b3"].held_until_ns["blob-m"] = scene.now_ns + 30 * SECOND_NS

    def reason() -> str:
        found, _ = wait_reason(record, backends, scene.engine.backlog, scene.now_ns)
        return found.value

    backends["b1"].residents.clear()
    assert reason() == "SICK"
    backends["b2"].broken_until_ns["blob-m"] = scene.now_ns + 9 * SECOND_NS
    assert reason() == "BREAKER"
    backends["b3"].healing.add("blob-m")
    assert reason() == "HEALING"
    backends["b2"].broken.clear()
    assert reason() == "LOADING"
