class MovingAverage:
    """An exponentially weighted mean; the first samples count alike."""

    count: int

    def __init__(self, weight: float) -> None: ...
    def add(self, sample: float) -> None:
        """Counts a sample in."""

    def mean(self, samples_min: int = 1) -> float | None:
        """The mean, or None while there are fewer samples."""
