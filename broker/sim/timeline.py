"""A virtual clock and what is due on it. Nothing here reads a real one.

Rules: time jumps from event to event and never goes back; what is due at one moment happens in the
order in which it was planned.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class Timeline:
    """Moments in nanoseconds since the world began."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = count()

    def at(self, at_ns: int, action: Callable[[], None]) -> None:
        """Plans an action; what should have happened in the past happens now."""
        heappush(self._due, (max(at_ns, self.now_ns), next(self._sequence), action))

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, action)

    def step(self, until_ns: int) -> bool:
        """Lets the next thing happen that is due by then; False, and it is then, if nothing is."""
        if not self._due or self._due[0][0] > until_ns:
            self.now_ns = max(self.now_ns, until_ns)
            return False
        self.now_ns, _, action = heappop(self._due)
        action()
        return True

    def run(self, until_ns: int) -> None:
        """Lets everything happen that is due by then."""
        while self.step(until_ns):
            pass
