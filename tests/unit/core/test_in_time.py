"""A model whose own line is too long for the time that is left: a fallback that is in time."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import StartAttempt
from broker.core.errors import DeadlineExpired, DeadlineInfeasible
from broker.core.level import Level
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestSpec, Substitution
from broker.core.stimuli import Arrived, LevelAsked
from broker.core.time_outs import TimeOuts
from tests.unit.core.failover_scene import ready, spec_with
from tests.unit.core.gate_words import is_let_in, refused
from tests.unit.core.scene import SECOND_NS, Scene, arrived, model, of, switches

SERVICE_NS = 10 * SECOND_NS
# What is refused would be late even if all went twice as fast as measured.
TOO_LITTLE_NS = 14 * SECOND_NS


def loaded_with_work(*, waiting: int = 2) -> Scene:
    """A request of m takes ten seconds, as was measured; one runs and so many wait. Of n nothing
    is known."""
    scene = ready(Scene(BackendPolicy(name="b1", resident_max=3)))
    scene.open("b1", model("m"), model("n"), model("o"))
    scene.turn(arrived("first"))
    scene.loaded("m")
    scene.wait(SERVICE_NS)
    scene.ends("first")
    scene.measured(SERVICE_NS)
    for number in range(waiting + 1):
        scene.turn(arrived(f"w{number}", deadline_ns=scene.now_ns + 600 * SECOND_NS))
    return scene


def within(scene: Scene, left_ns: int, *fallbacks: str, name: str = "r") -> RequestSpec:
    return replace(spec_with(name, *fallbacks), deadline_ns=scene.now_ns + left_ns)


def model_of(scene: Scene, name: str = "r") -> str:
    return scene.engine.records["a", name].model


def test_a_line_that_is_too_long_for_the_deadline_gives_way_to_a_fallback() -> None:
    scene = loaded_with_work()
    assert isinstance(
        refused(scene.turn(Arrived(within(scene, TOO_LITTLE_NS)))), DeadlineInfeasible
    )
    effects = scene.turn(Arrived(within(scene, TOO_LITTLE_NS, "n")))
    assert switches(effects) == ["load n on b1"]
    [start] = of(scene.loaded("n"), StartAttempt)
    assert (start.model, start.substituted_for) == ("n:latest", "m")
    assert start.changes == (
        "model is n:latest instead of m: by what was measured m:latest answers after the deadline",
    )


def test_a_line_that_may_be_in_time_is_waited_for() -> None:
    scene = loaded_with_work()
    scene.turn(Arrived(within(scene, 16 * SECOND_NS, "n")))
    assert model_of(scene) == "m:latest"


def test_a_model_that_is_too_slow_by_itself_gives_way_as_well() -> None:
    scene = loaded_with_work(waiting=0)
    assert isinstance(refused(scene.turn(Arrived(within(scene, 4 * SECOND_NS)))), DeadlineExpired)
    scene.turn(Arrived(within(scene, 4 * SECOND_NS, "n")))
    assert model_of(scene) == "n:latest"


def test_a_fallback_that_is_late_too_is_passed_over_and_with_none_left_it_is_refused() -> None:
    scene = loaded_with_work()
    scene.turn(arrived("n1", model="n"))
    scene.loaded("n")
    scene.wait(SERVICE_NS)
    scene.ends("n1")
    scene.measured(SERVICE_NS, model="n")
    error = refused(scene.turn(Arrived(within(scene, 4 * SECOND_NS, "n"))))
    assert isinstance(error, DeadlineExpired)
    scene.turn(Arrived(within(scene, 4 * SECOND_NS, "n", "o")))
    assert model_of(scene) == "o:latest"


def test_who_allows_no_other_model_is_refused() -> None:
    scene = loaded_with_work()
    spec = replace(within(scene, TOO_LITTLE_NS, "n"), substitution=Substitution.NEVER)
    assert isinstance(refused(scene.turn(Arrived(spec))), DeadlineInfeasible)


def test_a_line_that_is_longer_than_it_may_wait_gives_way_and_else_it_waits() -> None:
    scene = loaded_with_work()
    limits = TimeOuts(queue_ns=9 * SECOND_NS)
    spec = replace(within(scene, 600 * SECOND_NS, "n"), time_outs=limits)
    scene.turn(Arrived(spec))
    record = scene.engine.records["a", "r"]
    assert record.instead == "by what was measured the line of m:latest is longer than it may wait"
    alone = replace(spec, key=("a", "alone"), fallback_models=())
    assert is_let_in(scene.turn(Arrived(alone)))
    longer = replace(spec, key=("b", "other agent"))  # of which nothing waits: it may be next
    scene.turn(Arrived(longer))
    assert scene.engine.records["b", "other agent"].model == "m:latest"


def test_what_went_to_a_fallback_in_haste_stays_there_while_that_is_to_be_had() -> None:
    scene = loaded_with_work()
    scene.turn(arrived("n1", model="n"))
    scene.loaded("n")
    scene.turn(Arrived(within(scene, TOO_LITTLE_NS, "n")))
    scene.down("b1")
    scene.up("b1")
    record = scene.engine.records["a", "r"]
    assert (record.model, record.is_in_haste) == ("n:latest", True)
    scene.engine.backends["b1"].healing.add("blob-n")
    scene.down("b1")
    scene.up("b1")
    assert (record.model, record.instead, record.is_in_haste) == ("m:latest", "", False)


def test_at_level_1_it_is_so_as_well_and_above_it_the_level_chooses() -> None:
    scene = loaded_with_work()
    scene.turn(LevelAsked(level=Level.LEVEL_1))
    scene.turn(Arrived(within(scene, TOO_LITTLE_NS, "n")))
    assert model_of(scene) == "n:latest"
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    error = refused(scene.turn(Arrived(within(scene, TOO_LITTLE_NS, "n", name="r2"))))
    assert isinstance(error, DeadlineInfeasible)  # they are small, all of them


def test_a_fallback_by_need_that_would_be_late_gives_way_to_the_next() -> None:
    scene = loaded_with_work()
    scene.turn(arrived("o1", model="o"))
    scene.loaded("o")
    scene.wait(SERVICE_NS)
    scene.ends("o1")
    scene.measured(SERVICE_NS, model="o")
    scene.engine.backends["b1"].healing.add("blob-m")
    error = refused(scene.turn(Arrived(within(scene, 4 * SECOND_NS, "o"))))
    assert isinstance(error, DeadlineExpired)
    scene.turn(Arrived(within(scene, 4 * SECOND_NS, "o", "n")))
    record = scene.engine.records["a", "r"]
    assert (record.model, record.instead) == ("n:latest", "m is being cured")
