class Arena:
    """Fixed-size blocks in one growing array, each known by a handle; none is allocated alone.

    Raises ValueError for a block smaller than its header (8 bytes) or larger than a page, and for
    a `live_max` of 0 or over 2**31 - 1.
    """

    def __init__(self, block_bytes: int, live_max: int = 2147483647) -> None: ...
    def __len__(self) -> int: ...
    @property
    def capacity(self) -> int:
        """How many blocks there is room for before the memory has to grow."""

    def take(self) -> int:
        """Takes a block and returns its handle, never 0.

        Raises MemoryError where `live_max` are taken or memory is short; nothing is lost by it.
        """

    def give_back(self, handle: int) -> bool:
        """Gives this block back. False, and nothing happens, if the handle is stale."""

    def is_live(self, handle: int) -> bool:
        """Whether this block is taken and not yet given back."""

    def check(self) -> None:
        """Raises AssertionError if a slot is lost or free twice. O(n)."""
