"""Time as a port: the loop's clock, which a test or a simulation replaces."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in nanoseconds, and waiting by it."""

    def monotonic_ns(self) -> int: ...

    def unix_ns(self) -> int:
        """The clock on the wall, in nanoseconds since 1970: to be shown, never to decide by."""
        ...

    async def sleep(self, duration_ns: int) -> None: ...


class LoopClock:
    """The machine's own monotonic clock."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def unix_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, duration_ns: int) -> None:
        await asyncio.sleep(duration_ns / 1e9)
