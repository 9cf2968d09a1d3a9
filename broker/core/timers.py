"""The engine's alarms: at most one moment for the shell to keep, however many the core has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from _sched.heap import IndexedHeap
from broker.core.errors import InvariantBroken

# Who is told of an alarm: what it is about, and the moment.
Action = Callable[[Any, int], None]

# Each live request has at most three alarms, each attempt one; a bound against a leak of ours.
TIMERS_MAX: Final = 1 << 24


class Timers:
    """Alarms by time; those of one moment go off in the order in which they were set."""

    __slots__ = ("_actions", "_heap")

    def __init__(self, capacity: int = TIMERS_MAX) -> None:
        self._heap = IndexedHeap(capacity)
        self._actions: dict[int, tuple[Action, Any]] = {}

    def set(self, at_ns: int, action: Action, about: Any = None) -> int:
        """Arranges `action(about, now_ns)` and returns a handle. InvariantBroken where there is no
        room: what may be under way at once has limits of its own."""
        handle = self._heap.push(at_ns)
        if handle == 0:
            raise InvariantBroken(f"more than {self._heap.capacity} timers")
        self._actions[handle] = action, about
        return handle

    def cancel(self, handle: int) -> None:
        """Forgets an alarm. One that has gone off is no error."""
        if self._heap.remove(handle):
            del self._actions[handle]

    def fire(self, now_ns: int) -> None:
        """Lets everything go off that is due, also what is set meanwhile."""
        while handle := self._heap.pop_due(now_ns):
            action, about = self._actions.pop(handle)
            action(about, now_ns)

    def next_ns(self) -> int | None:
        best = self._heap.peek_best()
        return None if best is None else best[0]

    def __len__(self) -> int:
        return len(self._heap)
