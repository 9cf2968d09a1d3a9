"""The operator's command to restart a backend, as a real process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from broker.core.effects import RestartBackend
from broker.core.stimuli import RestartEnded, Stimulus
from broker.runtime import command_output
from broker.runtime.command_output import KEPT_BYTES_MAX, CommandOutput
from broker.runtime.restarts import Restarts, run_command
from broker.runtime.supervisor import Supervisor

LONG_S = 60.0


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


async def problem_of(*command: str, timeout_s: float = LONG_S) -> str:
    with CommandOutput() as output:
        error = await run_command(command, timeout_s, output)
    return "" if error is None else error.message


async def test_a_command_that_ends_well_is_no_problem() -> None:
    assert await problem_of("true") == ""


async def test_its_status_and_its_last_words_are_told() -> None:
    words = await problem_of(*python("import sys; print('one'); print('two'); sys.exit(3)"))
    assert words == "the restart command ended with status 3; it said: two"


async def test_a_command_that_is_not_there_is_a_problem_and_no_crash() -> None:
    assert "could not be run" in await problem_of("/no/such/command")


async def test_no_shell_reads_it() -> None:
    assert await problem_of("true", "; false", "$(false)") == ""


async def test_of_what_it_says_the_end_is_kept() -> None:
    code = f"import sys; print('x' * {10 * KEPT_BYTES_MAX}); print('end'); sys.exit(1)"
    assert (await problem_of(*python(code))).endswith("it said: end")


async def test_it_has_no_input_and_a_session_of_its_own() -> None:
    code = "import os, sys; sys.exit(bool(sys.stdin.read()) or os.getsid(0) != os.getpid())"
    assert await problem_of(*python(code)) == ""


def _is_there(pid: int) -> bool:
    """A zombie, which some init has yet to take note of, is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] != "Z"


async def _gone(pid: int) -> None:
    while _is_there(pid):  # noqa: ASYNC110  # a process that is no child of ours tells nobody
        await asyncio.sleep(0.01)


async def test_one_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    fifo = tmp_path / "said"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(fifo)!r}, 'w').write(f'{{child.pid}}\\n')\n"
        "time.sleep(1000)\n"
    )
    said = asyncio.Event()
    asyncio.get_running_loop().add_reader(reader, said.set)
    output = CommandOutput()
    running = asyncio.create_task(run_command(python(code), LONG_S, output))
    try:
        await said.wait()
        asyncio.get_running_loop().remove_reader(reader)
        child = int(os.read(reader, 100))
    finally:
        os.close(reader)
    running.cancel()
    with output, pytest.raises(asyncio.CancelledError):
        await running
    await _gone(child)


async def test_one_that_takes_too_long_is_told_so() -> None:
    assert await problem_of("sleep", "1000", timeout_s=0.01) == (
        "the restart command took longer than 0.01 s"
    )


async def test_what_it_leaves_running_is_not_waited_for_nor_killed(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    code = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(noted)!r}, 'w').write(str(child.pid))\n"
    )
    assert await problem_of(*python(code)) == ""
    pid = int(noted.read_text())
    os.kill(pid, 0)  # ProcessLookupError where it is gone
    os.kill(pid, 9)


async def test_what_is_said_without_end_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_output, "FILE_BYTES_MAX", 10 * KEPT_BYTES_MAX)
    monkeypatch.setattr(command_output, "LOOK_S", 0.01)
    async with Supervisor(1) as supervisor:
        output = CommandOutput()
        task = supervisor.start(output.keep_small(), "output")
        task.add_done_callback(lambda _: output.close())
        process = await asyncio.create_subprocess_exec("yes", stdout=output.descriptor)
        sizes = [output.size_bytes]
        while not any(after < before for before, after in pairwise(sizes)):
            await asyncio.sleep(0)
            sizes.append(output.size_bytes)
        process.kill()
        await process.wait()
        assert set(output.last_words().split()) == {"y"}
        assert len(output.last_words()) >= KEPT_BYTES_MAX - 2
    assert set(output.last_words().split()) == {"y"}  # the file is closed by now


async def _restarted(commands: dict[str, Sequence[str]]) -> RestartEnded:
    told: asyncio.Queue[Stimulus] = asyncio.Queue()
    async with Supervisor(10) as supervisor:
        restarts = Restarts(lambda: commands, lambda: LONG_S, supervisor, told.put_nowait)
        restarts.restart(RestartBackend("b"))
        ended = await told.get()
    assert isinstance(ended, RestartEnded)
    return ended


async def test_a_restart_ends_in_one_word_to_the_engine() -> None:
    assert (await _restarted({"b": ("true",)})).error is None
    failed = (await _restarted({"b": ("false",)})).error
    assert failed is not None
    assert "status 1" in failed.message


async def test_a_command_that_a_reload_took_away_is_not_run() -> None:
    error = (await _restarted({"b": ()})).error
    assert error is not None
    assert "no command to restart b is configured" in error.message


async def test_the_end_of_the_broker_ends_a_restart() -> None:
    told = list[Stimulus]()
    async with Supervisor(10) as supervisor:
        restarts = Restarts(
            lambda: {"b": ("sleep", "1000")}, lambda: LONG_S, supervisor, told.append
        )
        restarts.restart(RestartBackend("b"))
        await asyncio.sleep(0)
    assert [type(each) for each in told] == [RestartEnded]
