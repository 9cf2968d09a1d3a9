"""Sees streams fall silent: one timer for all attempts. Nothing runs while nothing is under way.

What a silence means is for the core to say; it hears of it again and again while it lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from broker.core.looks import LOOK_NS, Looks, Watched
from broker.core.stimuli import Stimulus
from broker.runtime.clock import Clock


class Watch:
    """`calls` are those that are under way, `feed` takes what is told of them."""

    def __init__(
        self,
        calls: Callable[[], Collection[Watched]],
        clock: Clock,
        feed: Callable[[Stimulus], None],
    ) -> None:
        self._calls = calls
        self._clock = clock
        self._feed = feed
        self._looks = Looks()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """A call has begun. It is looked at until none is under way."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_NS / 1e9, self._on_time)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        if self._calls():
            self.start()
        self.look()

    def look(self) -> None:
        """Looks at all calls once and tells of those that are silent."""
        for each in self._looks.look(self._calls(), self._clock.monotonic_ns()):
            self._feed(each)
