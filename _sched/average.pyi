class MovingAverage:
    """An exponentially weighted mean; the first samples count alike."""

    def __init__(self, weight: float) -> None: ...
    @property
    def count(self) -> int: ...
    def add(self, sample: float) -> None:
        """Counts a sample in."""

    def mean(self, samples_min: int = 1) -> float | None:
        """The mean, or None while there are fewer samples."""

class ServiceRates:
    """How long requests run on one server, by their lengths: what `samples_min` of them tell."""

    def __init__(self, weight: float, samples_min: int) -> None: ...
    @property
    def count(self) -> int:
        """How many requests were measured."""

    def add(
        self,
        service_ns: float,
        first_token_ns: float,
        prompt_bytes: float,
        prompt_tokens: float,
        output_tokens: float,
    ) -> None:
        """A request was served. What is 0 was not measured, and neither is what follows from it."""

    def mean_ns(self) -> float | None:
        """How long a request runs, or None while too few were measured."""

    def expected_ns(self, prompt_bytes: float, output_tokens_max: float = 0) -> float | None:
        """How long a request of this size surely runs, and of so many tokens at most (0: no limit
        is known): by its length where the rates are known, and never longer than others do. What
        was measured per token of prompt holds what every call costs, so that it says too much of
        long ones. None while too few were measured, and where the limit is below what others use
        and the rates are not known."""

    def tokens(self, prompt_bytes: float, output_tokens_max: float = 0) -> float | None:
        """Prompt and output tokens of a request of this size, or None while too few were
        measured."""
