"""The product's placement rule: load what is worth most per second, and leave what is worth little.

The worth of a runner is the most requests per second that a turn of it would start in time, with
what its load takes counted, over the first of its requests in the order in which they would start.
What cannot start in time is worth nothing, urgent work more and more as its time runs out. Off that
comes a part of what would be late elsewhere by the end of such a turn. A resident model is left
when its queue is exhausted and hardly any of its slots works, or when what it could still do is
worth far less than a turn of the next: one rule for both would change for every small gain and only
load. Requests that take whatever is loaded count for each model that would answer them.

Nobody waits for ever: a runner whose oldest request has waited for its patience comes first, and
may cut a residency short. The patience breathes with the load (a fixed one makes things worse than
no broker, reference/SWAPS.md): so many times the cycle of loads that the work leaves time for. It
is Boxma's mean cycle of a polling system with set-up times, S / (1 - rho).

What else was tried, and what each part is good for by itself: docs/adr/0021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from broker.core.demands import Demand, View
from broker.core.record import Accepted, Record
from broker.core.residency import Residency

# Requests of a runner that are looked at: more than start in any turn that is compared here.
FRONT_MAX: Final = 64

# How long what was seen of a runner is believed; it takes a tenth of a millisecond to look.
LOOK_NS: Final = 500_000_000

# It is looked at anew where so much has changed: one in so many came or went.
SIZE_CHANGE: Final = 4

# Of what would be late elsewhere so much counts against a turn. All of it makes long turns of the
# popular look worthless, none of it forgets that the unpopular have deadlines as well.
LATE_ELSEWHERE: Final = 0.5

# By which factor the next must be worth more than what a resident still does.
CUT_FACTOR: Final = 2.0

# A resident without a queue stays open while more than one in so many of its slots works.
SLOTS_PER_LAST: Final = 4

# Those of the demands with the highest worth for which it is worked out what would be late
# elsewhere.
COMPARED_MAX: Final = 4

# Urgent is priority 2 and better. It counts a little more, and much more once so little time is
# left; until then several can share one load.
URGENT_WORST: Final = 2
URGENT_WEIGHT: Final = 1.5
URGENT_WEIGHT_LATE: Final = 8.0
URGENT_LATE_NS: Final = 25_000_000_000

# What has a soft deadline counts a little more while it can be met and is as near as that, and less
# once it cannot: others still have theirs.
SOFT_WEIGHT: Final = 1.5
SOFT_WEIGHT_MISSED: Final = 0.5
NEVER_NS: Final = float("inf")

# Where nothing was measured yet.
SERVICE_NS_UNKNOWN: Final = 1_000_000_000.0
LOAD_NS_UNKNOWN: Final = 5_000_000_000.0
SERVICE_NS_MIN: Final = 10_000_000.0

# The patience in cycles of loads, how much of the work they may take at most, and the least.
PATIENCE_CYCLES: Final = 2.0
IDLE_SHARE_MIN: Final = 0.1
PATIENCE_NS_MIN: Final = 60_000_000_000


class Waiting(NamedTuple):
    """One request as a rule sees it: until when it may start, how long it runs."""

    latest_ns: int
    service_ns: float
    is_urgent: bool
    soft_latest_ns: float = NEVER_NS  # until when it may start and keep its soft deadline
    accepts: tuple[Accepted, ...] = ()  # where it has a choice


@dataclass(frozen=True, slots=True)
class Front:
    """The first requests of a runner, in the order in which they would start, as seen `at_ns`, when
    `size` waited in all. `turns`: what each backend could make of them, by (its name, whether the
    runner is there). `late`: what they would lose by a turn of another there, by (the backend's
    name, the other runner, how long its turn takes)."""

    at_ns: int
    size: int
    requests: tuple[Waiting, ...]
    oldest_ns: int  # when the oldest of them came
    turns: dict[tuple[str, bool], Turn] = field(default_factory=dict)
    late: dict[tuple[str, str, float], float] = field(default_factory=dict)

    def is_of(self, size: int, now_ns: int) -> bool:
        """Is it still about so?"""
        is_alike = abs(size - self.size) * SIZE_CHANGE <= self.size
        return is_alike and now_ns - self.at_ns < LOOK_NS


class Turn(NamedTuple):
    """The best that a turn of a runner could come to: so much per second, over so long."""

    per_s: float
    span_ns: float


NOTHING: Final = Turn(0.0, 0.0)


def patience_of(loads_ns: float, idle: float) -> float:
    """How long a request may wait before its model goes first, in nanoseconds, where the loads of
    all that is waited for take so long and so much of the slots is idle: a cycle that fits in."""
    return max(PATIENCE_NS_MIN, PATIENCE_CYCLES * loads_ns / max(IDLE_SHARE_MIN, idle))


class Worth:
    """See the module."""

    def __init__(self) -> None:
        self._fronts: dict[str, Front] = {}
        self._there_ns: dict[str, int] = {}  # when a runner was last seen loaded, anywhere
        # What is asked for again and again of one view: a rule is asked of many demands.
        self._view: View | None = None
        self._fronts_in_view: dict[str, Front] = {}
        self._patience_in_view_ns = 0

    def rank(self, view: View, demands: Sequence[Demand]) -> list[Demand]:
        """What is overdue, the longest wait first; then by worth. What is worth nothing, as nothing
        of it could start in time, is not loaded."""
        self._forget(view)
        for backend in (view.backend, *view.others):
            for runner in backend.residents:
                self._there_ns[runner] = view.now_ns
        self._look_at(view)
        overdue_ns = view.now_ns - self._patience_in_view_ns
        turns = {each.runner: self._turn(view, each.runner) for each in demands}
        worth = self._compared(view, demands, turns)

        def place(each: Demand) -> tuple[bool, bool, int, float, int, str]:
            since_ns = self._since_ns(view, each.runner)
            return (
                each.was_gated,
                each.is_placed_elsewhere,
                since_ns if since_ns <= overdue_ns else view.now_ns,
                -worth[each.runner],
                -each.waited_ns,
                each.runner,
            )

        return sorted((each for each in demands if turns[each.runner].per_s > 0), key=place)

    def leaving(
        self, view: View, target: Demand, candidates: Sequence[Residency]
    ) -> list[Residency]:
        """Those whose queue is exhausted and that hardly work any more, idle longest; then those
        that are worth least, if that is far less than the target is or the target is overdue."""
        self._look_at(view)
        overdue_ns = view.now_ns - self._patience_in_view_ns
        is_overdue = self._since_ns(view, target.runner) <= overdue_ns
        exhausted = [each for each in candidates if view.is_exhausted(each)]
        idle = [each for each in exhausted if is_overdue or _is_nearly_idle(each)]
        idle.sort(key=lambda each: (each.running, view.loss(each), each.used_ns, each.runner))
        load_ns = _load_ns(view, target.runner)
        enough = self._turn(view, target.runner).per_s / CUT_FACTOR
        cut = [
            (still, each.used_ns, each.runner, each)
            for each in candidates
            if each not in exhausted
            # A turn that was cut at once would have been a load for nothing.
            and view.now_ns - each.loaded_ns >= load_ns
            and ((still := self._turn(view, each.runner).per_s) < enough or is_overdue)
        ]
        return [*idle, *(each for *_, each in sorted(cut, key=lambda those: those[:3]))]

    def _look_at(self, view: View) -> None:
        if view is not self._view:
            self._view = view
            self._fronts_in_view.clear()
            self._patience_in_view_ns = self.patience_ns(view)

    def patience_ns(self, view: View) -> int:
        """How long a request may wait before its model goes first, whatever that costs."""
        loads_ns = sum(_load_ns(view, runner) for runner in {key[0] for key in view.lines})
        rho = view.estimates.offered.slots_used(view.now_ns) / view.slots
        return int(patience_of(loads_ns, 1.0 - rho))

    def _since_ns(self, view: View, runner: str) -> int:
        """Since when it is waited for in vain: its oldest request came, and it has not been there
        since. What was there goes behind those that were not, whatever it has left to do: else two
        old ones would take turns before a third."""
        return max(self._front(view, runner).oldest_ns, self._there_ns.get(runner, 0))

    def _compared(
        self, view: View, demands: Sequence[Demand], turns: dict[str, Turn]
    ) -> dict[str, float]:
        """What each is worth, what would be late elsewhere taken off the best of them."""
        worth = {each.runner: turns[each.runner].per_s for each in demands}
        best = sorted(worth, key=lambda runner: (-worth[runner], runner))[:COMPARED_MAX]
        if len(demands) > 1:
            for runner in best:
                span_ns = turns[runner].span_ns
                late = sum(
                    self._late_after(view, each.runner, runner, span_ns)
                    for each in demands
                    if each.runner != runner
                )
                worth[runner] -= LATE_ELSEWHERE * late / span_ns * 1e9 if span_ns else 0.0
        return worth

    def _late_after(self, view: View, runner: str, instead: str, span_ns: float) -> float:
        """The weight of what could start if this runner were loaded now, and could not after so
        long a turn of the one that is loaded `instead`, which does not answer it either."""
        front = self._front(view, runner)
        case = view.backend.name, instead, span_ns
        late = front.late.get(case)
        if late is None:
            ready_ns = _ready_ns(view, runner)
            after_ns = ready_ns + span_ns
            late = front.late[case] = sum(
                _lost(each, ready_ns, after_ns)
                for each in front.requests
                if ready_ns <= each.latest_ns
                and (each.latest_ns < after_ns or each.soft_latest_ns < after_ns)
                and not _accepts(each, instead)
            )
        return late

    def _turn(self, view: View, runner: str) -> Turn:
        """What the first of its requests come to, the load counted where it is not there."""
        front, is_there = self._front(view, runner), runner in view.backend.residents
        known = front.turns.get((view.backend.name, is_there))
        if known is not None:
            return known
        load_ns = 0.0 if is_there else _load_ns(view, runner)
        ready_ns = view.now_ns if is_there else _ready_ns(view, runner)
        spec = view.backend.by_runner.get(runner)
        if spec is None:
            return NOTHING  # it is still there, and can be asked for by no name
        slots = spec.slots
        best, weight, work_ns = NOTHING, 0.0, 0.0
        for each in front.requests:
            starts_ns = ready_ns + work_ns / slots
            if each.latest_ns < starts_ns:
                continue
            weight += _weight(each, starts_ns)
            work_ns += each.service_ns
            span_ns = load_ns + work_ns / slots
            per_s = weight / span_ns * 1e9
            if per_s > best.per_s:
                best = Turn(per_s, span_ns)
        front.turns[view.backend.name, is_there] = best
        return best

    def _front(self, view: View, runner: str) -> Front:
        known = self._fronts_in_view.get(runner)
        if known is None:
            found, size = self._fronts.get(runner), view.size_of(runner) + view.choosers(runner)
            if found is None or not found.is_of(size, view.now_ns):
                found = self._seen(view, runner, size)
            known = self._fronts_in_view[runner] = found
        return known

    def _seen(self, view: View, runner: str, size: int) -> Front:
        """The same, looked at anew."""
        usual_ns = view.estimates.service_ns(runner) or SERVICE_NS_UNKNOWN
        requests, oldest_ns = list[Waiting](), view.now_ns
        for record in _merged(view.front(runner, FRONT_MAX), view.joining(runner)):
            oldest_ns = min(oldest_ns, record.arrived_ns)
            service_ns = max(SERVICE_NS_MIN, float(record.service_ns or usual_ns))
            surely_ns = int(view.estimates.expected_ns(runner, record.spec) or 0)
            latest_ns = min(view.starts_until_ns(record), record.deadline_ns - surely_ns)
            is_urgent = record.priority <= URGENT_WORST
            soft_ns = record.spec.soft_deadline_ns
            soft_latest_ns = soft_ns - service_ns if soft_ns else NEVER_NS
            waiting = Waiting(latest_ns, service_ns, is_urgent, soft_latest_ns, record.accepts)
            requests.append(waiting)
        front = self._fronts[runner] = Front(view.now_ns, size, tuple(requests), oldest_ns)
        return front

    def _forget(self, view: View) -> None:
        """What nobody waits for any more was seen for nothing."""
        waiting = {key[0] for key in view.lines}
        for runner in [each for each in self._fronts if each not in waiting]:
            del self._fronts[runner]
        for runner in [each for each in self._there_ns if each not in waiting]:
            del self._there_ns[runner]


def _is_nearly_idle(residency: Residency) -> bool:
    """Is it time to gate it, now that its queue is exhausted? It cannot leave before what runs has
    ended, and what comes until then would find free slots and need no load. A single slot is not
    free before that."""
    return residency.slots == 1 or residency.running * SLOTS_PER_LAST <= residency.slots


def _merged(own: list[Record], joining: list[Record]) -> list[Record]:
    """The first of them all: those that would join stand by their age."""
    if not joining:
        return own
    return sorted((*own, *joining), key=_place)[:FRONT_MAX]


def _place(record: Record) -> tuple[int, int]:
    return record.arrived_ns, record.rank


def _accepts(waiting: Waiting, runner: str) -> bool:
    return any(each.line[0] == runner for each in waiting.accepts)


def _lost(waiting: Waiting, ready_ns: float, after_ns: float) -> float:
    """The weight that one loses which starts after a turn and not at once."""
    if waiting.latest_ns < after_ns:
        return _weight(waiting, ready_ns)
    return _weight(waiting, ready_ns) - _weight(waiting, after_ns)


def _weight(waiting: Waiting, starts_ns: float) -> float:
    weight = 1.0
    if waiting.is_urgent:
        is_late = waiting.latest_ns - starts_ns < URGENT_LATE_NS
        weight = URGENT_WEIGHT_LATE if is_late else URGENT_WEIGHT
    if waiting.soft_latest_ns == NEVER_NS:
        return weight
    left_ns = waiting.soft_latest_ns - starts_ns
    if left_ns < 0:
        return SOFT_WEIGHT_MISSED * weight
    return SOFT_WEIGHT * weight if left_ns < URGENT_LATE_NS else weight


def _ready_ns(view: View, runner: str) -> float:
    """When it would be there if it were loaded now, as far as was measured lately: nothing is given
    up for a guess."""
    return view.now_ns + view.estimates.load_ns_lately(view.backend.name, runner, view.now_ns)


def _load_ns(view: View, runner: str) -> float:
    return view.estimates.load_ns_on(view.backend.name, runner) or LOAD_NS_UNKNOWN
