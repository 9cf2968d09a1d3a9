"""A program that the demonstration starts, watches and is sure to end.

Each runs in a session of its own, so that a Ctrl-C meant for the demonstration reaches it only
through `stop`, in order; and is tethered to this process, so that it ends with a crash of it too.
Its output is read all the time, so that it never blocks, and the last lines are kept for the case
that it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

LINES_KEPT: Final = 50
LINE_BYTES_MAX: Final = 1024 * 1024
FOUND = TypeVar("FOUND")


class ProcessFailed(Exception):
    """A program ended, or did not get ready in time; the message holds its last words."""


class ChildProcess:
    """One running program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._line_came = asyncio.Condition()
        self._is_over = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name: str, *command: str, environ: Mapping[str, str]) -> ChildProcess:
        """Starts `python -m COMMAND` with this interpreter, tethered to this process."""
        tether = ("-m", "brokerctl.demo.tether", str(os.getpid()))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *tether,
            sys.executable,
            "-m",
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        return cls(name, process)

    async def wait_line(self, found: Callable[[str], FOUND | None], *, timeout_s: float) -> FOUND:
        """What `found` makes of the first line that it accepts. ProcessFailed where none comes."""
        try:
            async with asyncio.timeout(timeout_s), self._line_came:
                while True:
                    for line in self._lines:
                        if (answer := found(line)) is not None:
                            return answer
                    if self._is_over:
                        raise self.failure(f"{self.name} ended before it was ready")
                    await self._line_came.wait()
        except TimeoutError:
            raise self.failure(f"{self.name} was not ready after {timeout_s:.0f} s") from None

    async def wait_ended(self) -> int:
        """The exit status, once it has ended by itself."""
        return await self._process.wait()

    def failure(self, what: str) -> ProcessFailed:
        """An error with the program's last words."""
        return ProcessFailed("\n".join([f"{what}; its last words:", *self._lines]))

    async def stop(self, *, grace_s: float) -> None:
        """Ends it: asked first, forced after `grace_s`."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            pass  # Asked in vain; what follows needs no consent.
        finally:
            self.kill()
            await self._process.wait()
            await self._reader

    def kill(self) -> None:
        """Ends it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Its session makes it the leader of a group of the same number, until it is reaped.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        is_open = True
        while is_open:  # Until the program closes its output, which its end does.
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                continue  # A line beyond every limit was dropped by the reader; the next is read.
            is_open = bool(line)
            async with self._line_came:
                if line:
                    self._lines.append(line.decode(errors="replace").rstrip())
                else:
                    self._is_over = True
                self._line_came.notify_all()
