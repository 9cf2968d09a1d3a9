"""What the engine has measured: moving averages of service, lengths, loads and departures.

Only measurements, never guesses: an average of too few samples says None, and whoever asks must
then say nothing. How long one request will run, for better or worse, is in `sizes.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from _sched.average import MovingAverage, ServiceRates
from broker.core.load_times import LoadTimes
from broker.core.offered_load import OfferedLoad
from broker.core.requests import RequestKind, RequestSpec
from broker.core.sizes import Sizes
from broker.core.work_seen import Longest

# Weight of a new sample: about the last 20 samples count. High enough to follow a change of
# workload within a minute on a busy box, low enough that one long answer does not move it much.
SAMPLE_WEIGHT: Final = 0.1

# Below so many samples an average of lengths and rates is a guess.
SAMPLES_MIN: Final = 20

# For how long a load that was measured says that the next one takes too long to be worth it.
LOAD_KNOWN_NS: Final = 600_000_000_000

# Prompts shorter than this tell little of the time per byte: what every call costs is most of it.
PROMPT_BYTES_MIN: Final = 1_000

# How fast the slowest reading of a prompt is forgotten, per prompt read faster: prompts that are in
# the runner's cache take no time at all, and must not hide how long one that is not will take.
SLOWEST_KEPT: Final = 0.98

# What requests of one kind have in common on one runner: an embedding is no short answer.
_Rated = tuple[str, RequestKind]

_NOWHERE: Final[Mapping[str, ServiceRates]] = {}  # where no such request was ever served


def _average() -> MovingAverage:
    return MovingAverage(SAMPLE_WEIGHT)


def _least(those: Iterable[float | None]) -> float | None:
    return min((each for each in those if each is not None), default=None)


class Estimates:
    """Averages by (backend, runner, kind), by runner, and of the whole broker."""

    __slots__ = (
        "_costs",
        "_departure_gap_ns",
        "_gap_ns",
        "_last_departure_ns",
        "_load_ns",
        "_loaded_at_ns",
        "_loads_on",
        "_longest_loads",
        "_prefill_ns",
        "_rates",
        "_service",
        "_service_ns",
        "_sizes",
        "completed",
        "load_times",
        "longest",
        "offered",
    )

    def __init__(self) -> None:
        self._rates: dict[_Rated, dict[str, ServiceRates]] = {}  # then by backend
        self._service: dict[str, dict[str, MovingAverage]] = {}  # of all kinds; then by backend
        # Asked for with every arrival, changed with every end: worked out then.
        self._service_ns: dict[str, float] = {}
        self._costs: dict[str, MovingAverage] = {}
        self._load_ns: dict[str, MovingAverage] = {}
        self._loaded_at_ns: dict[str, dict[str, int]] = {}  # by runner, then by backend
        self._loads_on: dict[str, dict[str, MovingAverage]] = {}  # by backend
        self._gap_ns: dict[str, dict[str, MovingAverage]] = {}  # by runner, then by backend
        self._prefill_ns: dict[str, dict[str, float]] = {}  # per byte, of the slowest; the same
        self._sizes = Sizes()
        self.load_times = LoadTimes()
        self.offered = OfferedLoad()
        self.completed = 0  # requests, of all kinds
        self.longest = Longest()  # of their times
        self._longest_loads: dict[str, Longest] = {}
        self._departure_gap_ns = _average()
        self._last_departure_ns: int | None = None

    def served(
        self,
        runner: str,
        backend: str,
        spec: RequestSpec,
        service_ns: int,
        first_token_ns: int,
        prompt_tokens: int,
        output_tokens: int,
        cost: int,
        known_bytes: int = 0,
    ) -> None:
        """A request was completed. `first_token_ns` after it started; 0 where there was none.
        `known_bytes` of its prompt had been read before."""
        self.completed += 1
        self.longest.add(service_ns)
        by_backend = self._rates.setdefault((runner, spec.kind), {})
        rates = by_backend.get(backend)
        if rates is None:
            rates = by_backend[backend] = ServiceRates(SAMPLE_WEIGHT, SAMPLES_MIN)
            self._service.setdefault(runner, {}).setdefault(backend, _average())
            self._costs.setdefault(runner, _average())
        rates.add(service_ns, first_token_ns, spec.prompt_bytes, prompt_tokens, output_tokens)
        self._costs[runner].add(cost)
        self._sizes.served(runner, spec, service_ns, first_token_ns, output_tokens, known_bytes)
        if first_token_ns and spec.prompt_bytes >= PROMPT_BYTES_MIN:
            read = self._prefill_ns.setdefault(runner, {})
            slowest_ns = SLOWEST_KEPT * read.get(backend, 0.0)
            read[backend] = max(slowest_ns, first_token_ns / spec.prompt_bytes)
        services = self._service[runner]
        services[backend].add(service_ns)
        best_ns = _least(each.mean(SAMPLES_MIN) for each in services.values())
        if best_ns is not None:
            self._service_ns[runner] = best_ns

    def loaded(self, runner: str, load_ns: int, backend: str = "", now_ns: int = 0) -> None:
        """A load came to a good end, just now."""
        self._longest_loads.setdefault(runner, Longest()).add(load_ns)
        self._loaded_at_ns.setdefault(runner, {})[backend] = now_ns
        self._load_ns.setdefault(runner, _average()).add(load_ns)
        self._loads_on.setdefault(runner, {}).setdefault(backend, _average()).add(load_ns)
        self.load_times.add(runner, backend, load_ns, now_ns)

    def streamed(self, runner: str, backend: str, gap_ns: int) -> None:
        """A whole answer came with this mean time between its pieces."""
        self._gap_ns.setdefault(runner, {}).setdefault(backend, _average()).add(gap_ns)

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
            self._service,
            self._costs,
            self._load_ns,
            self._loads_on,
            self._loaded_at_ns,
            self._service_ns,
            self._gap_ns,
            self._prefill_ns,
            self._longest_loads,
        ):
            for runner in [each for each in kept if each not in runners]:
                del kept[runner]
        for rated in [each for each in self._rates if each[0] not in runners]:
            del self._rates[rated]
        self._sizes.keep(runners)
        self.load_times.keep(runners)

    def samples(self, runner: str, kind: RequestKind) -> int:
        """Completed requests of this kind on the backend that has served most of them."""
        by_backend = self._rates.get((runner, kind), _NOWHERE)
        return max((each.count for each in by_backend.values()), default=0)

    def service_ns(self, runner: str) -> float | None:
        """The mean time that a request of any kind runs, on the backend where it is shortest."""
        return self._service_ns.get(runner)

    def least_ns(self, runner: str) -> float:
        """The mean time that a request runs, of the kind and on the backend that have the
        shortest; 0 while unknown."""
        least_ns = _least(
            each.mean_ns()
            for kind in RequestKind
            for each in self._rates.get((runner, kind), _NOWHERE).values()
        )
        return least_ns or 0.0

    def expected_ns(self, runner: str, spec: RequestSpec) -> float | None:
        """How long such a request surely runs, on the backend where that is shortest."""
        by_backend = self._rates.get((runner, spec.kind), _NOWHERE)
        return _least(
            each.expected_ns(spec.prompt_bytes, spec.output_tokens_max)
            for each in by_backend.values()
        )

    def size_ns(self, runner: str, spec: RequestSpec, known_bytes: int = 0) -> int:
        """How long such a request of this agent probably runs, of whose prompt so much was read
        before; 0 while nothing is known. One that was served tells: it orders those that wait and
        refuses nobody."""
        return self._sizes.expected_ns(runner, spec, known_bytes)

    def tokens(self, runner: str, spec: RequestSpec) -> int:
        """Prompt and output tokens that such a request will use; 0 while unknown."""
        most = 0.0
        for each in self._rates.get((runner, spec.kind), _NOWHERE).values():
            most = max(most, each.tokens(spec.prompt_bytes, spec.output_tokens_max) or 0.0)
        return int(most)

    def cost(self, runner: str) -> int:
        """What a request costs, in the units of fairness. A charge that is settled at the end may
        be a guess: 0 before the first."""
        average = self._costs.get(runner)
        return int(average.mean() or 0) if average else 0

    def load_ns_on(self, backend: str, runner: str) -> float:
        """How long this backend loads it; where that is not known, how long others do; else 0."""
        average = self._loads_on.get(runner, {}).get(backend)
        known_ns = average.mean() if average else self.load_ns(runner)
        return known_ns or 0.0

    def load_ns_lately(self, backend: str, runner: str, now_ns: int) -> float:
        """How long this backend loads it, where it has done so lately; else 0. What was measured
        long ago must not keep away for ever what nobody would measure again then."""
        at_ns = self._loaded_at_ns.get(runner, {}).get(backend)
        is_known = at_ns is not None and now_ns - at_ns < LOAD_KNOWN_NS
        return self.load_ns_on(backend, runner) if is_known else 0.0

    def load_ns(self, runner: str) -> float | None:
        average = self._load_ns.get(runner)
        return average.mean() if average else None

    def longest_load_ns(self, runner: str) -> float:
        """The longest that its loads took lately; 0 where there was none."""
        longest = self._longest_loads.get(runner)
        return longest.ns if longest else 0.0

    def gap_ns(self, runner: str, backend: str) -> float | None:
        """The mean time between two pieces of an answer there; one answer tells it."""
        average = self._gap_ns.get(runner, {}).get(backend)
        return average.mean() if average else None

    def prefill_ns(self, runner: str, backend: str, prompt_bytes: int) -> float | None:
        """How long the slowest reading of such a prompt took there lately, by its bytes."""
        per_byte_ns = self._prefill_ns.get(runner, {}).get(backend)
        if per_byte_ns is None:
            return None
        return per_byte_ns * max(prompt_bytes, PROMPT_BYTES_MIN)

    def departure_gap_ns(self) -> float | None:
        return self._departure_gap_ns.mean()
