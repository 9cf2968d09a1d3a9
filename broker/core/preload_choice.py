"""What to load before anybody asks, and what makes way: by which is probably asked for first.

Where there is room, the model is loaded whose absence would cost most. Where there is none, what is
idle and ours makes way if it is worth clearly less: the wait that its absence would make, if it is
asked for first, against the wait that is saved, if the others are. Others, because what leaves may
make room for more than one. And what would soon have to leave again, for what is neither there nor
loaded now, is not loaded at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Final

from broker.core.barriers import barrier
from broker.core.estimates import Estimates
from broker.core.placement import (
    BackendState,
    has_room,
    may_get_room,
    memory_needed,
    movable,
    weights_of,
)
from broker.core.placement_rule import least_leaving
from broker.core.preload import SECOND_NS, UNKNOWN, Forecast, PreloadPolicy
from broker.core.residency import Residency

# How long a load takes that was never measured.
LOAD_NS_UNKNOWN: Final = 5 * SECOND_NS

# Of the guesses about a model the last ten or so tell how far they are to be trusted; and of what
# trust was lost this part comes back with each half hour.
TRUST_WEIGHT: Final = 0.1
TRUST_REGAINED: Final = 0.05

# Nothing is needed less often than once in so long, as far as giving it up for another goes.
SELDOM_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is to be loaded, and, where it has no room yet, what leaves first."""

    runner: str
    forecast: Forecast
    leaving: Residency | None = None


class Choices:
    """All backends, as they are when asked."""

    def __init__(
        self, policy: PreloadPolicy, backends: Mapping[str, BackendState], estimates: Estimates
    ) -> None:
        self.policy = policy
        self._backends = backends
        self._estimates = estimates
        self._came_true: dict[str, float] = {}  # by runner, the last judged at the end
        self._sent_away: dict[str, None] = {}  # runners, the last one at the end

    def best(
        self, backend: BackendState, forecasts: Mapping[str, Forecast], now_ns: int
    ) -> Choice | None:
        """The best that this backend could do while it idles; None: leave all as it is."""
        look = _Look(self, backend, _by_runner(backend, forecasts))
        candidates = self._candidates(look, now_ns)
        for runner in candidates:
            is_free = has_room(backend, runner)
            leaving = () if is_free else look.leaving(runner)
            if not (is_free or leaving):
                continue
            loaded = look.with_company(runner, candidates, leaving)
            chance = look.chance_of_use(loaded, leaving) * self._trust(runner)
            if chance < self.policy.probability_min:
                continue
            if is_free:
                return Choice(runner=runner, forecast=look.expected[runner])
            if look.gain_per_s(loaded, leaving) >= self.policy.margin * look.loss_per_s(leaving):
                first = leaving[0]
                return Choice(runner=runner, forecast=look.expected[runner], leaving=first)
        return None

    def _candidates(self, look: _Look, now_ns: int) -> list[str]:
        """What could be loaded here and is nowhere; the best first."""
        backend = look.backend
        found = [
            (-each.low_per_s * look.load_s(runner), runner)
            for runner, each in look.expected.items()
            if each.low_per_s > 0
            and runner not in self._sent_away
            and not any(runner in other.residents for other in self._backends.values() if other.up)
            and barrier(backend, runner, now_ns) is None
            and may_get_room(backend, runner)
        ]
        return [runner for _, runner in sorted(found)]

    def loss_per_s(
        self, backend: BackendState, residency: Residency, forecasts: Mapping[str, Forecast]
    ) -> float:
        """The wait that its absence would make, by the second."""
        per_s = sum(
            forecasts[name].per_s
            for name, spec in backend.models.items()
            if spec.runner == residency.runner and name in forecasts
        )
        return per_s * self.load_s(backend, residency.runner)

    def came_true(self, runner: str, is_used: bool) -> None:
        """What was loaded ahead of its need was used, or left without."""
        known = self._came_true.pop(runner, 1.0)
        known += ((1.0 if is_used else 0.0) - known) * TRUST_WEIGHT
        self._came_true[runner] = known
        while len(self._came_true) > self.policy.models_max:
            del self._came_true[next(iter(self._came_true))]

    def sent_away(self, runner: str) -> None:
        """Somebody had it leave: it is not loaded ahead before it is asked for again."""
        self._sent_away.pop(runner, None)
        self._sent_away[runner] = None
        while len(self._sent_away) > self.policy.models_max:
            del self._sent_away[next(iter(self._sent_away))]

    def asked(self, runner: str) -> None:
        """A request for it came."""
        self._sent_away.pop(runner, None)

    def forgive(self) -> None:
        """Time goes by: what did not come true at one hour may at another."""
        for runner, known in self._came_true.items():
            self._came_true[runner] = known + (1.0 - known) * TRUST_REGAINED

    def _trust(self, runner: str) -> float:
        """Which part of such guesses came true lately."""
        return self._came_true.get(runner, 1.0)

    def load_s(self, backend: BackendState, runner: str) -> float:
        """How long its load takes there, as far as is known."""
        load_ns = self._estimates.load_ns_on(backend.name, runner) or LOAD_NS_UNKNOWN
        return load_ns / SECOND_NS


class _Look:
    """One backend at one moment, and what is expected of the models that it has."""

    def __init__(
        self, choices: Choices, backend: BackendState, expected: Mapping[str, Forecast]
    ) -> None:
        self.backend = backend
        self.expected = expected
        self._choices = choices

    def load_s(self, runner: str) -> float:
        return self._choices.load_s(self.backend, runner)

    def leaving(self, runner: str) -> Sequence[Residency]:
        """The least that would have to leave for it: of what is idle and ours that which is worth
        least. Empty where even all that would not do. What was loaded ahead of need is given its
        time, as moving it for the next guess would make it a waste; and what somebody wished to be
        there stays."""
        idle = [
            each
            for each in movable(self.backend, "")
            if not (each.running or each.is_large or each.is_ahead_of_need)
            and each.wished_ns is None
        ]
        idle.sort(key=lambda each: (self.loss_per_s([each]), each.runner))
        return least_leaving(self.backend, runner, idle)

    def with_company(
        self, runner: str, candidates: Iterable[str], leaving: Sequence[Residency]
    ) -> list[str]:
        """What could be loaded once that has left: this one, and the next best beside it."""
        loaded = [runner]
        for each in candidates if leaving else ():
            if each != runner and self._fit([*loaded, each], leaving):
                loaded.append(each)
        return loaded

    def chance_of_use(self, loaded: Sequence[str], leaving: Sequence[Residency]) -> float:
        """How likely is it that the first of these is asked for before it would have to leave for
        another, and within about the horizon?"""
        wanted_per_s = self.expected[loaded[0]].per_s
        staying = [each for each in self.backend.residents.values() if each not in leaving]
        others_per_s = SECOND_NS / self._choices.policy.horizon_ns
        there = {*loaded, *(each.runner for each in staying)}
        for runner, each in self.expected.items():
            if runner not in there and self._takes_place_of_first(runner, loaded, leaving):
                others_per_s += each.per_s
        return wanted_per_s / (wanted_per_s + others_per_s)

    def _takes_place_of_first(
        self, runner: str, loaded: Sequence[str], leaving: Sequence[Residency]
    ) -> bool:
        """Would it have to leave for this one? What was loaded before leaves before it, and what
        came with it is told to after it."""
        gone = list(leaving)
        for each in sorted(self.backend.residents.values(), key=lambda it: it.used_ns):
            if self._fit([*loaded, runner], gone):
                return False
            if each not in gone and each.managed:
                gone.append(each)
        return not self._fit([*loaded, runner], gone)

    def _fit(self, runners: Sequence[str], leaving: Sequence[Residency]) -> bool:
        """Would all these have room, none of which is there, if those left?"""
        policy = self.backend.policy
        staying = [each for each in self.backend.residents.values() if each not in leaving]
        if len(staying) + len(runners) > policy.resident_max:
            return False
        those = [*runners, *(each.runner for each in staying)]
        if len({weights_of(each) for each in those}) < len(those):
            return False  # the server would have one leave for the other, whatever room there is
        if policy.memory_bytes is None:
            return all(each.managed for each in staying)
        taken = 0
        for needed in (
            *(memory_needed(self.backend, each) for each in runners),
            *(each.memory_bytes or memory_needed(self.backend, each.runner) for each in staying),
        ):
            if needed is None:
                return False
            taken += needed
        return taken <= policy.memory_bytes

    def gain_per_s(self, loaded: Sequence[str], leaving: Sequence[Residency]) -> float:
        """The wait that is saved, by the second. Of a load that is still under way when its model
        is asked for only a part is."""
        rivals_per_s = sum(self.expected.get(each.runner, UNKNOWN).high_per_s for each in leaving)
        all_per_s = rivals_per_s + sum(self.expected[each].low_per_s for each in loaded)
        gain, load_s = 0.0, 0.0
        for each in loaded:
            load_s += self.load_s(each)
            usual_s = (1.0 - exp(-all_per_s * load_s)) / all_per_s
            gain += self.expected[each].low_per_s * min(usual_s, self.load_s(each))
        return gain

    def loss_per_s(self, leaving: Iterable[Residency]) -> float:
        """The wait that their absence would make, by the second."""
        return sum(
            max(self.expected.get(each.runner, UNKNOWN).high_per_s, 1.0 / SELDOM_S)
            * self.load_s(each.runner)
            for each in leaving
        )


def _by_runner(backend: BackendState, forecasts: Mapping[str, Forecast]) -> dict[str, Forecast]:
    """Several names may be loaded as one."""
    found: dict[str, Forecast] = {}
    for name, spec in backend.models.items():
        each = forecasts.get(name)
        if each is None:
            continue
        before = found.get(spec.runner)
        found[spec.runner] = each if before is None else _joined(before, each)
    return found


def _joined(one: Forecast, other: Forecast) -> Forecast:
    more = one if one.per_s >= other.per_s else other
    return Forecast(
        one.per_s + other.per_s,
        one.low_per_s + other.low_per_s,
        one.high_per_s + other.high_per_s,
        more.why,
    )
