"""Whose a process is: Ollama's own and all that they start, found without looking at everything."""

from __future__ import annotations

import psutil
import pytest

from broker.monitors.processes import ASKED_MAX, SCAN_INTERVAL_NS, ModelProcesses
from tests.unit.monitors.fake_platform import OWN_PID, FakePlatform, Row


@pytest.fixture
def platform() -> FakePlatform:
    return FakePlatform()


@pytest.fixture
def processes(platform: FakePlatform) -> ModelProcesses:
    return ModelProcesses(platform.monotonic_ns, OWN_PID, platform)


def pids(processes: ModelProcesses) -> list[int]:
    return sorted(each.pid for each in processes.look())


def test_a_server_and_all_that_it_starts_are_found(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "llama-server", parent_pid=30))  # numbers wrap around: a child before
    platform.run(Row(30, "ollama"))
    platform.run(Row(40, "worker", parent_pid=20))
    platform.run(Row(50, "ollama_llama_server"))  # its server has died
    platform.run(Row(60, "llama-server"))  # somebody's own llama.cpp
    platform.run(Row(70, "ollama-webui"))
    assert pids(processes) == [20, 30, 40, 50]


def test_a_new_runner_is_found_at_once_without_a_look_at_the_others(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "ollama"))
    for pid in range(100, 400):
        platform.run(Row(pid, "bash"))
    assert [each.is_newborn for each in processes.look()] == [False]
    platform.run(Row(30, "llama-server", parent_pid=20))
    platform.looks = 0
    assert {each.pid: each.is_newborn for each in processes.look()} == {20: False, 30: True}
    assert platform.looks < 10


def test_a_known_process_stays_the_same_object(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "ollama"))
    (before,) = processes.look()
    platform.now_ns += 2 * SCAN_INTERVAL_NS
    (after,) = processes.look()
    assert after is before


def test_a_shell_that_becomes_ollama_is_found_by_the_next_look_at_everything(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    row = platform.run(Row(20, "bash"))
    assert pids(processes) == []
    row.name = "ollama"
    platform.now_ns += SCAN_INTERVAL_NS - 1
    assert pids(processes) == []
    platform.now_ns += 1
    assert pids(processes) == [20]


def test_a_number_that_was_used_again_is_another_process(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "ollama"))
    platform.run(Row(30, "llama-server", parent_pid=20))
    assert pids(processes) == [20, 30]
    platform.run(Row(30, "firefox", created=5.0))
    assert pids(processes) == [20]


def test_a_server_that_restarts_under_its_number_is_found_at_once(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "ollama"))
    (before,) = processes.look()
    platform.run(Row(20, "ollama", created=5.0))
    (after,) = processes.look()
    assert after.pid == 20
    assert after is not before


@pytest.mark.parametrize(
    "error", [psutil.AccessDenied(20), psutil.NoSuchProcess(20), PermissionError("/proc/20/stat")]
)
def test_what_may_not_be_read_or_ends_meanwhile_is_left_out(
    platform: FakePlatform, processes: ModelProcesses, error: Exception
) -> None:
    platform.run(Row(20, "ollama", error=error))
    platform.run(Row(30, "ollama"))
    assert pids(processes) == [30]


def test_a_process_on_a_gpu_is_ours_from_its_first_moment(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "ollama"))
    processes.look()
    platform.run(Row(30, "llama-server", parent_pid=20))
    platform.run(Row(40, "python"))
    assert processes.whose(30) == ("llama-server", True)
    assert processes.whose(20) == ("ollama", True)
    assert processes.whose(40) == ("python", False)
    assert processes.whose(99) == ("", False)


def test_whose_a_process_is_is_remembered_but_not_of_another_under_its_number(
    platform: FakePlatform, processes: ModelProcesses
) -> None:
    platform.run(Row(20, "ollama"))
    row = platform.run(Row(30, "llama-server", parent_pid=20))
    assert processes.whose(30) == ("llama-server", True)
    row.parent_pid = 1  # its server died: it was ours, and still is
    assert processes.whose(30) == ("llama-server", True)
    platform.run(Row(30, "blender", created=5.0))
    assert processes.whose(30) == ("blender", False)
    row.error = psutil.AccessDenied(30)
    platform.run(row)
    assert processes.whose(30) == ("", False)


def test_what_is_remembered_is_bounded(platform: FakePlatform, processes: ModelProcesses) -> None:
    for pid in range(2_000, 2_000 + ASKED_MAX + 5):
        platform.run(Row(pid, "train"))
        assert processes.whose(pid) == ("train", False)
    assert len(processes._asked) <= ASKED_MAX
