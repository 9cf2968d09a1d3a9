"""What the engine has measured: moving averages of service, loads and departures.

Only measurements, never guesses: an average that has no sample says None, and whoever asks must
then say nothing. Better estimates (per token, per agent) take this place later.
"""

from __future__ import annotations

from typing import Final

# Weight of a new sample: about the last 20 samples count. High enough to follow a change of
# workload within a minute on a busy box, low enough that one long answer does not move it much.
SAMPLE_WEIGHT: Final = 0.1


class MovingAverage:
    """An exponentially weighted mean; the first samples count alike."""

    __slots__ = ("_mean", "count")

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0

    def add(self, sample: float) -> None:
        self.count += 1
        self._mean += (sample - self._mean) * max(SAMPLE_WEIGHT, 1 / self.count)

    def mean(self) -> float | None:
        return self._mean if self.count else None


class Estimates:
    """Averages by runner, and of the whole broker."""

    __slots__ = ("_departure_gap_ns", "_last_departure_ns", "_load_ns", "_service_ns")

    def __init__(self) -> None:
        self._service_ns: dict[str, MovingAverage] = {}
        self._load_ns: dict[str, MovingAverage] = {}
        self._departure_gap_ns = MovingAverage()
        self._last_departure_ns: int | None = None

    def served(self, runner: str, service_ns: int) -> None:
        self._service_ns.setdefault(runner, MovingAverage()).add(service_ns)

    def loaded(self, runner: str, load_ns: int) -> None:
        self._load_ns.setdefault(runner, MovingAverage()).add(load_ns)

    def departed(self, now_ns: int) -> None:
        """A request left the queue: places become free at this rate."""
        if self._last_departure_ns is not None:
            self._departure_gap_ns.add(now_ns - self._last_departure_ns)
        self._last_departure_ns = now_ns

    def emptied(self) -> None:
        """Nobody waits any more: the time until the next departure says nothing of the rate."""
        self._last_departure_ns = None

    def service_ns(self, runner: str) -> float | None:
        average = self._service_ns.get(runner)
        return average.mean() if average else None

    def load_ns(self, runner: str) -> float | None:
        average = self._load_ns.get(runner)
        return average.mean() if average else None

    def departure_gap_ns(self) -> float | None:
        return self._departure_gap_ns.mean()
