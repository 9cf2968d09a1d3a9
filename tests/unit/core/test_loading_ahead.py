"""The next model is loaded beside the others where the server holds one more and bytes prove it."""

from __future__ import annotations

import pytest

from broker.core.effects import AbortLoad, TellSwitch
from broker.core.errors import BackendUnreachable, LoadFailed
from broker.core.placement import BackendPolicy
from broker.core.residency import ResidencyState, SwitchStep
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    finished,
    model,
    of,
    resident,
    started,
    switches,
)

RESIDENT, DRAINING = ResidencyState.RESIDENT, ResidencyState.DRAINING


def measured(scene: Scene, *names: str) -> Scene:
    """All of these have been there before, and took 1,200 bytes each."""
    seen = scene.engine.backends["b1"].memory_seen
    seen.update((f"blob-{name}", 1_200) for name in names)
    return scene


def roomy(memory_bytes: int | None = 2400, loaded_max: int | None = 2) -> Scene:
    """One place, and memory for two models of 1,200 bytes; m is loaded and works."""
    policy = BackendPolicy(name="b1", memory_bytes=memory_bytes, loaded_max=loaded_max)
    scene = Scene(policy)
    scene.open("b1", model("m", slots=4), model("n", slots=4), model("o"))
    measured(scene, "m", "n", "o")
    scene.turn(arrived("m1"))
    scene.loaded("m")
    return scene


def test_the_next_is_loaded_beside_the_one_that_leaves_for_it() -> None:
    scene = roomy()
    effects = scene.turn(arrived("n1", model="n"))
    assert (switches(effects), scene.state("m")) == (["load n on b1"], RESIDENT)
    assert of(effects, TellSwitch)[0].step is SwitchStep.LOADED_AHEAD
    assert started(scene.turn(arrived("m2"))) == ["m2"]  # no gate before the next is there
    effects = scene.loaded("n")
    assert (started(effects), scene.state("m")) == (["n1"], DRAINING)
    assert started(scene.turn(arrived("m3"))) == []
    scene.ends("m1")
    assert switches(scene.ends("m2")) == ["unload m on b1"]


@pytest.mark.parametrize(
    ("memory_bytes", "loaded_max"),
    [
        (2399, 2),  # it does not fit
        (None, 2),  # nobody knows
        (2400, 1),  # the server would evict one
        (2400, None),
    ],
)
def test_nothing_is_loaded_ahead_that_is_not_proven_to_fit(
    memory_bytes: int | None, loaded_max: int | None
) -> None:
    scene = roomy(memory_bytes, loaded_max)
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    assert scene.state("m") is DRAINING
    assert switches(scene.ends("m1")) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]


@pytest.mark.parametrize("unknown", ["blob-m", "blob-n"])
def test_a_file_proves_nothing_of_what_a_model_takes(unknown: str) -> None:
    """A context of its own may take more than the weights do."""
    scene = roomy()
    del scene.engine.backends["b1"].memory_seen[unknown]
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    assert scene.state("m") is DRAINING


def test_what_a_model_really_takes_counts_more_than_what_its_file_tells() -> None:
    scene = roomy()
    scene.seen("b1", resident("m", memory_bytes=1300))
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    assert scene.state("m") is DRAINING


def test_one_that_drains_already_is_replaced_as_soon_as_there_is_room() -> None:
    scene = roomy()
    scene.seen("b1", resident("m"), resident("other"))  # a stranger takes the rest
    scene.turn(arrived("n1", model="n"))
    assert scene.state("m") is RESIDENT  # it would not help
    scene.seen("b1", resident("m", memory_bytes=1300))  # the stranger left
    assert switches(scene.seen("b1", resident("m", memory_bytes=1300))) == []
    assert scene.state("m") is DRAINING
    effects = scene.seen("b1", resident("m"))  # smaller than was thought
    assert switches(effects) == ["load n on b1"]
    assert scene.state("m") is DRAINING
    scene.turn(cancel("n1"))
    scene.loaded("n")
    assert scene.state("m") is DRAINING  # n is there in its place, whoever waits
    assert switches(scene.ends("m1")) == ["unload m on b1"]


def test_whoever_leaves_is_chosen_when_the_next_is_there() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2, memory_bytes=3600, loaded_max=3))
    scene.open("b1", model("m", slots=2), model("n", slots=2), model("o"))
    measured(scene, "m", "n", "o")
    for name in ("m", "n"):
        scene.turn(arrived(f"{name}1", model=name))
        scene.loaded(name)
    scene.wait(SECOND_NS)
    assert switches(scene.turn(arrived("o1", model="o"))) == ["load o on b1"]
    for number in range(2, 5):  # the one that was to leave has a queue by now
        scene.turn(arrived(f"m{number}"))
    scene.loaded("o")
    assert (scene.state("m"), scene.state("n")) == (RESIDENT, DRAINING)


def test_a_load_ahead_gives_way_where_another_is_wanted() -> None:
    scene = roomy()
    scene.turn(arrived("n1", model="n"))
    scene.turn(arrived("o1", model="o"))
    assert of(scene.turn(cancel("n1")), AbortLoad) == [AbortLoad("b1", "blob-n")]
    effects = scene.loaded("n", error=LoadFailed("interrupted"))
    assert switches(effects) == ["load o on b1"]
    assert scene.state("m") is RESIDENT


def test_a_load_ahead_that_fails_costs_nobody_a_place() -> None:
    scene = roomy()
    scene.turn(arrived("n1", model="n"))
    scene.loaded("n", error=LoadFailed("out of memory"))
    assert scene.state("m") is RESIDENT
    assert started(scene.turn(arrived("m2"))) == ["m2"]


def test_one_that_nobody_wants_any_more_leaves_itself_when_it_is_there() -> None:
    scene = roomy()
    scene.turn(arrived("n1", model="n"))
    scene.turn(cancel("n1"))
    for number in range(2, 7):
        scene.turn(arrived(f"m{number}"))
    effects = scene.loaded("n")
    assert (switches(effects), scene.state("m")) == (["unload n on b1"], RESIDENT)


def test_what_vanished_meanwhile_need_not_leave() -> None:
    scene = roomy()
    scene.ends("m1")
    assert switches(scene.turn(arrived("n1", model="n"))) == ["load n on b1"]
    scene.seen("b1")
    assert started(scene.loaded("n")) == ["n1"]
    assert switches(scene.wait(SECOND_NS)) == []
    assert scene.state("n") is RESIDENT


def test_one_that_could_not_be_reached_to_leave_is_told_again() -> None:
    scene = roomy()
    scene.turn(arrived("n1", model="n"))
    scene.loaded("n")
    assert switches(scene.ends("m1")) == ["unload m on b1"]
    scene.unloaded("m", error=BackendUnreachable("refused"))
    assert switches(scene.up("b1")) == ["unload m on b1"]


# Drains that take too long


def slow() -> Scene:
    """m works for longer than a drain may take, and n waits."""
    scene = Scene()
    scene.open("b1", model("m", slots=4), model("n"))
    scene.turn(arrived("m1", deadline_ns=60 * MINUTE_NS))
    scene.loaded("m")
    scene.turn(arrived("n1", model="n", deadline_ns=60 * MINUTE_NS))
    assert scene.state("m") is DRAINING
    return scene


def test_a_gate_opens_again_where_the_last_requests_do_not_end() -> None:
    scene = slow()
    scene.turn(arrived("m2", deadline_ns=60 * MINUTE_NS))
    effects = scene.wait(10 * MINUTE_NS)
    assert started(effects) == ["m2"]
    told = of(effects, TellSwitch)
    assert [(each.step, each.model) for each in told] == [(SwitchStep.DRAIN_GIVEN_UP, "m:latest")]
    assert started(scene.turn(arrived("m3", deadline_ns=60 * MINUTE_NS))) == ["m3"]
    assert scene.engine.backends["b1"].drains_given_up == 1


def test_what_could_not_be_drained_is_told_to_leave_again_later() -> None:
    scene = slow()
    scene.wait(10 * MINUTE_NS)
    assert scene.state("m") is RESIDENT
    scene.wait(9 * MINUTE_NS)
    assert scene.state("m") is RESIDENT
    scene.wait(MINUTE_NS)
    scene.seen("b1", resident("m"))
    assert scene.state("m") is DRAINING
    effects = scene.ends("m1")
    assert switches(effects) == ["unload m on b1"]
    effects = scene.unloaded("m")
    assert (switches(effects), finished(effects)) == (["load n on b1"], [])


def test_another_leaves_instead_where_there_is_one() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", model("m", slots=4), model("n", slots=4), model("o"))
    hour = 60 * MINUTE_NS
    scene.turn(arrived("m1", deadline_ns=hour))
    scene.loaded("m")
    for number in range(1, 5):
        scene.turn(arrived(f"n{number}", model="n", deadline_ns=hour))
    scene.loaded("n")
    scene.turn(arrived("o1", model="o", deadline_ns=hour))
    assert (scene.state("m"), scene.state("n")) == (DRAINING, RESIDENT)
    for number in range(1, 4):
        scene.ends(f"n{number}")
    scene.wait(10 * MINUTE_NS)
    assert (scene.state("m"), scene.state("n")) == (RESIDENT, DRAINING)


def test_what_leaves_for_one_that_is_there_already_may_take_its_time() -> None:
    scene = roomy()
    scene.turn(arrived("n1", model="n"))
    scene.loaded("n")
    assert scene.state("m") is DRAINING
    scene.wait(10 * MINUTE_NS - SECOND_NS)
    assert scene.state("m") is DRAINING
