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
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.core.backlog import Backlog
from broker.core.effects import WaitReason
from broker.core.estimates import SAMPLES_MIN, Estimates
from broker.core.placement import BackendState, memory_needed
from broker.core.record import Bound, Record
from broker.core.residency import ResidencyState
from broker.core.work_seen import BURST_KEPT_NS, LOAD_WINDOW_NS, RATES, Flow
from broker.core.worth import (
    IDLE_SHARE_MIN,
    LOAD_NS_UNKNOWN,
    PATIENCE_CYCLES,
    patience_of,
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

# By so much what comes later may exceed what was measured: half an hour holds some hundreds of
# requests where they are long, and their sum is known to within about so much.
LOAD_MARGIN: Final = 0.05

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


class _Way(NamedTuple):
    """How a flow is bounded: by one of `RATES`, which leaves so much of the slots to what waits,
    once the model is there. Any rate that is not below the load will do; this is the one that told
    least when it was looked at."""

    at: int
    turn_ns: float
    left: float


_NO_WAY: Final = _Way(len(RATES) - 1, 0.0, 1.0)


@dataclass(slots=True)
class _Seen:
    """A model, as it was `at_ns`: the work for it, and the ways in which that of the pool and its
    own are bounded; or why they are not."""

    own: Flow
    asked_ns: int
    at_ns: int = -LOOK_NS
    pool: _Pool | None = None
    why: Bound | None = None
    way: _Way = _NO_WAY
    own_way: _Way = _NO_WAY


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
        seen = self._look(record.line[0], now_ns)
        pool = seen.pool
        if pool is None:
            return _ELSEWHERE
        if seen.why is not None:
            return seen.why
        limit = backlog.bulkheads.limit(record.compartment)
        if limit is not None and limit < pool.shape.slots:
            return _BULKHEAD
        bound_ns = estimates.longest.ns + max(
            _until_done(pool.flow, self._waits_ns(pool), seen.way, now_ns),
            _until_done(seen.own, self._own_waits_ns(record.line[0], pool), seen.own_way, now_ns),
        )
        return Bound(int(bound_ns) + now_ns - record.arrived_ns)  # it may have stood in the room

    def _waits_ns(self, pool: _Pool) -> int:
        """How much work waits for these backends, its own included."""
        work = self._backlog.work
        if len(self._pools) == 1:
            return work.of_all
        return sum(work.of(runner) for runner in pool.shape.runners)

    def _own_waits_ns(self, runner: str, pool: _Pool) -> int:
        """How much work waits for this model, or may yet come to its line."""
        if self._backlog.accepting:
            return self._waits_ns(pool)
        return self._backlog.work.of(runner)

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
        if seen.pool is not None:
            seen.why = self._find_ways(runner, seen, seen.pool, having, now_ns)
        return seen

    def _find_ways(
        self,
        runner: str,
        seen: _Seen,
        pool: _Pool,
        having: Sequence[BackendState],
        now_ns: int,
    ) -> Bound | None:
        """Looks for the ways in which its wait is bounded; the reason where there is none."""
        load, own_load = pool.flow.load(now_ns), seen.own.load(now_ns)
        if load >= LOAD_MAX:
            return _TOO_MUCH
        if own_load >= LOAD_MAX:
            return _TOO_MUCH_OF_IT
        asked = self._asked(now_ns)
        has_turns = len(asked & pool.shape.runners) > pool.shape.room
        is_alone = self._is_alone(pool, now_ns)
        turns_ns = self._turns_ns(runner, having, asked, has_turns=has_turns, is_alone=is_alone)
        if not turns_ns:
            return _LOAD_UNKNOWN
        rest = REST_SHARE if has_turns else 1.0
        seen.way = _best_way(pool.flow, load, self._waits_ns(pool), turns_ns, rest, now_ns)
        own_waits_ns, same_ns = self._own_waits_ns(runner, pool), (seen.way.turn_ns,) * len(RATES)
        seen.own_way = _best_way(seen.own, own_load, own_waits_ns, same_ns, rest, now_ns)
        return None

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

    def _is_alone(self, pool: _Pool, now_ns: int) -> bool:
        """Does all work come for these? Others nobody asked for within the window of the load: they
        were known while a server was away, or are for models that nobody wants any more."""
        others = (each for each in self._pools.values() if each is not pool)
        return all(now_ns - each.at_ns >= LOAD_WINDOW_NS for each in others)

    def _turns_ns(
        self,
        runner: str,
        having: Sequence[BackendState],
        asked: set[str],
        *,
        has_turns: bool,
        is_alone: bool,
    ) -> tuple[float, ...]:
        """How long until the model is there, for each of `RATES`. Empty where its load was never
        measured; that of another then counts as the longest known."""
        estimates = self._estimates
        is_there = any(_is_there(each, runner) for each in having)
        if not is_there and not estimates.longest_load_ns(runner):
            return ()
        known_ns = [each for other in asked if (each := estimates.longest_load_ns(other))]
        longest_ns = max(known_ns, default=LOAD_NS_UNKNOWN)
        loads_ns = sum(known_ns) + longest_ns * (len(asked) - len(known_ns))
        last_ns = estimates.longest.ns
        if not has_turns:
            until_ns = loads_ns + len(asked) * (last_ns + UNLOAD_NS)
            return (0.0 if is_there else until_ns,) * len(RATES)
        turn_ns = last_ns + 2 * longest_ns + UNLOAD_NS
        return tuple(  # the rule sees the load of others, too
            patience_of(loads_ns, (1 - rate) * REST_SHARE if is_alone else IDLE_SHARE_MIN)
            + len(asked) * turn_ns
            for rate in RATES
        )


def _best_way(
    flow: Flow, load: float, waits_ns: int, turns_ns: Sequence[float], rest: float, now_ns: int
) -> _Way:
    """By the rate that tells least now, of those above the load. The highest counts always: it is
    stated on the assumption that the load falls to it."""
    best, best_ns = _NO_WAY, float("inf")
    for at, rate in enumerate(RATES):
        if rate < load + LOAD_MARGIN and rate < RATES[-1]:
            continue
        way = _Way(at, turns_ns[at], (1 - rate) * rest)
        until_ns = _until_done(flow, waits_ns, way, now_ns)
        if until_ns < best_ns:
            best, best_ns = way, until_ns
    return best


def _until_done(flow: Flow, waits_ns: int, way: _Way, now_ns: int) -> float:
    """Until what waits for these slots and a burst are worked off, once the model is there."""
    return way.turn_ns + (waits_ns / flow.slots + flow.burst_ns(way.at, now_ns)) / way.left


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
