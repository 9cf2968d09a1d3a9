"""Two backends have different models under one name: what one cannot do the other may."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.errors import CapabilityMissing
from broker.core.level import Level
from broker.core.model_errors import NoModelFits
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestSpec
from broker.core.requirements import Requirements
from broker.core.stimuli import Arrived, LevelAsked, ModelsListed
from tests.unit.core.choosing_scene import COMPLETION, asks, llm, starts, waits_for, with_aliases
from tests.unit.core.gate_words import refused
from tests.unit.core.scene import Scene, arrived, switches

GB = 1_000_000_000
WITH_TOOLS = COMPLETION | {"tools"}
TOOLS = Requirements(capabilities=frozenset({"tools"}))
PLAIN = replace(llm("m"), runner="plain")
ABLE = replace(llm("m", "tools", size_bytes=1010), runner="able")


def two(*others: str) -> Scene:
    """m is on both backends, and only that on b2 has tools."""
    scene = with_aliases(Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2")))
    scene.open("b1", PLAIN, *(llm(each) for each in others))
    scene.open("b2", ABLE)
    return scene


@pytest.mark.parametrize(
    "spec",
    [
        asks("x", "m", needs=WITH_TOOLS),
        asks("x", "m", wants=TOOLS),
        asks("x", wants=TOOLS),
        asks("x", "tools"),
        asks("x", "none", needs=WITH_TOOLS, fallbacks=("m",)),
    ],
)
def test_it_is_loaded_where_it_can_do_this(spec: RequestSpec) -> None:
    scene = two()
    assert switches(scene.turn(Arrived(spec))) == ["load m on b2"]
    scene.turn(arrived("other"))
    assert starts(scene.loaded("m", "b2")) == {"x": "m"}


def test_the_one_that_is_loaded_is_not_taken_for_the_other() -> None:
    scene = two()
    scene.turn(arrived("first"))
    scene.loaded("m", "b1")
    scene.ends("first")
    scene.turn(Arrived(asks("x", "tools")))
    assert "to be loaded on b2" in scene.engine.records["a", "x"].because


def test_it_waits_for_the_one_that_can_when_the_level_falls_again() -> None:
    scene = two("n")
    scene.turn(arrived("runs", model="n"))
    scene.loaded("n", "b1")
    small = llm("s", "tools")
    scene.turn(ModelsListed("b1", (replace(PLAIN, size_bytes=50 * GB), llm("n"), small)))
    scene.turn(ModelsListed("b2", (replace(ABLE, size_bytes=50 * GB),)))
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    scene.turn(Arrived(asks("x", "m", needs=WITH_TOOLS, fallbacks=("s",))))
    assert waits_for(scene, "x") == "s"
    scene.turn(LevelAsked(level=None))
    assert scene.engine.records["a", "x"].line == ("able", 0)


def test_where_none_of_them_can_it_is_said_and_not_named_as_the_nearest() -> None:
    scene = two("n")
    error = refused(scene.turn(Arrived(asks("x", "m", needs=COMPLETION | {"vision"}))))
    assert isinstance(error, CapabilityMissing)
    assert error.nearest == ()
    chosen = refused(scene.turn(Arrived(asks("y", wants=Requirements(size_bytes_max=1)))))
    assert isinstance(chosen, NoModelFits)
    assert sorted(chosen.nearest) == ["m:latest", "n:latest"], "each once"


def test_who_waits_goes_to_the_other_when_the_one_is_gone() -> None:
    scene = two("n")
    scene.turn(arrived("runs", model="n"))
    scene.loaded("n", "b1")
    scene.turn(Arrived(asks("x", "m", needs=WITH_TOOLS)))
    scene.turn(ModelsListed("b1", (replace(ABLE, runner="able-too"), llm("n"))))
    scene.turn(ModelsListed("b2", ()))
    assert (waits_for(scene, "x"), scene.engine.records["a", "x"].line) == ("m", ("able-too", 0))
