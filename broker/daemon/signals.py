"""Signals: the first SIGTERM or SIGINT drains, the second one stops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Turns process signals into two calls."""

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._on_first = on_first
        self._on_second = on_second
        self._count = 0

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        for each in STOPPING:
            loop.add_signal_handler(each, self.received)

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        for each in STOPPING:
            loop.remove_signal_handler(each)

    def received(self) -> None:
        """One signal came; from the second on it stops."""
        self._count += 1
        if self._count == 1:
            self._on_first()
        else:
            self._on_second()
