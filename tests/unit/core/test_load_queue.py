"""What waits: how many, and for how long by what was measured."""

from __future__ import annotations

import pytest

from broker.core.level import DegradationPolicy, Level
from broker.core.load import QUEUE, WAIT
from broker.core.placement import BackendPolicy
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, arrived, model

TARGET_NS = 100 * SECOND_NS


def house(*, slots: int = 1, measured: bool = True, resident_max: int = 1) -> LevelScene:
    """`m` is there and takes 10 s for each, `n` would have to be loaded. Levels stay out of it."""
    scene = LevelScene(
        BackendPolicy(name="b1", resident_max=resident_max),
        degradation=DegradationPolicy(is_automatic=False, wait_target_ns=TARGET_NS),
    )
    scene.open("b1", model("m", slots=slots), model("n"))
    scene.turn(arrived("first"))
    scene.loaded("m")
    scene.now_ns += 10 * SECOND_NS
    scene.ends("first")
    if measured:
        scene.measured(10 * SECOND_NS)
    return scene


def come(scene: LevelScene, count: int, *, model: str = "m") -> None:
    for number in range(count):
        until_ns = scene.now_ns + 60 * MINUTE_NS
        scene.turn(arrived(f"{model}{number}", model=model, deadline_ns=until_ns))


def test_the_queue_counts_what_waits_over_what_may() -> None:
    scene = house()
    come(scene, 7)
    part = scene.part(QUEUE)
    assert (part.share, part.value, part.limit) == (0.6, 6, 10)
    assert part.detail == "6 of at most 10 wait"


def test_nobody_waits_for_nothing() -> None:
    scene = house(measured=False)
    assert (scene.part(QUEUE).share, scene.part(WAIT).share) == (0.0, 0.0)


@pytest.mark.parametrize(("slots", "share"), [(1, 0.4), (2, 0.15)])
def test_the_wait_is_the_work_that_waits_over_the_slots(slots: int, share: float) -> None:
    scene = house(slots=slots)
    come(scene, 5)
    assert scene.part(WAIT).share == pytest.approx(share)
    assert "s until all that waits has its turn, of 100 s" in scene.part(WAIT).detail


def test_a_wait_that_was_not_measured_often_enough_is_unknown() -> None:
    scene = house(measured=False)
    come(scene, 5)
    part = scene.part(WAIT)
    assert part.share is None
    assert "too few requests were measured" in part.detail


def test_models_that_were_not_measured_make_it_a_lower_bound() -> None:
    scene = house()
    come(scene, 3)
    come(scene, 3, model="n")
    part = scene.part(WAIT)
    assert part.share == pytest.approx(0.2)
    assert part.detail.startswith("at least 20 s")


def test_models_that_are_not_there_have_their_turn_after_the_others() -> None:
    scene = house()
    scene.engine.estimates.loaded("blob-n", 5 * SECOND_NS)
    for _ in range(20):
        _serve_elsewhere(scene, "blob-n", 2 * SECOND_NS)
    come(scene, 3)
    come(scene, 3, model="n")
    assert scene.part(WAIT).share == pytest.approx((20 + 6 + 5) / 100)


def test_a_wait_for_servers_that_are_down_is_unknown() -> None:
    scene = house()
    come(scene, 5)
    scene.down("b1")
    assert scene.part(WAIT).share is None


def test_a_long_wait_raises_the_level() -> None:
    scene = house()
    scene.decide(DegradationPolicy(wait_target_ns=50 * SECOND_NS))
    come(scene, 5)
    assert scene.look() is Level.LEVEL_1
    assert scene.told[-1].why.startswith("wait is at 80%: 40 s until all that waits")
    assert scene.memory_level is Level.NORMAL


def _serve_elsewhere(scene: LevelScene, runner: str, service_ns: int) -> None:
    """Such requests have been served before."""
    spec = arrived("x", model="n").spec
    scene.engine.estimates.served(runner, "b1", spec, service_ns, 0, 0, 0, 0)
