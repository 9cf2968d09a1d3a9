"""A clock that runs faster than ours, and an event loop that lives by it.

A server simulated at twenty times its speed wants a broker whose seconds are as short: what the
broker decides by, from a deadline to how often it looks, is in seconds. The sockets are real, and
so is all that takes processor time, which costs here as many times more than it would.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any


class QuickClock:
    """The machine's own clock, `speed` times as fast from now on."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._began_ns = time.monotonic_ns()
        self._began_unix_ns = time.time_ns()

    def monotonic_ns(self) -> int:
        return self._began_ns + self._gone_ns()

    def unix_ns(self) -> int:
        return self._began_unix_ns + self._gone_ns()

    async def sleep(self, duration_ns: int) -> None:
        """To be called within a loop of this clock."""
        await asyncio.sleep(duration_ns / 1e9)

    def _gone_ns(self) -> int:
        return int((time.monotonic_ns() - self._began_ns) * self.speed)


class QuickLoop(asyncio.SelectorEventLoop):
    """Every time-out, sleep and timer within it is by the clock."""

    def __init__(self, clock: QuickClock) -> None:
        super().__init__(_QuickSelector(clock.speed))
        self._clock = clock

    def time(self) -> float:
        return self._clock.monotonic_ns() / 1e9


class _QuickSelector(selectors.DefaultSelector):
    """Waits as long as the seconds of the clock really are."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        return super().select(None if timeout is None else timeout / self._speed)
