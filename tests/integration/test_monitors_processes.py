"""Ollama's processes among the real ones of this machine, as psutil finds them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.core.sensing import SensorState
from broker.monitors.host import HostReader
from broker.monitors.processes import ModelProcesses

# A server that starts a runner which holds memory, says its number, and ends when told to.
SERVER = """
import subprocess, sys
held = "held = bytearray(b'x' * 50_000_000); print(flush=True); import sys; sys.stdin.read()"
runner = subprocess.Popen(
    [sys.argv[1], "-I", "-S", "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
runner.stdout.readline()
print(runner.pid, flush=True)
sys.stdin.read()
runner.communicate()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """What looks like an Ollama with a runner: the names are all that it has of one."""
    for name in ("ollama", "llama-server"):
        (tmp_path / name).symlink_to(Path(sys.executable).resolve())
    process = subprocess.Popen(
        [tmp_path / "ollama", "-I", "-S", "-c", SERVER, tmp_path / "llama-server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process


def test_a_server_and_its_runner_are_found_and_lost(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    runner_pid = int(server.stdout.readline())
    processes = ModelProcesses(time.monotonic_ns)
    assert {server.pid, runner_pid} <= {each.pid for each in processes.look()}
    assert processes.whose(runner_pid) == ("llama-server", True)
    assert processes.whose(processes.own.pid)[1] is False
    reader = HostReader(processes, time.monotonic_ns, pause_s=lambda _: None)
    reading = reader.read()
    assert reading.state is SensorState.OK
    assert reading.sample is not None
    assert reading.sample.models_memory_bytes is not None
    assert reading.sample.models_memory_bytes > 50_000_000
    server.communicate()
    assert not {server.pid, runner_pid} & {each.pid for each in processes.look()}
    assert processes.whose(runner_pid) == ("", False)
