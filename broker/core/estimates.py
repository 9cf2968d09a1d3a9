"""What the engine has measured: moving averages of service, lengths, loads and departures.

Only measurements, never guesses: an average of too few samples says None, and whoever asks must
then say nothing. Better estimates (per agent, per kind of prompt) take this place later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from _sched.average import MovingAverage, ServiceRates

# Weight of a new sample: about the last 20 samples count. High enough to follow a change of
# workload within a minute on a busy box, low enough that one long answer does not move it much.
SAMPLE_WEIGHT: Final = 0.1

# Below so many samples an average of lengths and rates is a guess.
SAMPLES_MIN: Final = 20

_NOWHERE: Final[Mapping[str, ServiceRates]] = {}  # where a runner was never served


def _average() -> MovingAverage:
    return MovingAverage(SAMPLE_WEIGHT)


class Estimates:
    """Averages by (backend, runner), by runner, and of the whole broker."""

    __slots__ = (
        "_costs",
        "_departure_gap_ns",
        "_last_departure_ns",
        "_load_ns",
        "_rates",
        "_samples",
        "_service_ns",
    )

    def __init__(self) -> None:
        self._rates: dict[str, dict[str, ServiceRates]] = {}  # by runner, then by backend
        # Asked for with every arrival, changed with every end: worked out then.
        self._service_ns: dict[str, float] = {}
        self._samples: dict[str, int] = {}
        self._costs: dict[str, MovingAverage] = {}
        self._load_ns: dict[str, MovingAverage] = {}
        self._departure_gap_ns = _average()
        self._last_departure_ns: int | None = None

    def served(
        self,
        runner: str,
        backend: str,
        service_ns: int,
        first_token_ns: int,
        prompt_bytes: int,
        prompt_tokens: int,
        output_tokens: int,
        cost: int,
    ) -> None:
        """A request was completed. `first_token_ns` after it started; 0 where there was none."""
        by_backend = self._rates.setdefault(runner, {})
        rates = by_backend.get(backend)
        if rates is None:
            rates = by_backend[backend] = ServiceRates(SAMPLE_WEIGHT, SAMPLES_MIN)
            self._costs.setdefault(runner, _average())
        rates.add(service_ns, first_token_ns, prompt_bytes, prompt_tokens, output_tokens)
        self._costs[runner].add(cost)
        samples, best_ns = 0, None
        for each in by_backend.values():
            mean_ns = each.mean_ns()
            samples = max(samples, each.count)
            if mean_ns is not None and (best_ns is None or mean_ns < best_ns):
                best_ns = mean_ns
        self._samples[runner] = samples
        if best_ns is not None:
            self._service_ns[runner] = best_ns

    def loaded(self, runner: str, load_ns: int) -> None:
        self._load_ns.setdefault(runner, _average()).add(load_ns)

    def departed(self, now_ns: int) -> None:
        """A request got its slot: places become free at this rate."""
        if self._last_departure_ns is not None:
            self._departure_gap_ns.add(now_ns - self._last_departure_ns)
        self._last_departure_ns = now_ns

    def emptied(self) -> None:
        """Nobody waits any more: the time until the next departure says nothing of the rate."""
        self._last_departure_ns = None

    def keep(self, runners: set[str]) -> None:
        """Forgets the runners that no backend has any more."""
        for kept in (
            self._rates,
            self._costs,
            self._load_ns,
            self._service_ns,
            self._samples,
        ):
            for runner in [each for each in kept if each not in runners]:
                del kept[runner]

    def samples(self, runner: str) -> int:
        """Completed requests of this runner on the backend that has served it most."""
        return self._samples.get(runner, 0)

    def service_ns(self, runner: str) -> float | None:
        """The mean time that a request runs, on the backend where it is shortest."""
        return self._service_ns.get(runner)

    def expected_ns(self, runner: str, prompt_bytes: int) -> float | None:
        """How long a request of this size runs, on the backend where that is shortest."""
        best_ns: float | None = None
        for each in self._rates.get(runner, _NOWHERE).values():
            expected_ns = each.expected_ns(prompt_bytes)
            if expected_ns is not None and (best_ns is None or expected_ns < best_ns):
                best_ns = expected_ns
        return best_ns

    def tokens(self, runner: str, prompt_bytes: int) -> int:
        """Prompt and output tokens that a request of this size will use; 0 while unknown."""
        most = 0.0
        for each in self._rates.get(runner, _NOWHERE).values():
            most = max(most, each.tokens(prompt_bytes) or 0.0)
        return int(most)

    def cost(self, runner: str) -> int:
        """What a request costs, in the units of fairness. A charge that is settled at the end may
        be a guess: 0 before the first."""
        average = self._costs.get(runner)
        return int(average.mean() or 0) if average else 0

    def load_ns(self, runner: str) -> float | None:
        average = self._load_ns.get(runner)
        return average.mean() if average else None

    def departure_gap_ns(self) -> float | None:
        return self._departure_gap_ns.mean()
