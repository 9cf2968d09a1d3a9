"""Models are loaded before anybody asks: when that may be, what makes way, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import AbortLoad, KeepLearned, TellSwitch
from broker.core.errors import LoadFailed
from broker.core.level import Level
from broker.core.placement import BackendPolicy
from broker.core.preload import DAY_NS, SLOT_NS, Forecast, PreloadPolicy
from broker.core.preload_choice import Choices
from broker.core.preload_choice import _Look as Look
from broker.core.preloads import PreloadsView
from broker.core.residency import ResidencyState, SwitchStep
from broker.core.stimuli import (
    BackendDrainAsked,
    BlockAsked,
    DrainAsked,
    LevelAsked,
    PauseAsked,
    PolicyChanged,
    PreloadLearned,
    Scope,
    UnloadAsked,
    WallClockSet,
)
from broker.core.story import explain
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    started,
    switches,
)

RESIDENT, LOADING, ABSENT = ResidencyState.RESIDENT, ResidencyState.LOADING, ResidencyState.ABSENT
ON = PreloadPolicy(is_enabled=True)


def scene_of(policy: PreloadPolicy = ON, *backends: BackendPolicy) -> Scene:
    """m, n and o on a backend that holds one, unless others are given."""
    scene = Scene(*backends)
    scene.turn(PolicyChanged(replace(scene.engine.policy, preload=policy)))
    for each in scene.engine.policy.backends:
        scene.open(each.name, model("m"), model("n"), model("o"))
        scene.seen(each.name)
    scene.turn(WallClockSet(4 * DAY_NS))
    return scene


def ask(scene: Scene, name: str, times: int = 1, *, every_ns: int = 20 * SECOND_NS) -> None:
    """Somebody else each time asks for it, is served at once, and it is quiet again."""
    for _ in range(times):
        key = f"{name}{scene.now_ns}"
        deadline_ns = scene.now_ns + MINUTE_NS
        scene.turn(arrived(key, agent=key, model=name, deadline_ns=deadline_ns))
        for other in "mno":
            if scene.state(other) is ResidencyState.UNLOADING:
                scene.unloaded(other)
        if scene.state(name) is LOADING:
            scene.wait(4 * SECOND_NS)
            scene.loaded(name)
        scene.ends(key, agent=key)
        scene.wait(every_ns)


def leave(scene: Scene, name: str) -> None:
    """Its server lets it go."""
    scene.wait(SECOND_NS)
    scene.seen("b1", *(resident(each) for each in "mno" if each != name and is_there(scene, each)))


def is_there(scene: Scene, name: str) -> bool:
    return scene.state(name) is not ABSENT


def view(scene: Scene) -> PreloadsView:
    return scene.engine.preloads.view()


def beloved(policy: PreloadPolicy = ON, *backends: BackendPolicy) -> Scene:
    """m is asked for again and again, and just then its server has lost it."""
    scene = scene_of(policy, *backends)
    ask(scene, "m", 12)
    leave(scene, "m")
    return scene


def test_what_is_often_asked_for_is_loaded_before_it_is_and_found() -> None:
    scene = beloved()
    effects = scene.wait(20 * SECOND_NS)
    assert switches(effects) == ["load m on b1"]
    [told] = of(effects, TellSwitch)
    assert (told.step, told.model) == (SwitchStep.PRELOADED, "m:latest")
    assert told.detail == "loaded ahead of need: often asked for lately"
    scene.loaded("m")
    assert (view(scene).made, view(scene).used) == (1, 0)
    assert started(scene.turn(arrived("m1"))) == ["m1"]
    assert (view(scene).made, view(scene).used, view(scene).wasted) == (1, 1, 0)
    because = explain(scene.engine, ("a", "m1"), scene.now_ns).preloaded_because
    assert because == "often asked for lately"
    scene.ends("m1")
    assert explain(scene.engine, ("a", "m1"), scene.now_ns).preloaded_because == because
    scene.turn(arrived("m2"))
    assert explain(scene.engine, ("a", "m2"), scene.now_ns).preloaded_because == ""
    assert view(scene).used == 1
    assert view(scene).hit_percent == 50.0, "the very first one was waited for"


def test_what_leaves_without_is_a_waste() -> None:
    scene = beloved()
    scene.wait(20 * SECOND_NS)
    scene.loaded("m")
    leave(scene, "m")
    assert (view(scene).made, view(scene).used, view(scene).wasted) == (1, 0, 1)


def test_nothing_is_loaded_where_it_is_off() -> None:
    scene = beloved(PreloadPolicy())
    assert switches(scene.wait(MINUTE_NS)) == []
    assert view(scene).held_because == "the configuration has it off"


@pytest.mark.parametrize("level", [Level.LEVEL_1, Level.LEVEL_2, Level.CRITICAL])
def test_nothing_is_loaded_above_the_normal_level(level: Level) -> None:
    scene = beloved()
    scene.turn(LevelAsked(level=level))
    assert switches(scene.wait(MINUTE_NS)) == []
    assert view(scene).held_because == f"the level is {level.word}"
    assert not view(scene).is_enabled
    scene.turn(LevelAsked(level=None))
    assert switches(scene.wait(30 * SECOND_NS)) == ["load m on b1"]


def test_what_is_being_loaded_so_is_ended_when_the_level_rises() -> None:
    scene = beloved()
    scene.wait(20 * SECOND_NS)
    effects = scene.turn(LevelAsked(level=Level.LEVEL_1))
    assert len(of(effects, AbortLoad)) == 1
    scene.loaded("m", error=LoadFailed("interrupted"))
    assert (view(scene).aborted, view(scene).made, view(scene).failed) == (1, 0, 0)


def test_another_that_is_asked_for_ends_the_load_at_once() -> None:
    scene = beloved()
    scene.wait(20 * SECOND_NS)
    effects = scene.turn(arrived("n1", model="n"))
    assert [each.runner for each in of(effects, AbortLoad)] == ["blob-m"]
    assert switches(scene.loaded("m", error=LoadFailed("interrupted"))) == ["load n on b1"]
    assert started(scene.loaded("n")) == ["n1"]
    assert (view(scene).aborted, view(scene).wasted) == (1, 0)


def test_one_that_is_asked_for_while_it_is_loaded_takes_the_load_over() -> None:
    scene = beloved()
    scene.wait(20 * SECOND_NS)
    assert of(scene.turn(arrived("m1")), AbortLoad) == []
    scene.turn(LevelAsked(level=Level.LEVEL_1))
    assert scene.state("m") is LOADING, "somebody waits for it"
    assert started(scene.loaded("m")) == ["m1"]
    assert (view(scene).made, view(scene).used) == (1, 1)


def test_nothing_is_loaded_while_anything_waits_that_the_backend_could_run() -> None:
    scene = beloved()
    scene.turn(PauseAsked(scope=Scope(agent_id="held")))
    scene.turn(arrived("n1", agent="held", model="n"))
    assert switches(scene.wait(MINUTE_NS)) == []
    scene.turn(BlockAsked(scope=Scope(agent_id="held"), cancels_waiting=True))
    assert switches(scene.wait(20 * SECOND_NS)) == ["load m on b1"]


def test_nothing_is_loaded_by_a_broker_or_on_a_backend_that_leaves() -> None:
    scene = beloved()
    scene.turn(BackendDrainAsked("b1", True))
    assert switches(scene.wait(MINUTE_NS)) == []
    scene.turn(BackendDrainAsked("b1", False))
    scene.turn(DrainAsked(scene.now_ns + 10 * MINUTE_NS))
    assert switches(scene.wait(MINUTE_NS)) == []


def test_what_failed_to_load_is_left_alone_for_a_while() -> None:
    scene = beloved()
    scene.wait(20 * SECOND_NS)
    scene.loaded("m", error=LoadFailed("too large"))
    assert view(scene).failed == 1
    assert switches(scene.wait(10 * SECOND_NS)) == []


def test_what_others_loaded_is_never_evicted_for_it() -> None:
    scene = beloved()
    scene.turn(LevelAsked(level=Level.LEVEL_1))
    scene.seen("b1", resident("o"))
    scene.turn(LevelAsked(level=None))
    assert switches(scene.wait(2 * MINUTE_NS)) == []
    assert scene.state("o") is RESIDENT


def test_a_model_that_is_worth_much_less_makes_way() -> None:
    scene = scene_of()
    ask(scene, "m", 12)
    ask(scene, "n", every_ns=0)  # evicts m
    assert (is_there(scene, "m"), scene.state("n")) == (False, RESIDENT)
    effects = scene.wait(20 * SECOND_NS)
    assert switches(effects) == ["unload n on b1"]
    scene.unloaded("n")
    assert switches(scene.wait(SECOND_NS)) == ["load m on b1"]


def test_one_that_is_worth_as_much_stays() -> None:
    scene = scene_of()
    for _ in range(8):
        ask(scene, "m", every_ns=30 * SECOND_NS)
        ask(scene, "n", every_ns=0)
        assert switches(scene.wait(30 * SECOND_NS)) == []


def test_one_that_works_stays() -> None:
    scene = scene_of()
    ask(scene, "m", 12)
    scene.turn(arrived("n1", model="n"))
    scene.unloaded("m")
    scene.wait(4 * SECOND_NS)
    assert started(scene.loaded("n")) == ["n1"]
    assert switches(scene.wait(MINUTE_NS)) == []


def test_a_model_that_another_backend_has_is_not_loaded_twice() -> None:
    scene = scene_of(ON, BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    ask(scene, "m", 12)
    assert switches(scene.wait(5 * MINUTE_NS)) == []


def test_when_a_half_hour_is_over_what_was_learned_is_told() -> None:
    scene = scene_of()
    ask(scene, "m", 3)
    effects = scene.wait(SLOT_NS)
    kept = of(effects, KeepLearned)
    assert len(kept) == 1
    assert [each.model for each in kept[0].learned.models] == ["m:latest"]


def test_what_the_broker_before_had_learned_counts_at_once() -> None:
    before = scene_of()
    ask(before, "m", 40)
    [kept] = of(before.wait(SLOT_NS), KeepLearned)[:1]
    scene = Scene()
    scene.turn(PolicyChanged(replace(scene.engine.policy, preload=ON)))
    scene.turn(WallClockSet(5 * DAY_NS))
    scene.turn(PreloadLearned(kept.learned))
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1")
    effects = scene.wait(30 * SECOND_NS)
    assert switches(effects) == ["load m on b1"]
    [told] = of(effects, TellSwitch)
    assert told.detail.startswith("loaded ahead of need: usually asked for at 00:0")


def test_a_reload_turns_it_on_and_off() -> None:
    scene = beloved()
    scene.wait(20 * SECOND_NS)
    off = replace(scene.engine.policy, preload=PreloadPolicy())
    assert len(of(scene.turn(PolicyChanged(off)), AbortLoad)) == 1
    scene.loaded("m", error=LoadFailed("interrupted"))
    assert switches(scene.wait(MINUTE_NS)) == []
    on = replace(scene.engine.policy, preload=ON)
    scene.turn(PolicyChanged(on))
    assert switches(scene.wait(20 * SECOND_NS)) == ["load m on b1"]


def test_what_somebody_had_leave_is_not_loaded_ahead_before_it_is_asked_for_again() -> None:
    scene = scene_of()
    ask(scene, "m", 12)
    until_ns = scene.now_ns + MINUTE_NS
    scene.turn(UnloadAsked(wish=1, model="m", backend="", until_ns=until_ns))
    scene.unloaded("m")
    assert switches(scene.wait(2 * MINUTE_NS)) == []
    ask(scene, "m")
    leave(scene, "m")
    assert switches(scene.wait(20 * SECOND_NS)) == ["load m on b1"]


def test_of_models_on_the_same_weights_one_takes_the_place_of_the_other() -> None:
    """However much room there is: what is asked for a hundred times as often is loaded."""
    chances = []
    for resident_max, often in ((4, "w+2"), (1, "w+2"), (4, "v")):
        scene = Scene(BackendPolicy(name="b1", resident_max=resident_max, memory_bytes=10**6))
        scene.open("b1", model("m", runner="w+1"), model("n", runner=often))
        backends, estimates = scene.engine.backends, scene.engine.estimates
        choices = Choices(replace(ON, probability_min=0.01), backends, estimates)
        expected = {
            name: Forecast(per_s, per_s, per_s, "often")
            for name, per_s in (("m:latest", 0.001), ("n:latest", 0.1))
        }
        look = Look(
            choices, backends["b1"], {"w+1": expected["m:latest"], often: expected["n:latest"]}
        )
        chances.append(look.chance_of_use(["w+1"], ()))
    assert chances[0] == chances[1] < chances[2]
