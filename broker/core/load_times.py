"""How long loads take at least, as far as the last ones tell.

An average is not enough where somebody is to be refused for it: a file that is still in the page
cache loads ten times faster than a cold one, and which it will be nobody knows.
"""

from __future__ import annotations

from collections import deque
from typing import Final

# Of the last so many loads of a model on a backend the shortest counts.
LOADS_KEPT: Final = 8

# Below so many it may have been chance.
LOADS_MIN: Final = 3

# For so long a load that was measured is believed: what is refused for its sake measures none anew.
BELIEVED_NS: Final = 600_000_000_000


class LoadTimes:
    """By runner, then by backend."""

    __slots__ = ("_at_ns", "_lasted_ns")

    def __init__(self) -> None:
        self._lasted_ns: dict[str, dict[str, deque[int]]] = {}
        self._at_ns: dict[str, dict[str, int]] = {}

    def add(self, runner: str, backend: str, load_ns: int, now_ns: int) -> None:
        """A load came to a good end, just now."""
        lasted = self._lasted_ns.setdefault(runner, {})
        lasted.setdefault(backend, deque(maxlen=LOADS_KEPT)).append(load_ns)
        self._at_ns.setdefault(runner, {})[backend] = now_ns

    def least_ns(self, runner: str, backend: str, now_ns: int) -> int:
        """How long such a load surely takes; 0 where too few were measured, or none lately."""
        lasted = self._lasted_ns.get(runner, {}).get(backend, ())
        if len(lasted) < LOADS_MIN or now_ns - self._at_ns[runner][backend] >= BELIEVED_NS:
            return 0
        return min(lasted)

    def keep(self, runners: set[str]) -> None:
        """Forgets the runners that no backend has any more."""
        for runner in [each for each in self._lasted_ns if each not in runners]:
            del self._lasted_ns[runner], self._at_ns[runner]
