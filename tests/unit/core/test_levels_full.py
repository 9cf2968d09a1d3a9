"""A full queue at a level: what does not run at all keeps no place from what may run."""

from __future__ import annotations

from broker.core.effects import Finish
from broker.core.errors import Displaced
from broker.core.level import Level
from broker.core.requests import Outcome, Substitution
from tests.unit.core.gate_words import is_let_in, refused
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import finished, of, started
from tests.unit.core.test_levels_waiting import busy_with, come, ends

PLACES = 10  # of a scene's queue


def full_at_critical(priority: int = 5) -> LevelScene:
    """Critical for memory's sake, the queue full of what that bars, two of each agent."""
    scene = busy_with("small")
    assert scene.memory(0.97) is Level.CRITICAL
    for number in range(PLACES):
        come(scene, f"q{number}", agent=f"a{number % 5}", priority=priority)
    return scene


def test_what_may_run_takes_the_place_of_what_the_level_bars() -> None:
    scene = full_at_critical()
    assert ends(scene, "small-0") == []
    effects = come(scene, "urgent", agent="a0", priority=1)  # of which as many wait as of others
    assert started(effects) == ["urgent"]
    [end] = of(effects, Finish)
    assert (end.key, end.outcome) == (("a4", "q9"), Outcome.DISPLACED)
    assert isinstance(end.error, Displaced)
    assert end.error.message == (
        "the queue is full, and at level critical this does not run while memory is short: "
        "it gave its place to a request that may"
    )
    assert end.error.retry_after_ns == scene.engine.degradation.retry_after_ns(scene.now_ns)


def test_the_worst_of_what_is_barred_goes_first() -> None:
    scene = busy_with("small")
    scene.memory(0.97)
    for number in range(PLACES):
        come(scene, f"q{number}", priority=7 if number == 3 else 5)
    assert finished(come(scene, "urgent", priority=3)) == [("q3", Outcome.DISPLACED)]


def test_what_the_level_bars_as_well_displaces_nothing() -> None:
    scene = full_at_critical()
    assert refused(come(scene, "five", agent="a0", priority=5)).reason == "QUEUE_FULL"


def test_what_only_goes_after_the_others_keeps_its_place() -> None:
    """A slot that would idle is given to it: it is no place kept for nothing."""
    scene = busy_with("small")
    scene.ask(Level.CRITICAL)
    for number in range(PLACES):
        come(scene, f"q{number}", agent=f"a{number % 5}")
    effects = come(scene, "urgent", agent="a0", priority=1)
    assert finished(effects) == []
    assert scene.engine.tally.queued == PLACES


def test_a_large_model_that_is_barred_gives_way_to_a_small_one_of_any_priority() -> None:
    scene = busy_with("small")
    for number in range(PLACES):
        come(
            scene,
            f"b{number}",
            agent=f"a{number % 5}",
            model="big",
            priority=2,
            substitution=Substitution.NEVER,
        )
    scene.memory(0.85)
    effects = come(scene, "s", agent="a0", priority=6)
    assert is_let_in(effects)
    assert finished(effects) == [("b9", Outcome.DISPLACED)]
    assert ends(scene, "small-0") == ["s"]
