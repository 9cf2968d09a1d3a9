"""When who waits is told that it will start, and what is learned from what becomes of that."""

from __future__ import annotations

import pytest

from broker.core.announcements import FRONT_MAX
from broker.core.effects import TellQueued
from broker.core.errors import LoadFailed
from broker.core.placement import BackendPolicy
from broker.core.stimuli import CancelAsked, CancelCause
from tests.unit.core.scene import SECOND_NS, Scene, arrived, model, of, serving


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
    assert waits.inside == waits.judged


def test_who_leaves_after_its_interval_was_told_wrong_and_before_it_tells_nothing() -> None:
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS)
    waits = scene.engine.waits
    scene.turn(arrived("running"))
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    scene.turn(arrived("r2"))
    judged, inside = waits.judged, waits.inside
    assert not scene.engine.records["a", "r1"].is_overdue
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


def two_models() -> Scene:
    """One place for two models, `m` loaded. Each loads in 10 s and serves requests of 4 s."""
    scene = Scene(BackendPolicy(name="b1", resident_max=1))
    scene.open("b1", model("m"), model("n"))
    for name in ("n", "m"):
        scene.turn(arrived(f"first of {name}", model=name))
        if name == "m":
            scene.unloaded("n")
        scene.wait(10 * SECOND_NS)
        scene.loaded(name)
        scene.wait(4 * SECOND_NS)
        scene.ends(f"first of {name}")
        scene.measured(4 * SECOND_NS, model=name)
    return scene


def test_another_model_waits_for_what_the_resident_has_to_do_and_for_its_load() -> None:
    scene = two_models()
    for name in ("r1", "r2", "r3"):
        scene.turn(arrived(name))
    [word] = of(scene.turn(arrived("other", model="n")), TellQueued)
    assert word.reason.value == "SWAP"
    assert word.eta_ns == pytest.approx((3 * 4 + 10) * SECOND_NS)  # one runs, two wait


def test_in_a_free_place_only_the_load_is_waited_for() -> None:
    scene = two_models()
    scene.seen("b1")  # nothing is loaded any more
    [word] = of(scene.turn(arrived("other", model="n")), TellQueued)
    assert word.reason.value == "LOADING"
    assert word.eta_ns == pytest.approx(10 * SECOND_NS)


def test_a_model_whose_load_was_never_measured_tells_nothing() -> None:
    scene = serving(model("m"), model("n"))
    scene.measured()
    scene.turn(arrived("running"))
    [word] = of(scene.turn(arrived("other", model="n")), TellQueued)
    assert word.reason.value == "SWAP"
    assert (word.eta_low_ns, word.eta_ns, word.eta_high_ns) == (None, None, None)


def test_who_waits_for_longer_than_it_was_told_is_judged_before_it_starts() -> None:
    scene = serving(model("m"))
    scene.measured(4 * SECOND_NS)
    waits = scene.engine.waits
    scene.turn(arrived("running"))
    [word] = of(scene.turn(arrived("r1")), TellQueued)
    judged, inside = waits.judged, waits.inside
    _, _, high_ns = interval_of(word)
    scene.wait(high_ns + 1)
    scene.turn(arrived("r2"))
    scene.wait(2 * SECOND_NS)  # a round
    assert (waits.judged, waits.inside) == (judged + 1, inside)
    scene.ends("running")
    assert (waits.judged, waits.inside) == (judged + 1, inside)  # r1 has started
