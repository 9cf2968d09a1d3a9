"""Runs the operator's command that restarts a backend; nothing else restarts anything.

No shell, no input, a session of its own: what it starts is killed with it when its time is over.
What it says goes to the log, as much as an operator reads.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from broker.core.effects import RestartBackend
from broker.core.errors import BackendFailed, BrokerError
from broker.core.stimuli import RestartEnded, Stimulus
from broker.runtime.command_output import CommandOutput
from broker.runtime.supervisor import Supervisor

_log = structlog.get_logger(__name__)

Commands = Callable[[], Mapping[str, Sequence[str]]]


class Restarts:
    """`commands` are those of the configuration as it is now, by backend."""

    def __init__(
        self,
        commands: Commands,
        timeout_s: Callable[[], float],
        supervisor: Supervisor,
        feed: Callable[[Stimulus], None],
    ) -> None:
        self._commands = commands
        self._timeout_s = timeout_s
        self._supervisor = supervisor
        self._feed = feed
        # By backend: the last command's, for what it left running may go on saying things.
        self._listening: dict[str, asyncio.Task[None]] = {}

    def restart(self, effect: RestartBackend) -> None:
        self._supervisor.start(self._run(effect.backend), f"restart-{effect.backend}")

    async def _run(self, backend: str) -> None:
        error: BrokerError | None = BackendFailed("the restart was interrupted")
        try:
            error = await self._outcome(backend)
        finally:
            self._feed(RestartEnded(backend, error))

    async def _outcome(self, backend: str) -> BrokerError | None:
        command = self._commands().get(backend)
        if not command:
            return BackendFailed(f"no command to restart {backend} is configured any more")
        _log.warning("restarting a backend", backend=backend, command=list(command))
        output = CommandOutput()
        if backend in self._listening:
            self._listening[backend].cancel()
        task = self._supervisor.start(output.keep_small(), f"restart-output-{backend}")
        task.add_done_callback(lambda _: output.close())
        self._listening[backend] = task
        error = await run_command(command, self._timeout_s(), output, backend)
        if error is not None:
            _log.error("a backend was not restarted", backend=backend, problem=error.message)
        return error


async def run_command(
    command: Sequence[str], timeout_s: float, output: CommandOutput, backend: str = ""
) -> BrokerError | None:
    """Runs it to its end; why it failed, or None. What it says is logged."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.descriptor,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as problem:
        return BackendFailed(f"the restart command could not be run: {problem}")
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        return BackendFailed(f"the restart command took longer than {timeout_s:g} s")
    finally:
        if process.returncode is None:
            _kill_group(process.pid)
            await process.wait()
        said = output.last_words()
        _log.info("the restart command said", backend=backend, output=said)
    if status:
        last = said.rpartition("\n")[2] or "nothing"
        return BackendFailed(f"the restart command ended with status {status}; it said: {last}")
    return None


def _kill_group(pid: int) -> None:
    """All that it has started and that is still in its session's first group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
