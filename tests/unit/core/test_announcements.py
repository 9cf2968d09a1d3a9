"""What waiting clients are told: at once, then what has changed materially, and not too often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.announcements import FRONT_MAX, is_material, wait_reason
from broker.core.effects import TellQueued
from broker.core.errors import BackendUnreachable, LoadFailed
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


# Estimates


def test_nothing_is_estimated_before_something_was_measured() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    assert word.eta_ns is None


def test_one_measured_request_tells_and_the_interval_says_how_little() -> None:
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS, samples=1)
    scene.turn(arrived("running"))
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    low_ns, eta_ns, high_ns = interval_of(word)
    assert eta_ns > 0
    assert high_ns - low_ns > eta_ns


def test_the_estimate_is_the_measured_service_times_the_place_over_the_slots() -> None:
    scene = Scene()
    scene.open("b1", model("m", slots=2))
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.wait(4 * SECOND_NS)
    scene.ends("r1")
    scene.measured(4 * SECOND_NS)
    for name in ("r2", "r3", "r4"):
        scene.turn(arrived(name))
    [word] = of(scene.turn(arrived("r5")), TellQueued)
    assert word.position == 2
    assert word.eta_ns == pytest.approx(4 * SECOND_NS)


def test_the_estimate_of_what_is_not_resident_includes_the_measured_load() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.wait(9 * SECOND_NS)
    scene.loaded("m")
    scene.wait(4 * SECOND_NS)
    scene.ends("r1")
    scene.measured(4 * SECOND_NS)
    scene.seen("b1")  # it has vanished
    [word] = of(scene.turn(arrived("r2")), TellQueued)
    assert word.eta_ns == pytest.approx(9 * SECOND_NS)  # it is the first to start then
    [word] = of(scene.turn(arrived("r3")), TellQueued)
    assert word.eta_ns == pytest.approx(13 * SECOND_NS)


def test_a_failed_load_measures_nothing() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.wait(9 * SECOND_NS)
    scene.loaded("m", error=LoadFailed("out of memory"))
    assert scene.engine.estimates.load_ns("blob-m") is None


def interval_of(word: TellQueued) -> tuple[int, int, int]:
    """The interval and the point in it."""
    assert word.eta_low_ns is not None
    assert word.eta_ns is not None
    assert word.eta_high_ns is not None
    assert word.eta_low_ns <= word.eta_ns <= word.eta_high_ns
    return word.eta_low_ns, word.eta_ns, word.eta_high_ns


def test_whose_turn_it_is_at_once_is_told_so() -> None:
    scene = serving(model("m"))
    scene.measured()
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    assert word.eta_ns == 0
    assert scene.engine.records["a", "r1"].attempt is not None


def test_a_load_under_way_counts_as_far_as_it_is_left() -> None:
    scene = loaded_in(9 * SECOND_NS)
    scene.turn(arrived("r2"))
    scene.wait(5 * SECOND_NS)
    [word] = of(scene.turn(arrived("r3")), TellQueued)
    assert word.reason.value == "LOADING"
    assert word.eta_ns == pytest.approx((4 + 4) * SECOND_NS)  # the load, then who is before it


def loaded_in(load_ns: int) -> Scene:
    """A model that was loaded in so long and served requests of 4 s, and has vanished."""
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.wait(load_ns)
    scene.loaded("m")
    scene.wait(4 * SECOND_NS)
    scene.ends("r1")
    scene.measured(4 * SECOND_NS)
    scene.seen("b1")
    return scene


def test_what_will_start_at_another_time_than_it_was_told_hears_so() -> None:
    """Though neither its place nor its reason has changed."""
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS)
    scene.turn(arrived("running"))
    [first] = of(scene.turn(arrived("r1")), TellQueued)
    _, _, high_ns = interval_of(first)
    scene.wait(high_ns)  # what runs takes longer than any did
    scene.turn(arrived("r2"))
    words = {each.key[1]: each for each in of(scene.wait(2 * SECOND_NS), TellQueued)}
    assert (words["r1"].position, words["r1"].reason) == (first.position, first.reason)


def test_the_first_word_is_judged_when_its_request_starts() -> None:
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS)
    waits = scene.engine.waits
    before = waits.judged
    scene.turn(arrived("running"))
    scene.turn(arrived("r1"))
    assert waits.judged == before + 1  # the one that runs had a free slot
    scene.wait(4 * SECOND_NS)
    scene.ends("running")
    assert waits.judged == before + 2
    assert waits.share_inside == 1.0


def test_who_leaves_after_its_interval_was_told_wrong_and_before_it_tells_nothing() -> None:
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS)
    waits = scene.engine.waits
    scene.turn(arrived("running"))
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    scene.turn(arrived("r2"))
    judged, inside = waits.judged, waits.inside
    scene.turn(CancelAsked(("a", "r2"), CancelCause.CLIENT_GONE))
    assert (waits.judged, waits.left_before) == (judged, 1)
    _, _, high_ns = interval_of(word)
    scene.wait(high_ns + 1)
    scene.turn(CancelAsked(("a", "r1"), CancelCause.CLIENT_GONE))
    assert (waits.judged, waits.inside) == (judged + 1, inside)


@pytest.mark.parametrize("waiting", [3, 2 * FRONT_MAX])
def test_work_ahead_counts_request_by_request_or_by_the_usual_size(waiting: int) -> None:
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS)
    scene.turn(arrived("running"))
    for number in range(waiting):
        scene.turn(arrived(f"r{number}"))
    [word] = of(scene.turn(arrived("last")), TellQueued)
    assert word.eta_ns == pytest.approx((waiting + 1) * 4 * SECOND_NS, rel=0.05)
