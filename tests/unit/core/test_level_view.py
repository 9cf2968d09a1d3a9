"""What is told and shown of the level: what holds it, who has set it, what the sensors say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import TellLevel
from broker.core.level import DegradationPolicy, Level
from broker.core.sensing import GpuReading, SensorState
from broker.core.stimuli import GpusSensed
from tests.unit.core.level_scene import DWELL_MAX_S, DWELL_S, LevelScene
from tests.unit.core.scene import SECOND_NS
from tests.unit.core.sensed import card, gpus

N, L1, L2, C = Level


def test_a_change_is_told_with_its_reason_in_figures_and_only_a_change() -> None:
    scene = LevelScene()
    scene.gpu(0.85)
    why = "gpu_memory is at 85%: 13.6 GB of 16.0 GB are used by others"
    assert scene.told == [TellLevel(level=L2, before=N, why=why)]
    scene.gpu(0.86)
    scene.calm(DWELL_S + 1)
    assert [(each.level, each.before) for each in scene.told] == [(L2, N), (L1, L2)]
    assert scene.told[1].why == "the load was below 70% for 15 s"


def test_the_view_says_what_decides() -> None:
    scene = LevelScene()
    scene.now_ns = 5 * SECOND_NS
    scene.gpu(0.85)
    scene.calm(2, load=0.3)
    view = scene.view()
    assert (view.level, view.before, view.since_ns) == (L2, N, 5 * SECOND_NS)
    assert view.load == pytest.approx(0.3)
    assert view.why.endswith("; below 70% for 1 s now, one level less after 15 s")
    assert {each.name for each in view.parts} == {
        "queue",
        "wait",
        "host_memory",
        "cpu",
        "gpu_memory",
    }
    assert view.why.startswith("gpu_memory is at 30%: ")
    host, gpu = view.sensors
    assert (host.name, host.state, host.at_ns) == ("host", SensorState.ABSENT, None)
    assert host.detail == "the host's sensor has not answered yet"
    assert (gpu.name, gpu.state, gpu.is_stale, gpu.detail) == ("gpu", SensorState.OK, False, "")
    assert len(view.gpus) == 1
    assert view.host is None
    scene.after(11)
    scene.memory(0.1)
    stale = scene.view()
    assert stale.sensors[1].is_stale
    assert stale.sensors[0].at_ns == scene.now_ns
    assert stale.host is not None


def test_the_view_says_what_holds_the_level_now_and_not_what_raised_it() -> None:
    scene = LevelScene()
    scene.cpu(0.99)
    assert scene.view().why.startswith("cpu is at 99%: ")
    scene.cpu(0.2)
    scene.gpu(0.93)
    assert scene.level is C
    assert scene.view().why.startswith("gpu_memory is at 93%: ")
    scene.ask(C)
    assert scene.view().why == "an operator set it"
    scene.ask(None)
    scene.gpu(0.92)
    why = scene.view().why
    assert why.startswith("an operator left it to the load; gpu_memory is at 92%: ")


def test_after_a_step_down_the_view_says_what_holds_the_level_that_is_left() -> None:
    scene = LevelScene()
    scene.gpu(0.85)
    assert scene.calm(1 + DWELL_S, load=0.55) == [L1]
    why = scene.view().why
    assert why.startswith("the load was below 70% for 15 s; gpu_memory is at 55%: ")


def test_who_has_set_the_level_and_until_when_is_told_where_the_level_stays() -> None:
    scene = LevelScene()
    scene.gpu(0.85)
    scene.ask(L2)
    scene.ask(L2, for_s=60)
    scene.ask(None)
    scene.ask(None)
    scene.gpu(0.85)
    assert [(each.level, each.before) for each in scene.told] == [(L2, N)] + 3 * [(L2, L2)]
    assert [each.why.partition(";")[0] for each in scene.told[1:]] == [
        "an operator set it",
        "an operator set it for 60 s",
        "an operator left it to the load",
    ]


def test_that_operators_alone_decide_is_told_as_it_changes() -> None:
    scene = LevelScene()
    scene.decide(DegradationPolicy(is_automatic=False))
    scene.decide(DegradationPolicy(is_automatic=False))
    scene.decide(DegradationPolicy())
    whys = [each.why.partition(";")[0] for each in scene.told]
    assert whys == ["the configuration has changed"] * 2


def test_a_level_holds_since_the_broker_was_there_to_see_it() -> None:
    """The clock of the machine has run for long before."""
    scene = LevelScene()
    scene.now_ns = 7 * 3_600 * SECOND_NS
    assert scene.view().since_ns == scene.now_ns
    first_ns = scene.now_ns
    scene.look()
    scene.after(100)
    scene.look()
    assert scene.view().since_ns == first_ns


def test_a_sensor_that_never_answers_fails_once_it_is_late() -> None:
    scene = LevelScene()
    scene.look()
    scene.after(10)
    assert {each.state for each in scene.view().sensors} == {SensorState.ABSENT}
    scene.after(1)
    for each in scene.view().sensors:
        assert (each.state, each.is_stale, each.at_ns) == (SensorState.FAILING, True, None)
        assert "has not answered yet" in each.detail


def test_a_sensor_that_is_absent_need_not_speak_again() -> None:
    scene = LevelScene()
    off = GpuReading(at_ns=scene.now_ns, state=SensorState.ABSENT, problem="switched off")
    scene.turn(GpusSensed(off))
    scene.after(3_600)
    gpu = scene.view().sensors[1]
    assert (gpu.state, gpu.is_stale, gpu.detail) == (SensorState.ABSENT, False, "switched off")


def test_a_sensor_that_fails_in_other_things_than_memory_still_says_so() -> None:
    scene = LevelScene()
    reading = gpus(card(15, ours_gb=0, others_gb=15), at_ns=scene.now_ns)
    scene.turn(GpusSensed(replace(reading, state=SensorState.FAILING, problem="GPU 0: Timeout")))
    assert scene.level is L2
    gpu = scene.view().sensors[1]
    assert (gpu.state, gpu.is_stale, gpu.detail) == (SensorState.FAILING, False, "GPU 0: Timeout")
    scene.after(11)
    assert scene.view().sensors[1].is_stale


def test_what_is_refused_is_told_when_the_level_may_be_lower() -> None:
    scene = LevelScene()
    wait_ns = scene.engine.degradation.retry_after_ns
    assert wait_ns(scene.now_ns) == SECOND_NS
    scene.gpu(0.85)
    assert wait_ns(scene.now_ns) == DWELL_S * SECOND_NS
    scene.calm(11)
    assert wait_ns(scene.now_ns) == (DWELL_S - 10) * SECOND_NS
    assert wait_ns(scene.now_ns + 3600 * SECOND_NS) == SECOND_NS
    scene.ask(L2, for_s=30)
    assert wait_ns(scene.now_ns) == 30 * SECOND_NS
    scene.ask(L2, for_s=36_000)
    assert wait_ns(scene.now_ns) == DWELL_MAX_S * SECOND_NS
    scene.ask(L2)
    assert wait_ns(scene.now_ns) == DWELL_S * SECOND_NS
