from typing import final

@final
class IndexedHeap:
    """Entries ordered by an integer key, ties by order of arrival, with both ends at hand; any can
    be removed or moved by its handle. Keys are 64-bit integers: OverflowError beyond.

    Memory grows up to `capacity` entries and is kept: `sys.getsizeof` tells it."""

    def __init__(self, capacity: int) -> None:
        """ValueError unless `capacity` is 1 to 2**31 - 1."""

    def __len__(self) -> int: ...
    def __sizeof__(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def push(self, key: int, /) -> int:
        """Adds an entry and returns its handle; 0 if the heap is full. MemoryError, and nothing
        happens, if there is no memory to grow."""

    def peek_best(self) -> tuple[int, int] | None:
        """(key, handle) of the entry with the least key, the oldest of these, or None."""

    def peek_worst(self) -> tuple[int, int] | None:
        """(key, handle) of the entry with the largest key, the youngest of these, or None."""

    def pop_best(self) -> tuple[int, int] | None:
        """Takes the best entry out and returns its (key, handle), or None."""

    def pop_worst(self) -> tuple[int, int] | None:
        """Takes the worst entry out and returns its (key, handle), or None."""

    def pop_due(self, now: int, /) -> int:
        """Handle of the best entry if its key is at most `now`, taken out; else 0."""

    def remove(self, handle: int, /) -> bool:
        """Takes this entry out. False, and nothing happens, if the handle is stale."""

    def rekey(self, handle: int, key: int, /) -> bool:
        """Moves this entry to another key; among equals it keeps its age. False if stale."""

    def key_of(self, handle: int, /) -> int | None:
        """This entry's key, or None if the handle is stale."""

    def check(self) -> None:
        """Raises AssertionError if the heap is not in order. O(n)."""
