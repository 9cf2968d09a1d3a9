"""How much work arrives: expected running times per second, over about the last minutes."""

from __future__ import annotations

from math import exp
from typing import Final

# Long enough that a burst is no load, short enough that a rush hour is one in good time.
WINDOW_NS: Final = 180_000_000_000


class OfferedLoad:
    """A sum of running times, in which what came t ago counts exp(-t / WINDOW_NS) of itself."""

    __slots__ = ("_at_ns", "_work_ns")

    def __init__(self) -> None:
        self._work_ns = 0.0
        self._at_ns = 0

    def add(self, service_ns: int, now_ns: int) -> None:
        """A request came that will run for so long."""
        self._work_ns = self._work_at(now_ns) + service_ns
        self._at_ns = now_ns

    def slots_used(self, now_ns: int) -> float:
        """How many slots what comes would fill: ns of work per ns."""
        return self._work_at(now_ns) / WINDOW_NS

    def _work_at(self, now_ns: int) -> float:
        return self._work_ns * exp((self._at_ns - now_ns) / WINDOW_NS)
