"""What a simulated server means to do later, in order of time.

Rules: of two reminders for the same moment the one of lower rank comes first, of two of one rank
the one that was made first; a cancelled one never comes. Nothing here reads a clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

# Cancelled reminders stay in the heap until popped; above this many they are swept out at once.
_SWEEP_ABOVE = 1024


class Reminder:
    """One thing to do at `at_ns`; `action` is called with that moment."""

    __slots__ = ("action", "at_ns")

    def __init__(self, at_ns: int, action: Callable[[int], None]) -> None:
        self.at_ns = at_ns
        self.action: Callable[[int], None] | None = action


class Reminders:
    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Reminder]] = []
        self._made = 0
        self._cancelled = 0

    def at(self, at_ns: int, action: Callable[[int], None], *, rank: int = 0) -> Reminder:
        reminder = Reminder(at_ns, action)
        self._made += 1
        heapq.heappush(self._heap, (at_ns, rank, self._made, reminder))
        return reminder

    def cancel(self, reminder: Reminder | None) -> None:
        """Takes a reminder back; None, or one that has come or been cancelled, is no harm."""
        if reminder is None or reminder.action is None:
            return
        reminder.action = None
        self._cancelled += 1
        if self._cancelled > _SWEEP_ABOVE and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[3].action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_ns(self) -> int | None:
        heap = self._heap
        while heap and heap[0][3].action is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def run_one(self, until_ns: int) -> bool:
        """Does the first thing that is due by `until_ns`; False if there is none."""
        at_ns = self.next_ns()
        if at_ns is None or at_ns > until_ns:
            return False
        reminder = heapq.heappop(self._heap)[3]
        action, reminder.action = reminder.action, None
        if action is not None:
            action(at_ns)
        return True

    def clear(self) -> None:
        self._heap.clear()
        self._cancelled = 0
