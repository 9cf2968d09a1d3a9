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

    def peek_best(self) -> tuple[int, int] | None:
        return self._in_order()[0] if self._entries else None

    def peek_worst(self) -> tuple[int, int] | None:
        return self._in_order()[-1] if self._entries else None

    def pop_best(self) -> tuple[int, int] | None:
        return self._taken_out(self.peek_best())

    def pop_worst(self) -> tuple[int, int] | None:
        return self._taken_out(self.peek_worst())

    def pop_due(self, now: int) -> int:
        best = self.peek_best()
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

    def _in_order(self) -> list[tuple[int, int]]:
        order = sorted((key, sequence, handle) for handle, (key, sequence) in self._entries.items())
        return [(key, handle) for key, _, handle in order]

    def _taken_out(self, entry: tuple[int, int] | None) -> tuple[int, int] | None:
        if entry is not None:
            del self._entries[entry[1]]
        return entry
