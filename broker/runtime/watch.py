"""Sees streams fall silent: one timer for all attempts, which looks at how many pieces have come.

No clock is read per piece, and nothing runs while nothing is under way. What a silence means is for
the core to say; it hears of it again and again while it lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, Protocol

from broker.core.requests import AttemptId
from broker.core.stimuli import Quiet, Stimulus
from broker.runtime.clock import Clock

LOOK_NS: Final = 250_000_000

# Shorter silences are no news.
QUIET_NS: Final = 1_000_000_000


class Watched(Protocol):
    """A call to a backend, as far as it is looked at."""

    @property
    def attempt(self) -> AttemptId: ...

    @property
    def first_ns(self) -> int:
        """When its first piece came; 0 before."""
        ...

    @property
    def pieces_count(self) -> int: ...


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
        self._timer: asyncio.TimerHandle | None = None
        # (pieces, the look at which there were so many for the first time) of each that streams.
        self._seen: dict[AttemptId, tuple[int, int]] = {}

    def start(self) -> None:
        """A call has begun. It is looked at until none is under way."""
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_NS / 1e9, self._on_time)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        if self._calls():
            self._arm()
            self.look()
        else:
            self._seen.clear()

    def look(self) -> None:
        """Looks at all calls once and tells of those that are silent; those that fell silent last
        come first, so that who hears of one has heard of all whose silence is shorter."""
        now_ns = self._clock.monotonic_ns()
        before, seen = self._seen, dict[AttemptId, tuple[int, int]]()
        silent = list[Quiet]()
        for call in self._calls():
            pieces = call.pieces_count
            if not call.first_ns or not pieces:
                continue
            known = before.get(call.attempt)
            if known is None or known[0] != pieces:
                known = pieces, now_ns
            seen[call.attempt] = known
            since_ns = known[1]
            if now_ns - since_ns >= QUIET_NS:
                gap_ns = (since_ns - call.first_ns) // (pieces - 1) if pieces > 1 else 0
                silent.append(Quiet(call.attempt, since_ns, pieces, gap_ns))
        self._seen = seen
        silent.sort(key=lambda each: -each.since_ns)
        for each in silent:
            self._feed(each)
