"""The level: thresholds, dwell, an operator's hand. What is shown is in `test_level_view.py`."""

from __future__ import annotations

import pytest

from broker.core.errors import LoadFailed
from broker.core.level import SEED_THRESHOLDS, DegradationPolicy, Level, Threshold
from broker.core.load import GPU_MEMORY, HOST_MEMORY
from broker.core.placement import BackendPolicy
from broker.core.residency import ResidencyState
from broker.core.sensing import GpuReading, SensorState
from broker.core.stimuli import GpusSensed
from tests.unit.core.level_scene import DWELL_MAX_S, DWELL_S, LevelScene
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, arrived, model, resident, switches

N, L1, L2, C = Level
ELSEWHERE = BackendPolicy(name="b1", is_local=False)


# Thresholds and dwell


@pytest.mark.parametrize(
    ("load", "level"),
    [(0.60, N), (0.61, L1), (0.80, L1), (0.81, L2), (0.95, L2), (0.96, C), (1.0, C)],
)
def test_a_load_over_a_levels_up_raises_it_there_at_once(load: float, level: Level) -> None:
    assert LevelScene().gpu(load) is level


def test_a_level_is_left_one_at_a_time_each_after_its_own_dwell_below_its_down() -> None:
    scene = LevelScene()
    scene.gpu(1.0)
    assert scene.calm(1 + DWELL_S - 1) == []
    assert scene.calm(1) == [L2]
    assert scene.calm(DWELL_S - 1) == []
    assert scene.calm(1) == [L1]
    assert scene.calm(DWELL_S) == [N]


@pytest.mark.parametrize(
    ("up", "between"), [(0.61, 0.50), (0.81, 0.70), (0.96, 0.90)], ids=["1", "2", "critical"]
)
def test_between_down_and_up_a_level_stays(up: float, between: float) -> None:
    scene = LevelScene()
    level = scene.gpu(up)
    assert scene.calm(10 * DWELL_S, load=between) == []
    assert scene.level is level


def test_a_moment_above_down_begins_the_dwell_anew() -> None:
    scene = LevelScene()
    scene.gpu(0.7)
    scene.calm(DWELL_S)
    scene.gpu(0.55)
    assert scene.calm(DWELL_S) == []
    assert scene.calm(1) == [N]


def test_a_look_at_the_same_moment_changes_nothing_and_one_long_after_takes_one_step() -> None:
    scene = LevelScene()
    scene.gpu(1.0)
    scene.gpu(0.1)
    assert scene.gpu(0.1) is C
    assert scene.after(10_000) is C
    assert scene.gpu(0.1) is L2
    assert scene.gpu(0.1) is L2


def test_a_silent_sensor_does_not_freeze_the_level() -> None:
    scene = LevelScene()
    scene.gpu(0.7)
    levels = []
    for _ in range(30):
        scene.after(1)
        levels.append(scene.look())
    assert levels[-1] is N
    assert scene.part(GPU_MEMORY).share is None
    assert "silent for 30 s" in scene.part(GPU_MEMORY).detail
    assert levels.index(N) == 10 + DWELL_S  # believed for 10 s, then the dwell


def test_a_sensor_that_begins_to_fail_does_not_freeze_the_level() -> None:
    scene = LevelScene()
    scene.gpu(0.7)
    lost = GpuReading(at_ns=scene.now_ns, state=SensorState.FAILING, problem="the card is gone")
    scene.turn(GpusSensed(lost))
    scene.after(DWELL_S)
    assert scene.look() is N
    assert "the card is gone" in scene.part(GPU_MEMORY).detail


# Damping


def test_a_level_that_comes_back_soon_is_held_twice_as_long_up_to_a_limit() -> None:
    scene = LevelScene()
    held = []
    for _ in range(7):
        scene.gpu(0.7)
        began_ns = scene.now_ns
        scene.calm(1)
        while scene.level is not N:
            scene.calm(1)
        held.append((scene.now_ns - began_ns) // SECOND_NS - 1)
    assert held == [15, 30, 60, 120, 240, 240, 240]


def test_calm_takes_the_penalty_back_by_halves() -> None:
    scene = LevelScene()
    for _ in range(4):
        scene.gpu(0.7)
        scene.calm(DWELL_MAX_S + 2)
    assert scene.level is N
    scene.calm(2 * DWELL_MAX_S)
    scene.gpu(0.7)
    assert scene.engine.degradation.retry_after_ns(scene.now_ns) < 60 * SECOND_NS


def test_a_level_passed_on_the_way_up_is_damped_as_well() -> None:
    scene = LevelScene()
    scene.gpu(1.0)
    scene.calm(4 * DWELL_S)
    assert scene.level is N
    scene.gpu(1.0)
    assert scene.calm(2 * DWELL_S) == []
    assert scene.calm(1) == [L2]


# By hand


@pytest.mark.parametrize("level", list(Level))
def test_an_operators_level_holds_exactly_whatever_the_load(level: Level) -> None:
    scene = LevelScene()
    scene.gpu(0.85)
    assert scene.ask(level) is level
    assert scene.calm(100, load=1.0) == scene.calm(100, load=0.0) == []
    assert (scene.level, scene.memory_level) == (level, N)


def test_an_operators_level_ends_at_its_moment_and_the_load_decides_at_once() -> None:
    scene = LevelScene()
    scene.ask(C, for_s=60)
    assert scene.view().until_ns == scene.now_ns + 60 * SECOND_NS
    assert scene.after(59) is C
    assert scene.gpu(0.7) is C
    assert scene.after(1) is L1
    view = scene.view()
    assert (view.is_automatic, view.until_ns, view.before) == (True, None, C)
    assert view.why.startswith("the time of the operator's level is over; gpu_memory is at 70%")


def test_a_later_word_takes_the_place_of_an_earlier_with_its_end() -> None:
    scene = LevelScene()
    scene.ask(C, for_s=60)
    scene.ask(L1, for_s=600)
    assert scene.after(61) is L1
    scene.ask(L2)
    assert scene.after(10_000) is L2
    assert scene.ask(None) is N
    assert scene.ask(None) is N
    assert [each.level for each in scene.told] == [C, L1, L2, N]


def test_a_level_asked_for_until_a_moment_that_is_past_is_over_at_once() -> None:
    scene = LevelScene()
    scene.now_ns = 100 * SECOND_NS
    scene.ask(C, for_s=-1)
    assert scene.after(0) is N


def test_where_the_configuration_says_so_the_level_moves_only_by_hand() -> None:
    scene = LevelScene(degradation=DegradationPolicy(is_automatic=False))
    assert scene.gpu(1.0) is N
    assert not scene.view().is_automatic
    assert scene.ask(L2, for_s=60) is L2
    assert scene.after(60) is N
    assert "leaves the level to operators" in scene.view().why


# A reload


def test_a_reload_counts_from_the_next_look_on_and_leaves_an_operators_level() -> None:
    scene = LevelScene()
    scene.gpu(0.7)
    scene.decide(DegradationPolicy(is_automatic=False))
    assert scene.level is N
    assert scene.look() is N
    scene.decide(DegradationPolicy())
    assert scene.level is N
    assert scene.look() is L1
    stricter = {**SEED_THRESHOLDS, L2: Threshold(up=0.65, down=0.6)}
    scene.decide(DegradationPolicy(thresholds=stricter))
    assert scene.level is L1
    assert scene.look() is L2
    scene.ask(C)
    scene.decide(DegradationPolicy(is_automatic=False))
    assert scene.level is C


def test_a_shorter_longest_dwell_binds_what_was_learned() -> None:
    scene = LevelScene()
    for _ in range(5):
        scene.gpu(0.7)
        scene.calm(DWELL_MAX_S + 2)
    scene.gpu(0.7)
    scene.decide(DegradationPolicy(dwell_ns_max=20 * SECOND_NS))
    assert scene.engine.degradation.retry_after_ns(scene.now_ns) == 20 * SECOND_NS


# The cause


def test_memory_asks_for_a_level_of_its_own_which_is_no_higher_than_the_level() -> None:
    scene = LevelScene()
    scene.cpu(0.97)
    assert (scene.level, scene.memory_level) == (C, N)
    scene.gpu(0.79)
    assert (scene.level, scene.memory_level) == (C, L1)
    scene.gpu(0.94)
    assert (scene.level, scene.memory_level) == (C, L2)
    assert len(scene.told) == 1
    scene.cpu(0.1)
    assert scene.calm(DWELL_S, load=0.94) == [L2]
    assert scene.calm(10 * DWELL_S, load=0.75) == []  # between its down and its up
    assert scene.memory_level is L2


def test_memory_between_down_and_up_does_not_keep_a_level_that_the_rest_has_set() -> None:
    scene = LevelScene()
    scene.gpu(0.75)
    scene.cpu(0.85)
    assert (scene.level, scene.memory_level) == (L2, L1)
    scene.cpu(0.1)
    assert scene.calm(DWELL_S, load=0.75) == [L1]
    assert scene.calm(10 * DWELL_S, load=0.75) == []


def test_memory_that_falls_leaves_its_level_one_at_a_time_as_well() -> None:
    scene = LevelScene()
    scene.gpu(0.97)
    assert scene.calm(DWELL_S, load=0.85) == []
    assert scene.memory_level is C
    assert scene.calm(1, load=0.85) == [L2]
    assert scene.memory_level is L2


def test_memory_of_the_host_is_a_cause_as_well() -> None:
    scene = LevelScene()
    assert scene.memory(0.85) is L2
    assert scene.memory_level is L2
    assert scene.part(HOST_MEMORY).share == pytest.approx(0.85)


def test_a_load_refused_for_lack_of_memory_asks_for_small_models() -> None:
    scene = LevelScene(ELSEWHERE)
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"))
    scene.after(1)
    scene.seen("b1")  # it was there and has left
    assert switches(scene.turn(arrived("r"))) == ["load m on b1"]
    scene.loaded("m", error=LoadFailed("m could not be loaded on b1: cudaMalloc failed"))
    assert (scene.look(), scene.memory_level) == (L2, L2)
    scene.after(61)
    scene.look()
    scene.after(DWELL_S)
    assert scene.look() is L1


def test_a_model_that_was_never_loaded_here_and_cannot_be_is_no_load() -> None:
    """One who asks for what is too large for the box stops nobody else."""
    scene = LevelScene(ELSEWHERE)
    scene.open("b1", model("huge"), model("n"))
    for number in range(60):
        scene.turn(arrived(f"r{number}", model="huge", deadline_ns=60 * MINUTE_NS))
        if scene.state("huge") is ResidencyState.LOADING:
            scene.loaded("huge", error=LoadFailed("huge: cudaMalloc failed: out of memory"))
        assert scene.look() is N
        scene.after(30)


def test_a_model_that_comes_back_with_less_of_itself_on_the_gpu_is_noticed() -> None:
    scene = LevelScene(ELSEWHERE)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    assert scene.look() is N
    whole = resident("m")
    part = type(whole)(
        name=whole.name,
        digest=whole.digest,
        memory_bytes=whole.memory_bytes,
        gpu_memory_bytes=whole.memory_bytes // 4,
        num_ctx=0,
    )
    scene.seen("b1", part)
    assert scene.look() is L2
    assert "has 25% of itself on the GPU and had 100%" in scene.told[-1].why
