class IndexedHeap:
    """Entries ordered by an integer key, ties by order of arrival; any can be removed by handle."""

    def __init__(self, capacity: int) -> None: ...
    def __len__(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def push(self, key: int) -> int:
        """Adds an entry and returns its handle; 0 if the heap is full."""

    def peek(self) -> tuple[int, int] | None:
        """(key, handle) of the best entry, or None."""

    def pop(self) -> tuple[int, int] | None:
        """Takes the best entry out and returns its (key, handle), or None."""

    def pop_due(self, now: int) -> int:
        """Handle of the best entry if its key is at most `now`, taken out; else 0."""

    def remove(self, handle: int) -> bool:
        """Takes this entry out. False, and nothing happens, if the handle is stale."""

    def rekey(self, handle: int, key: int) -> bool:
        """Moves this entry to another key; among equals it keeps its age. False if stale."""

    def key_of(self, handle: int) -> int | None:
        """This entry's key, or None if the handle is stale."""

    def check(self) -> None:
        """Raises AssertionError if the heap is not in order. O(n)."""
