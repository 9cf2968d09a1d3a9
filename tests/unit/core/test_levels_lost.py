"""What answers for the level's sake when servers fall silent, loads fail and models come and go."""

from __future__ import annotations

from dataclasses import replace

from broker.core.errors import BackendUnreachable, LoadFailed
from broker.core.level import Level
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.requests import Outcome
from broker.core.residencies import LOADS_FAILED_MAX
from broker.core.stimuli import ModelsListed, PolicyChanged
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    finished,
    model,
    resident,
    started,
    switches,
)
from tests.unit.core.test_levels_waiting import BIG, POLICY, SMALL, TWO, busy_with, come, ends

NO_MEMORY = LoadFailed("small could not be loaded on b1: cudaMalloc failed")
BESIDE = BackendPolicy(name="b2", is_local=True)


def line(scene: LevelScene, name: str) -> str:
    """For which model it waits."""
    return scene.engine.records[name, name].line[0]


def two_servers() -> LevelScene:
    """ "big" on one, "small" on the other, one slot each, both busy; "b" waits for "big"."""
    scene = LevelScene(BackendPolicy(name="b1", is_local=True), BESIDE, degradation=POLICY)
    scene.open("b1", BIG)
    scene.open("b2", SMALL)
    come(scene, "big-0", model="big")
    scene.loaded("big")
    come(scene, "small-0")
    scene.loaded("small", "b2")
    come(scene, "b", model="big", within_ns=60 * MINUTE_NS)
    return scene


def test_a_small_model_that_cannot_be_loaded_leaves_its_requests_to_their_own() -> None:
    scene = busy_with("big", backend=TWO)
    come(scene, "b", model="big", fallback_models=("small",))
    scene.ask(Level.LEVEL_2)
    assert line(scene, "b") == "blob-small"
    assert finished(scene.loaded("small", error=NO_MEMORY)) == []
    assert line(scene, "b") == "blob-big"
    assert ends(scene, "big-0") == ["b"]


def test_who_asked_for_the_small_model_itself_hears_that_it_cannot_be_loaded() -> None:
    scene = busy_with("big", backend=TWO)
    scene.ask(Level.LEVEL_2)
    come(scene, "s")
    for _ in range(LOADS_FAILED_MAX - 1):
        assert finished(scene.loaded("small", error=NO_MEMORY)) == []
        scene.wait(MINUTE_NS)
    assert finished(scene.loaded("small", error=NO_MEMORY)) == [("s", Outcome.FAILED)]


def test_it_moves_to_the_small_model_again_when_that_may_be_tried_again() -> None:
    scene = busy_with("big", backend=TWO)
    come(scene, "b", model="big", fallback_models=("small",))
    scene.ask(Level.LEVEL_2)
    scene.loaded("small", error=NO_MEMORY)
    scene.wait(PlacementPolicy().failed_load_hold_ns)
    assert line(scene, "b") == "blob-small"


def test_a_server_that_falls_silent_leaves_its_requests_to_their_own_model() -> None:
    scene = two_servers()
    scene.ask(Level.LEVEL_2)
    assert line(scene, "b") == "blob-small"
    scene.down("b2")
    assert line(scene, "b") == "blob-big"
    assert scene.engine.records["b", "b"].substituted_for == ""
    assert ends(scene, "big-0") == ["b"]


def test_a_server_that_a_call_finds_silent_does_so_as_well() -> None:
    scene = two_servers()
    scene.ask(Level.LEVEL_2)
    assert line(scene, "b") == "blob-small"
    scene.ends("small-0", agent="small-0", error=BackendUnreachable("connection refused"))
    assert line(scene, "b") == "blob-big"


def test_another_small_model_is_taken_before_its_own() -> None:
    scene = two_servers()
    scene.turn(ModelsListed("b1", (BIG, model("tinyllama", size_bytes=1_000))))
    come(scene, "c", model="big", fallback_models=("small",))
    scene.ask(Level.LEVEL_2)
    assert line(scene, "c") == "blob-small"
    scene.down("b2")
    assert line(scene, "c") == "blob-tinyllama"


def test_where_its_own_server_is_silent_as_well_it_waits_for_that() -> None:
    scene = two_servers()
    scene.ask(Level.LEVEL_2)
    scene.down("b1")
    assert line(scene, "b") == "blob-small"
    assert finished(scene.down("b2")) == []
    assert line(scene, "b") == "blob-big"


def test_a_small_model_that_is_deleted_while_its_own_server_is_silent_ends_nothing() -> None:
    scene = two_servers()
    scene.ask(Level.LEVEL_2)
    scene.down("b1")
    assert finished(scene.turn(ModelsListed("b2", ()))) == []
    assert line(scene, "b") == "blob-big"
    scene.ask(Level.NORMAL)
    scene.up("b1")
    scene.seen("b1", resident("big"))
    assert started(scene.ends("big-0", agent="big-0")) == ["b"]


def test_a_small_model_that_was_pulled_anew_with_less_context_ends_nothing() -> None:
    scene = two_servers()
    large = replace(SMALL, num_ctx_max=32_768)
    scene.turn(ModelsListed("b2", (large,)))
    scene.turn(ModelsListed("b1", (replace(BIG, num_ctx_max=32_768),)))
    come(scene, "c", model="big", num_ctx_needed=16_384)
    scene.ask(Level.LEVEL_2)
    assert scene.engine.records["c", "c"].line == ("blob-small", 16_384)
    anew = model("small", runner="blob-small-2", size_bytes=1_000)
    assert finished(scene.turn(ModelsListed("b2", (anew,)))) == []
    assert scene.engine.records["c", "c"].line == ("blob-big", 16_384)


def test_a_small_model_that_becomes_resident_takes_what_waits_for_a_large_one() -> None:
    scene = busy_with("big", backend=TWO)
    come(scene, "b", model="big")
    scene.ask(Level.LEVEL_2)  # nobody has named the small one, and it is not there
    assert line(scene, "b") == "blob-big"
    scene.wait(SECOND_NS)
    scene.seen("b1", resident("big"), resident("small"))
    assert line(scene, "b") == "blob-small"
    assert scene.engine.records["b", "b"].is_for_level


def test_a_small_model_that_the_broker_loaded_does_so_as_well() -> None:
    scene = busy_with("big", backend=TWO)
    come(scene, "b", model="big")
    scene.ask(Level.LEVEL_2)
    assert switches(come(scene, "s")) == ["load small on b1"]
    assert line(scene, "b") == "blob-big"
    assert started(scene.loaded("small")) == ["s"]
    assert line(scene, "b") == "blob-small"


def test_one_whose_level_has_fallen_does_not_stay_with_a_server_that_is_silent() -> None:
    """Its own was silent when the level fell, so that it stayed with the small model."""
    scene = two_servers()
    scene.ask(Level.LEVEL_2)
    scene.down("b1")
    scene.ask(Level.NORMAL)
    assert line(scene, "b") == "blob-small"
    scene.down("b2")
    assert line(scene, "b") == "blob-big"
    scene.turn(PolicyChanged(scene.engine.policy))
    assert line(scene, "b") == "blob-big"
