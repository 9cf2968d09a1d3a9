"""How long a request waits at most: stated when it comes, by what is known then.

Two parts. *Until its model is there*: the patience of the placement rule and the models that are
overdue before it, each with a load, its shortest residency and its last request. *Until its turn*:
all that waits is worked off, and all that comes meanwhile and may pass it. Whatever the order is
(priorities, shares, sizes, credits), slots work while there is work; so that takes no longer than
what waits, and one burst, over the part of the slots that neither what comes nor the loads of
overdue models take.

docs/scheduling.md says what must hold for that, and sketches the proof: backends answer, nothing
fails, no operator, level or bulkhead holds it back, and from now on no more comes than a rate and a
burst as they were seen before. Where that cannot be said no bound is stated, and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from broker.core.backlog import Backlog
from broker.core.effects import WaitReason
from broker.core.estimates import SAMPLES_MIN, Estimates
from broker.core.placement import BackendState, memory_needed
from broker.core.record import Bound, Record
from broker.core.residency import ResidencyState
from broker.core.work_seen import BURST_KEPT_NS, RATES, Flow
from broker.core.worth import (
    IDLE_SHARE_MIN,
    LOAD_NS_UNKNOWN,
    PATIENCE_CYCLES,
    PATIENCE_NS_MIN,
)

# For how long it is believed what the backends are like.
LOOK_NS: Final = 1_000_000_000

# Sets of backends whose work is watched; of more the oldest goes, and is watched anew.
POOLS_MAX: Final = 64

# How long a server takes at most until it no longer lists what it was told to unload.
UNLOAD_NS: Final = 5_000_000_000

# Of the time that work leaves, loads of overdue models take up to half, as each comes no more often
# than its patience says, which is twice the cycle that just fits in. The rest works off what waits.
REST_SHARE: Final = 1 - 1 / PATIENCE_CYCLES

# As much as all slots can do: of what comes for ever at such a rate nothing is bounded.
LOAD_MAX: Final = 1.0

# What a request that a slot or a load will serve waits for.
_SERVED: Final = frozenset({WaitReason.SLOT, WaitReason.LOADING, WaitReason.SWAP})

_ELSEWHERE: Final = Bound(None, "it waits for more than a slot or a load")
_HELD: Final = Bound(None, "the level holds work back")
_NOT_MEASURED: Final = Bound(None, "too few requests were served to tell how long they run")
_LOAD_UNKNOWN: Final = Bound(None, "the load of its model was never measured")
_TOO_MUCH: Final = Bound(None, "as much work comes as all slots can do")
_TOO_MUCH_OF_IT: Final = Bound(None, "as much work comes for its model as the slots of that can do")
_BULKHEAD: Final = Bound(None, "its bulkhead lets fewer run than there are slots")


class _Shape(NamedTuple):
    """What some backends can do together: all that they serve, and of how many models that surely
    fit at once the slots."""

    runners: frozenset[str]
    room: int
    slots: int


@dataclass(slots=True)
class _Pool:
    """The backends that have a model, and the work of all that they serve: who waits for one of it
    may have to wait until all is done."""

    shape: _Shape
    flow: Flow
    at_ns: int


@dataclass(slots=True)
class _Seen:
    """A model, as it was `at_ns`. `turns_ns`: until it is there, for each of `RATES`; empty where
    that is not known. `has_turns`: do models take turns there?"""

    own: Flow
    asked_ns: int
    at_ns: int = -LOOK_NS
    pool: _Pool | None = None
    has_turns: bool = False
    turns_ns: Sequence[float] = field(default=())


class WaitBounds:
    """See the module. `came` hears of each newcomer; `state` says its bound once it waits. Both
    take constant time, but for a look at the backends once in `LOOK_NS`."""

    def __init__(
        self, backends: Mapping[str, BackendState], backlog: Backlog, estimates: Estimates
    ) -> None:
        self._backends = backends
        self._backlog = backlog
        self._estimates = estimates
        self._pools: dict[tuple[str, ...], _Pool] = {}
        self._seen: dict[str, _Seen] = {}  # by runner

    def came(self, runner: str, work_ns: int, now_ns: int) -> None:
        """A request came that will probably run for so long."""
        seen = self._look(runner, now_ns)
        seen.own.add(work_ns, now_ns)
        for pool in self._pools.values():
            if runner in pool.shape.runners:
                pool.flow.add(work_ns, now_ns)

    def state(self, record: Record, now_ns: int) -> Bound:
        """The bound of one that waits since just now."""
        if record.told_reason not in _SERVED:
            return _ELSEWHERE
        backlog, estimates = self._backlog, self._estimates
        if backlog.is_holding:
            return _HELD
        if not record.service_ns or estimates.completed < SAMPLES_MIN:
            return _NOT_MEASURED
        runner = record.line[0]
        seen = self._look(runner, now_ns)
        pool, own = seen.pool, seen.own
        if pool is None:
            return _ELSEWHERE
        limit = backlog.bulkheads.limit(record.compartment)
        if limit is not None and limit < pool.shape.slots:
            return _BULKHEAD
        if not seen.turns_ns:
            return _LOAD_UNKNOWN
        load, own_load = pool.flow.load(now_ns), own.load(now_ns)
        if load >= LOAD_MAX:
            return _TOO_MUCH
        if own_load >= LOAD_MAX:
            return _TOO_MUCH_OF_IT
        rest = REST_SHARE if seen.has_turns else 1.0
        waits_ns = self._waits_ns(pool)
        all_ns, turn_ns = _until_done(pool.flow, load, waits_ns, rest, seen.turns_ns, now_ns)
        same_ns = (turn_ns,) * len(RATES)
        if not backlog.accepting:  # else any of that may come to its line
            waits_ns = backlog.work.of(runner)
        own_ns, _ = _until_done(own, own_load, waits_ns, rest, same_ns, now_ns)
        passed_ns = now_ns - record.arrived_ns  # it stood in the waiting room
        return Bound(int(estimates.longest.ns + max(all_ns, own_ns)) + passed_ns)

    def _waits_ns(self, pool: _Pool) -> int:
        """How much work waits for these backends, its own included."""
        work = self._backlog.work
        if len(self._pools) == 1:
            return work.of_all
        return sum(work.of(runner) for runner in pool.shape.runners)

    # What is looked at now and then

    def _look(self, runner: str, now_ns: int) -> _Seen:
        seen = self._seen.get(runner)
        if seen is None:
            seen = self._seen[runner] = _Seen(Flow(1, now_ns), now_ns)
        seen.asked_ns = now_ns
        if now_ns - seen.at_ns < LOOK_NS:
            return seen
        seen.at_ns = now_ns
        backends = [
            each for each in self._backends.values() if each.takes(runner) and each.may_load
        ]
        having = [each for each in backends if runner in each.by_runner]
        own_slots = sum(each.by_runner[runner].slots for each in having)
        if own_slots and own_slots != seen.own.slots:
            seen.own = Flow(own_slots, now_ns)
        seen.pool = self._pool(having, now_ns) if having else None
        seen.turns_ns, seen.has_turns = (), False
        if seen.pool is not None:
            asked = self._asked(now_ns)
            seen.has_turns = len(asked & seen.pool.shape.runners) > seen.pool.shape.room
            seen.turns_ns = self._turns_ns(runner, seen, having, asked)
        return seen

    def _pool(self, backends: Sequence[BackendState], now_ns: int) -> _Pool:
        """These are watched from now on; anew where they can do something else than before."""
        names = tuple(each.name for each in backends)
        pool = self._pools.get(names)
        if pool is not None and now_ns - pool.at_ns < LOOK_NS:
            return pool
        shape = _shape(backends)
        if pool is None or pool.shape != shape:
            if pool is None and len(self._pools) >= POOLS_MAX:
                del self._pools[next(iter(self._pools))]
            pool = self._pools[names] = _Pool(shape, Flow(shape.slots, now_ns), now_ns)
        pool.at_ns = now_ns
        return pool

    def _asked(self, now_ns: int) -> set[str]:
        """The models that somebody asked for lately."""
        for runner in [
            each
            for each, seen in self._seen.items()
            if now_ns - seen.asked_ns > BURST_KEPT_NS and not self._backlog.work.of(each)
        ]:
            del self._seen[runner]
        return set(self._seen)

    def _turns_ns(
        self, runner: str, seen: _Seen, having: Sequence[BackendState], asked: set[str]
    ) -> tuple[float, ...]:
        """How long until the model is there, for each of `RATES`. Empty where its load was never
        measured; that of another then counts as the longest known."""
        estimates, pool = self._estimates, seen.pool
        is_there = any(_is_there(each, runner) for each in having)
        if pool is None or not (is_there or estimates.longest_load_ns(runner)):
            return ()
        known_ns = [each for other in asked if (each := estimates.longest_load_ns(other))]
        longest_ns = max(known_ns, default=LOAD_NS_UNKNOWN)
        loads_ns = sum(known_ns) + longest_ns * (len(asked) - len(known_ns))
        last_ns = estimates.longest.ns
        if not seen.has_turns:
            until_ns = loads_ns + len(asked) * (last_ns + UNLOAD_NS)
            return (0.0 if is_there else until_ns,) * len(RATES)
        turn_ns = last_ns + 2 * longest_ns + UNLOAD_NS
        is_alone = len(self._pools) == 1  # else the rule sees more than this pool's load
        return tuple(
            _patience_ns(loads_ns, (1 - rate) * REST_SHARE if is_alone else IDLE_SHARE_MIN)
            + len(asked) * turn_ns
            for rate in RATES
        )


def _until_done(
    flow: Flow,
    load: float,
    waits_ns: int,
    rest: float,
    turns_ns: Sequence[float],
    now_ns: int,
) -> tuple[float, float]:
    """(until what waits for these slots and a burst are worked off, once the model is there; how
    much of that is until then), by the rate that tells least of those that are not below the load.
    The highest counts always: no load that stays above it has a bound."""
    best = float("inf"), 0.0
    for at, rate in enumerate(RATES):
        if rate < load and rate < RATES[-1]:
            continue
        work_ns = waits_ns / flow.slots + flow.burst_ns(at, now_ns)
        whole_ns = turns_ns[at] + work_ns / ((1 - rate) * rest)
        if whole_ns < best[0]:
            best = whole_ns, turns_ns[at]
    return best


def _patience_ns(loads_ns: float, idle: float) -> float:
    """As the placement rule has it, where so much is idle."""
    return max(PATIENCE_NS_MIN, PATIENCE_CYCLES * loads_ns / max(IDLE_SHARE_MIN, idle))


def _shape(backends: Sequence[BackendState]) -> _Shape:
    runners = frozenset(runner for each in backends for runner in each.by_runner)
    room = slots = 0
    for each in backends:
        fits = _fits(each)
        room += fits
        slots += sum(sorted(spec.slots for spec in each.by_runner.values())[:fits])
    return _Shape(runners, room, max(1, slots))


def _fits(backend: BackendState) -> int:
    """How many of its models surely fit at once, whichever they are."""
    policy, runners = backend.policy, backend.by_runner
    if policy.keeps_models:
        return len(runners)
    most = min(policy.resident_max, len(runners))
    if policy.memory_bytes is None or most <= 1:
        return most
    needed = [memory_needed(backend, runner) for runner in runners]
    if None in needed:
        return 1
    largest = sorted((each or 0 for each in needed), reverse=True)
    while most > 1 and sum(largest[:most]) > policy.memory_bytes:
        most -= 1
    return most


def _is_there(backend: BackendState, runner: str) -> bool:
    residency = backend.resident(runner)
    return residency is not None and residency.state is ResidencyState.RESIDENT
