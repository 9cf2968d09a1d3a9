"""The host's sensor: shares of the processor, memory that can be had back, what the models hold."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from broker.core.sensing import HostSample, SensorState
from broker.monitors.host import FIRST_LOOK_S, HostReader, Smoothed
from broker.monitors.processes import ModelProcesses
from tests.unit.monitors.fake_platform import CORES, GIB, OWN_PID, FakePlatform, Row


class Box:
    """A machine and its sensor. `first_busy`: the processor during the sensor's first pause."""

    def __init__(self, cgroup: Path, first_busy: float = 0.0) -> None:
        self.platform = FakePlatform()
        self.cgroup = cgroup  # the container's, which has no limit until a test sets one
        processes = ModelProcesses(self.platform.monotonic_ns, OWN_PID, self.platform)
        self.reader = HostReader(
            processes,
            self.platform.monotonic_ns,
            pause_s=lambda seconds: self.platform.pass_time(seconds, busy=first_busy),
            platform=self.platform,
            cgroup=cgroup,
        )

    def sample(self) -> HostSample:
        reading = self.reader.read()
        assert reading.state is SensorState.OK, reading.problem
        assert reading.sample is not None
        return reading.sample

    def settle(self, *, busy: float, **spent_s: float) -> HostSample:
        """The sample after two minutes of the same."""
        self.sample()
        for _ in range(120):
            self.platform.pass_time(1.0, busy=busy, **spent_s)
            sample = self.sample()
        return sample


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_the_first_reading_is_a_whole_sample(box: Box) -> None:
    sample = box.sample()
    assert sample.at_ns == box.platform.now_ns == int(FIRST_LOOK_S * 1e9)
    assert (sample.cpu_count, sample.cpu_share) == (CORES, 0.0)
    assert sample.memory_total_bytes == 16 * GIB
    assert sample.memory_available_bytes == 12 * GIB


def test_without_an_ollama_the_models_share_is_unknown(box: Box) -> None:
    box.platform.run(Row(20, "postgres", rss=GIB))
    sample = box.settle(busy=0.5, p20=2.0)
    assert sample.cpu_share == pytest.approx(0.5)
    assert sample.models_cpu_share is None
    assert sample.models_memory_bytes is None


def test_a_processor_that_is_full_of_tokens_is_the_models(box: Box) -> None:
    box.platform.run(Row(20, "ollama"))
    box.platform.run(Row(30, "llama-server", parent_pid=20))
    sample = box.settle(busy=1.0, p30=CORES * 0.95, p1000=CORES * 0.05)
    assert sample.cpu_share == pytest.approx(1.0)
    assert sample.models_cpu_share == pytest.approx(1.0)


def test_what_others_compute_is_not_the_models(box: Box) -> None:
    box.platform.run(Row(20, "ollama"))
    box.platform.run(Row(40, "make"))
    sample = box.settle(busy=0.75, p20=1.0, p40=2.0)
    assert sample.cpu_share == pytest.approx(0.75)
    assert sample.models_cpu_share == pytest.approx(0.25)


def test_a_runner_counts_from_its_first_moment(box: Box) -> None:
    box.platform.run(Row(20, "ollama"))
    box.settle(busy=0.0)
    box.platform.pass_time(1.0, busy=0.0)
    box.platform.run(Row(30, "llama-server", parent_pid=20))
    box.platform.pass_time(1.0, busy=1.0, p30=CORES)
    sample = box.sample()
    assert sample.models_cpu_share == pytest.approx(sample.cpu_share)
    assert sample.cpu_share > 0.05


def test_time_spent_before_a_process_was_found_is_not_of_this_second(box: Box) -> None:
    box.platform.run(Row(20, "ollama", cpu_s=5_000.0))
    box.platform.pass_time(1.0, busy=0.5)
    sample = box.sample()
    assert sample.models_cpu_share == 0.0
    reused = box.platform.run(Row(20, "ollama", created=9.0, cpu_s=7_000.0))
    box.platform.pass_time(1.0, busy=0.0)
    assert box.sample().models_cpu_share == 0.0
    assert reused.cpu_s == 7_000.0


def test_a_page_cache_that_fills_memory_is_available(box: Box) -> None:
    box.platform.run(Row(20, "ollama", rss=GIB, shared=GIB // 2))
    box.platform.run(Row(30, "llama-server", parent_pid=20, rss=9 * GIB, shared=8 * GIB))
    box.platform.rows[OWN_PID].rss = GIB // 4
    sample = box.sample()
    assert sample.memory_available_bytes == 12 * GIB
    # Weights that are mapped from their file can be had back; what was computed cannot.
    assert sample.models_memory_bytes == GIB // 2 + GIB + GIB // 4


def test_processes_that_may_not_be_read_hold_nothing_that_is_known(box: Box) -> None:
    row = box.platform.run(Row(20, "ollama", rss=GIB))
    assert box.sample().models_memory_bytes == GIB
    row.error = psutil.AccessDenied(20)
    box.platform.pass_time(1.0, busy=0.0)
    sample = box.sample()
    assert sample.models_memory_bytes is None
    assert sample.models_cpu_share is not None


def test_swap_is_told_with_the_rate_of_what_comes_back(box: Box) -> None:
    box.sample()
    box.platform.swap_used = GIB // 2
    for _ in range(120):
        box.platform.swapped_in += 10 * 2**20
        box.platform.pass_time(1.0, busy=0.0)
        sample = box.sample()
    assert sample.swap_total_bytes == GIB
    assert sample.swap_used_bytes == GIB // 2
    assert sample.swap_in_bytes_per_s == pytest.approx(10 * 2**20)


def test_figures_from_different_books_are_held_together(box: Box) -> None:
    box.platform.available = 40 * GIB
    assert box.sample().memory_available_bytes == 16 * GIB
    box.platform.available = -1
    box.platform.pass_time(1.0, busy=0.0)
    assert box.sample().memory_available_bytes == 0


def test_counters_that_stand_or_go_back_change_no_average(box: Box) -> None:
    before = box.settle(busy=0.5)
    assert box.sample().cpu_share == before.cpu_share  # no time has passed
    box.platform.busy_s -= 100.0
    box.platform.idle_s -= 100.0
    box.platform.swapped_in = -5
    box.platform.now_ns += 1_000_000_000
    after = box.sample()
    assert after.cpu_share == before.cpu_share
    assert after.swap_in_bytes_per_s == 0.0


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PermissionError(13, "Permission denied"), SensorState.ABSENT),
        (FileNotFoundError(2, "No such file"), SensorState.ABSENT),
        (psutil.AccessDenied(0), SensorState.ABSENT),
        (OSError(5, "Input/output error"), SensorState.FAILING),
        (psutil.Error("odd"), SensorState.FAILING),
    ],
)
def test_a_host_that_does_not_tell_is_absent_and_one_that_errs_fails(
    box: Box, error: Exception, state: SensorState
) -> None:
    box.platform.error = error
    reading = box.reader.read()
    assert (reading.state, reading.sample) == (state, None)
    assert reading.problem
    box.platform.error = None
    assert box.sample().cpu_share == 0.0


def test_a_host_without_memory_fails(box: Box) -> None:
    box.platform.total = 0
    reading = box.reader.read()
    assert reading.state is SensorState.FAILING
    assert "0 bytes" in reading.problem


def test_an_average_weighs_each_value_by_how_long_it_held() -> None:
    fine, coarse = Smoothed(5.0), Smoothed(5.0)
    for _ in range(40):
        last = fine.add(1.0, 0.25)
    assert last == pytest.approx(coarse.add(1.0, 10.0)) == pytest.approx(1.0)
    for _ in range(4):
        last = fine.add(0.0, 0.25)
    assert last == pytest.approx(coarse.add(0.0, 1.0))
    assert Smoothed(5.0).add(0.7, 0.0) == 0.0


def test_a_burst_at_the_start_is_no_average_and_two_seconds_are() -> None:
    short, steady = Smoothed(5.0), Smoothed(5.0)
    assert short.add(1.0, 0.1) < 0.1
    for _ in range(19):
        steady.add(0.7, 0.1)
    assert steady.add(0.7, 0.1) == pytest.approx(0.7)


def test_a_processor_that_is_busy_for_the_first_look_alone_is_not_full(tmp_path: Path) -> None:
    box = Box(tmp_path, first_busy=1.0)
    box.platform.run(Row(20, "ollama"))
    sample = box.sample()
    assert sample.cpu_share < 0.1
    assert sample.models_cpu_share == 0.0


def limit(box: Box, memory_max: str, *, used: int = 0, cache: int = 0) -> None:
    """The container's own group as the kernel writes it."""
    (box.cgroup / "memory.max").write_text(f"{memory_max}\n")
    (box.cgroup / "memory.current").write_text(f"{used}\n")
    stat = f"anon {used - cache}\nfile {cache}\ninactive_file {cache // 2}\n"
    (box.cgroup / "memory.stat").write_text(f"{stat}active_file {cache - cache // 2}\n")


def test_in_a_container_its_own_limit_counts_and_its_page_cache_can_be_had_back(box: Box) -> None:
    limit(box, str(8 * GIB), used=6 * GIB, cache=4 * GIB)
    sample = box.sample()
    assert (sample.memory_total_bytes, sample.memory_available_bytes) == (8 * GIB, 6 * GIB)


@pytest.mark.parametrize("memory_max", ["max", str(64 * GIB), "0", "what"])
def test_a_container_that_may_use_all_is_as_the_host(box: Box, memory_max: str) -> None:
    limit(box, memory_max, used=GIB)
    sample = box.sample()
    assert (sample.memory_total_bytes, sample.memory_available_bytes) == (16 * GIB, 12 * GIB)


def test_what_the_host_has_left_bounds_what_a_container_has(box: Box) -> None:
    limit(box, str(15 * GIB), used=GIB)
    sample = box.sample()
    assert (sample.memory_total_bytes, sample.memory_available_bytes) == (15 * GIB, 12 * GIB)


def test_the_real_psutil_fills_a_sample() -> None:
    clock = iter(range(0, 10**12, 10**9))
    processes = ModelProcesses(lambda: next(clock))
    reading = HostReader(processes, lambda: next(clock), pause_s=lambda _: None).read()
    assert reading.state is SensorState.OK
    sample = reading.sample
    assert sample is not None
    assert 0 <= sample.cpu_share <= 1
    assert 0 < sample.memory_available_bytes <= sample.memory_total_bytes
