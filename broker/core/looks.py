"""Silence as seen by looking at how many pieces have come: no clock is read per piece."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from broker.core.requests import AttemptId
from broker.core.stimuli import Quiet

LOOK_NS: Final = 250_000_000

# A look that is later than this says that nobody looked: what came meanwhile may not be read yet.
LATE_NS: Final = 2 * LOOK_NS

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


class Looks:
    """What was seen at the looks before."""

    __slots__ = ("_looked_ns", "_seen")

    def __init__(self) -> None:
        self._looked_ns = 0
        # (pieces, the look at which there were so many for the first time) of each that streams.
        self._seen: dict[AttemptId, tuple[int, int]] = {}

    def look(self, calls: Iterable[Watched], now_ns: int) -> list[Quiet]:
        """Looks at all calls once: those that are silent. Those that fell silent last come first,
        so that who hears of one has heard of all whose silence is shorter. After a time in which
        nobody could look, as the whole broker stood still, every silence begins anew."""
        if now_ns - self._looked_ns > LATE_NS:
            self._seen.clear()
        self._looked_ns = now_ns
        before, seen = self._seen, dict[AttemptId, tuple[int, int]]()
        silent = list[Quiet]()
        for call in calls:
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
        return silent
