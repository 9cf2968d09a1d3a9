class Books:
    """The memory of a `FairQueue`, and the laws that hold in it. Of no use alone."""

    def __init__(
        self, handicap_ns_per_priority: int, parked_max: int = 1024, grain: int = 0
    ) -> None: ...
    def check(self) -> None:
        """Raises AssertionError where an inner law is broken. O(n)."""
