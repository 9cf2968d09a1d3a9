"""What the engine has measured: moving averages of service, lengths, loads and departures.

Only measurements, never guesses: an average of too few samples says None, and whoever asks must
then say nothing. Better estimates (per agent, per kind of prompt) take this place later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from _sched.average import MovingAverage

# Weight of a new sample: about the last 20 samples count. High enough to follow a change of
# workload within a minute on a busy box, low enough that one long answer does not move it much.
SAMPLE_WEIGHT: Final = 0.1

# Below so many samples an average of lengths and rates is a guess.
SAMPLES_MIN: Final = 20


def _average() -> MovingAverage:
    return MovingAverage(SAMPLE_WEIGHT)


class Served(NamedTuple):
    """How one request was served, as measured. `first_token_ns` is 0 where there was none."""

    service_ns: int
    first_token_ns: int
    prompt_bytes: int
    prompt_tokens: int
    output_tokens: int
    cost: int


@dataclass(slots=True)
class _Rates:
    """The averages of one runner on one backend."""

    service_ns: MovingAverage = field(default_factory=_average)
    prefill_ns_per_token: MovingAverage = field(default_factory=_average)
    decode_ns_per_token: MovingAverage = field(default_factory=_average)
    tokens_per_byte: MovingAverage = field(default_factory=_average)
    output_tokens: MovingAverage = field(default_factory=_average)

    def add(self, served: Served) -> None:
        self.service_ns.add(served.service_ns)
        if served.prompt_bytes and served.prompt_tokens:
            self.tokens_per_byte.add(served.prompt_tokens / served.prompt_bytes)
        if served.first_token_ns and served.prompt_tokens:
            self.prefill_ns_per_token.add(served.first_token_ns / served.prompt_tokens)
        if served.first_token_ns and served.output_tokens > 1:
            decode_ns = served.service_ns - served.first_token_ns
            self.decode_ns_per_token.add(decode_ns / (served.output_tokens - 1))
        self.output_tokens.add(served.output_tokens)

    def expected_ns(self, prompt_bytes: int) -> float | None:
        """How long a request of this size runs: by its own length where the rates are known, else
        as long as others."""
        mean_ns = self.service_ns.mean(SAMPLES_MIN)
        per_byte = self.tokens_per_byte.mean(SAMPLES_MIN)
        prefill_ns = self.prefill_ns_per_token.mean(SAMPLES_MIN)
        decode_ns = self.decode_ns_per_token.mean(SAMPLES_MIN)
        output = self.output_tokens.mean(SAMPLES_MIN)
        if per_byte is None or prefill_ns is None or decode_ns is None or output is None:
            return mean_ns
        return prompt_bytes * per_byte * prefill_ns + output * decode_ns


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
        self._rates: dict[str, dict[str, _Rates]] = {}  # by runner, then by backend
        # Asked for with every arrival, changed with every end: worked out then.
        self._service_ns: dict[str, float] = {}
        self._samples: dict[str, int] = {}
        self._costs: dict[str, MovingAverage] = {}
        self._load_ns: dict[str, MovingAverage] = {}
        self._departure_gap_ns = _average()
        self._last_departure_ns: int | None = None

    def served(self, runner: str, backend: str, served: Served) -> None:
        """A request was completed."""
        by_backend = self._rates.setdefault(runner, {})
        rates = by_backend.get(backend)
        if rates is None:
            rates = by_backend[backend] = _Rates()
            self._costs.setdefault(runner, _average())
        rates.add(served)
        self._costs[runner].add(served.cost)
        samples, best_ns = 0, None
        for each in by_backend.values():
            mean_ns = each.service_ns.mean(SAMPLES_MIN)
            samples = max(samples, each.service_ns.count)
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
        means = [each.expected_ns(prompt_bytes) for each in self._by(runner)]
        return min((each for each in means if each is not None), default=None)

    def tokens(self, runner: str, prompt_bytes: int) -> int:
        """Prompt and output tokens that a request of this size will use; 0 while unknown."""
        means = [
            (each.tokens_per_byte.mean(SAMPLES_MIN), each.output_tokens.mean(SAMPLES_MIN))
            for each in self._by(runner)
        ]
        known = [p * prompt_bytes + o for p, o in means if p is not None and o is not None]
        return int(max(known, default=0))

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

    def _by(self, runner: str) -> list[_Rates]:
        return list(self._rates.get(runner, {}).values())
