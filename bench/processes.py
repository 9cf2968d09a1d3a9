"""Processes under measurement: started, pinned to a core, watched, and always ended."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A running process and the line with which it said that it is ready."""

    process: psutil.Process
    ready_line: str

    def cpu_s(self) -> float:
        """Processor time so far, user and system, all its threads."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        return float(self.process.memory_info().rss) / 1e6


@asynccontextmanager
async def running(
    arguments: Sequence[str], *, ready: str, core: int | None = None
) -> AsyncIterator[Measured]:
    """Runs `python ARGUMENTS` until the block ends; yields when it has printed `ready`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    reader: asyncio.Task[None] | None = None
    try:
        if core is not None:
            _pin(process.pid, core)
        line = await asyncio.wait_for(_read_until(process, ready), START_TIMEOUT_S)
        reader = asyncio.create_task(_discard(process))
        yield Measured(psutil.Process(process.pid), line)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if reader is not None:
            await reader


async def output_of(
    arguments: Sequence[str],
    *,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What `python ARGUMENTS` prints, once it has ended. RuntimeError where it fails."""
    return await printed_by(sys.executable, arguments, core=core, environment=environment)


async def printed_by(
    program: str,
    arguments: Sequence[str],
    *,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The same of any program. `core`: to run on; else where this process may. `environment`:
    beside this process's own."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    try:
        if core is not None:
            _pin(process.pid, core)
        printed, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = problem.decode(errors="replace").strip()[-2000:]
        raise RuntimeError(f"{program} {' '.join(arguments)} ended badly: {words}")
    return printed.decode()


async def _read_until(process: asyncio.subprocess.Process, ready: str) -> str:
    assert process.stdout is not None
    seen: list[str] = []
    while line := (await process.stdout.readline()).decode():
        if ready in line:
            return line
        seen.append(line)
    raise RuntimeError(f"the process ended before it was ready:\n{''.join(seen)}")


async def _discard(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        continue


def pin_self(core: int) -> None:
    """Keeps this process (the load) off the core of what is measured."""
    _pin(0, core)


def _pin(pid: int, core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {core % (os.cpu_count() or 1)})
