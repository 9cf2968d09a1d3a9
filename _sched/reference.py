"""The package in plain Python, obviously right rather than fast: the oracle of the tests."""

from __future__ import annotations

from itertools import count


class IndexedHeap:
    """As `_sched.heap.IndexedHeap`, by sorting a list. Handles are drawn by it alone."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: dict[int, tuple[int, int]] = {}  # handle -> (key, sequence)
        self._sequence = count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, key: int) -> int:
        if len(self._entries) == self.capacity:
            return 0
        sequence = next(self._sequence)
        self._entries[sequence] = (key, sequence)
        return sequence

    def peek(self) -> tuple[int, int] | None:
        if not self._entries:
            return None
        handle = min(self._entries, key=lambda each: self._entries[each])
        return self._entries[handle][0], handle

    def pop(self) -> tuple[int, int] | None:
        best = self.peek()
        if best is not None:
            del self._entries[best[1]]
        return best

    def pop_due(self, now: int) -> int:
        best = self.peek()
        if best is None or best[0] > now:
            return 0
        del self._entries[best[1]]
        return best[1]

    def remove(self, handle: int) -> bool:
        return self._entries.pop(handle, None) is not None

    def rekey(self, handle: int, key: int) -> bool:
        if handle not in self._entries:
            return False
        self._entries[handle] = (key, self._entries[handle][1])
        return True

    def key_of(self, handle: int) -> int | None:
        entry = self._entries.get(handle)
        return None if entry is None else entry[0]
