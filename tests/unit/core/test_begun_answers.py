"""What one model began, where its caller lets it go on: no other model goes on with it."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import StartAttempt, TellRequeued
from broker.core.level import Level
from broker.core.requests import OnInterruption, Outcome
from broker.core.stimuli import Arrived, FirstToken, LevelAsked, ModelsListed
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.retry_scene import lost
from tests.unit.core.scene import SECOND_NS, arrived, finished, model, of, request, switches

BIG = model("big", size_bytes=20_000_000_000)
TINY = model("tiny", size_bytes=500_000_000)
PIECES = 7
GOES_ON = "goes on with nothing that another model began"


def begun(level: Level = Level.NORMAL) -> LevelScene:
    """An answer is lost after some pieces of what runs at this level: it is in its backoff."""
    scene = LevelScene()
    scene.open("b1", BIG, TINY)
    scene.ask(level)
    spec = request("r1", model="big", fallback_models=("tiny",))
    scene.turn(Arrived(replace(spec, on_interruption=OnInterruption.CONTINUE)))
    scene.loaded("big" if level is Level.NORMAL else "tiny")
    scene.turn(FirstToken(scene.attempt("r1")))
    [requeued] = of(lost(scene, pieces=PIECES), TellRequeued)
    assert not requeued.voids_pieces
    return scene


def test_what_a_model_began_is_void_where_the_level_has_another_answer() -> None:
    scene = begun()
    [void] = of(scene.turn(LevelAsked(level=Level.LEVEL_2)), TellRequeued)
    assert void == TellRequeued(("a", "r1"), f"tiny:latest is to answer, which {GOES_ON}", True)
    assert switches(scene.wait(SECOND_NS)) == ["unload big on b1"]
    scene.unloaded("big")
    [start] = of(scene.loaded("tiny"), StartAttempt)
    assert (start.model, start.continues) == ("tiny:latest", False)
    assert start.output_tokens_max == scene.engine.policy.degradation.output_tokens_max


def test_what_a_model_began_is_void_where_that_is_gone() -> None:
    scene = begun()
    [void] = of(scene.turn(ModelsListed("b1", (TINY,))), TellRequeued)
    assert void.voids_pieces
    scene.seen("b1")
    scene.wait(SECOND_NS)
    [start] = of(scene.loaded("tiny"), StartAttempt)
    assert (start.model, start.continues) == ("tiny:latest", False)


def test_what_a_model_began_is_void_where_another_file_has_its_name() -> None:
    scene = begun()
    other = replace(BIG, runner="blob-other")
    [void] = of(scene.turn(ModelsListed("b1", (other, TINY))), TellRequeued)
    assert (void.reason, void.voids_pieces) == (
        "big:latest is another file now, and begins anew",
        True,
    )
    assert scene.engine.records["a", "r1"].line[0] == "blob-other"


def test_what_a_small_model_began_it_goes_on_with_when_the_level_falls() -> None:
    scene = begun(Level.LEVEL_2)
    assert of(scene.turn(LevelAsked(level=Level.NORMAL)), TellRequeued) == []
    [start] = of(scene.wait(SECOND_NS), StartAttempt)
    assert (start.model, start.continues) == ("tiny:latest", True)
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]
    assert switches(scene.turn(arrived("r2", model="big"))) == ["unload tiny on b1"]
