"""Signals: the first SIGTERM or SIGINT drains, the second one stops; SIGHUP reloads."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

STOPPING = (signal.SIGTERM, signal.SIGINT)
RELOADING = signal.SIGHUP


class Signals:
    """Turns process signals into three calls."""

    def __init__(
        self,
        on_first: Callable[[], None],
        on_second: Callable[[], None],
        on_reload: Callable[[], object],
    ) -> None:
        self._on_first = on_first
        self._on_second = on_second
        self._on_reload = on_reload
        self._count = 0

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        for each in STOPPING:
            loop.add_signal_handler(each, self.received)
        loop.add_signal_handler(RELOADING, self._on_reload)

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        for each in (*STOPPING, RELOADING):
            loop.remove_signal_handler(each)

    def received(self) -> None:
        """One signal to stop came; from the second on it does."""
        self._count += 1
        if self._count == 1:
            self._on_first()
        else:
            self._on_second()
