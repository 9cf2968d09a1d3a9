"""A backend has not what it listed: it was deleted there, and its calls find that out first."""

from __future__ import annotations

from broker.core.effects import Finish, ListAgain, StartAttempt
from broker.core.errors import ModelUnknown
from broker.core.requests import Outcome
from broker.core.retry import RetryPolicy
from tests.unit.core.retry_scene import come, lost, scene_of
from tests.unit.core.scene import (
    Scene,
    arrived,
    finished,
    model,
    nothing_remains,
    of,
    resident,
    started,
    switches,
)

MISSING = ModelUnknown("m", ())


def test_another_backend_that_has_it_takes_it_at_once_and_nobody_is_charged() -> None:
    scene = scene_of(RetryPolicy(budget_share=0.0, budget_max=0.0), backends=2)
    come(scene)
    effects = lost(scene, error=MISSING)
    [again] = of(effects, StartAttempt)
    assert (again.backend, again.number) == ("b2", 2)
    assert of(effects, ListAgain) == [ListAgain("b1")]
    assert scene.engine.breakers.views(scene.engine.backends["b1"]) == ()
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]


def test_what_is_nowhere_else_ends_with_the_names_that_may_be_meant() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("m2"))
    scene.seen("b1", resident("m"))
    come(scene)
    effects = lost(scene, error=MISSING)
    [end] = of(effects, Finish)
    assert isinstance(end.error, ModelUnknown)
    assert end.error.nearest == ("m2:latest",)
    assert nothing_remains(scene)


def test_a_fallback_takes_what_is_nowhere_else() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"))
    scene.turn(arrived("r1", fallback_models=("n",)))
    assert finished(lost(scene, error=MISSING)) == []
    assert scene.engine.records["a", "r1"].model == "n:latest"


def test_several_calls_find_it_out_once_and_none_is_sent_there_before_it_is_listed_again() -> None:
    scene = scene_of(slots=2, backends=2)
    names = [f"r{number}" for number in range(4)]
    for name in names:
        come(scene, name)
    on_b1 = [x.record.spec.key[1] for x in scene.engine.attempts.values() if x.backend == "b1"]
    asked = [len(of(lost(scene, name, error=MISSING), ListAgain)) for name in on_b1]
    assert asked == [1, 0]
    come(scene, "late")
    assert {each.backend for each in scene.engine.attempts.values()} == {"b2"}
    assert sorted(scene.end_one()[1] for _ in range(5)) == ["late", *names]
    scene.open("b1", model("m", slots=2))
    starts = [*of(come(scene, "back1"), StartAttempt), *of(come(scene, "back2"), StartAttempt)]
    assert sorted(each.backend for each in starts) == ["b1", "b2"]


def test_what_waits_for_it_hears_of_it_as_well() -> None:
    scene = scene_of()
    come(scene)
    come(scene, "waits")
    effects = lost(scene, error=MISSING)
    assert (started(effects), switches(effects)) == ([], [])
    assert sorted(finished(effects)) == [("r1", Outcome.FAILED), ("waits", Outcome.FAILED)]
