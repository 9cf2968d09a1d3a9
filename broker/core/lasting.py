"""What others use of a memory, as far as it lasts: a moment is no pressure.

A single sample may come between two books: a model has left its server's list and its memory is not
free yet, a client of the same server has begun to load one that is not listed yet, a process has
ended while it was counted. Each of these is over in a few seconds; what is real stays.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Use(NamedTuple):
    """What others use, of so much."""

    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        return self.used_bytes / self.limit_bytes


class Lasting:
    """`least`: the least that others have used within the last while; None until that was watched
    for so long. Time in which nobody can tell what is ours is no part of it."""

    __slots__ = ("_last_ns", "_seen", "_watched_ns", "least")

    def __init__(self) -> None:
        self.least: Use | None = None
        self._seen: deque[tuple[int, Use]] = deque()  # by time watched, which stands in a pause
        self._watched_ns = 0
        self._last_ns: int | None = None

    def add(self, use: Use, at_ns: int, settle_ns: int) -> None:
        """One sample. The one before the while counts as well: it held until the next."""
        if self._last_ns is not None:
            self._watched_ns += max(0, at_ns - self._last_ns)
        self._last_ns = at_ns
        since_ns, seen = self._watched_ns - settle_ns, self._seen
        seen.append((self._watched_ns, use))
        while len(seen) > 1 and seen[1][0] <= since_ns:
            seen.popleft()
        if seen[0][0] <= since_ns:
            self.least = min((each for _, each in seen), key=lambda each: each.share)

    def pause(self) -> None:
        """Nobody can tell now what is ours: what was known holds on."""
        self._last_ns = None
