"""Urgent work has running work set aside that its owner marked preemptible.

Looked at only while something urgent waits that nothing but the want of a slot holds back, after
all free slots were given away. As many are set aside as urgent ones could start: of the worst
priority first, then what has least to lose. What is about to end is waited for, and what has the
better part behind it where a slot comes soon all the same. The slot, once the call is proven to
have ended or its time of grace is over, goes to the urgent one before the queue is asked: what was
set aside keeps its age, and would take it back.

What a backend drains, so that an urgent request's model gets its room, is set aside as well: all of
it that keeps the drain from its end, or nothing. The rules and what they lost against:
docs/adr/0022.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from broker.core.backlog import Backlog
from broker.core.estimates import Estimates
from broker.core.ledger import Ledger
from broker.core.offers import mask_of_worse
from broker.core.placement import BackendState
from broker.core.preemption import PreemptionPolicy, WasteAccount
from broker.core.queueing import Line, LineKey
from broker.core.record import Attempt, Record
from broker.core.requests import OnInterruption
from broker.core.residency import Residency, ResidencyState
from broker.core.tally import Tally
from broker.core.timers import Timers

# Where nothing was to be done it is looked at again so often, and when one comes, starts or ends.
LOOK_NS: Final = 100_000_000

SetAside = Callable[[Attempt, str], None]
Start = Callable[[Record, BackendState, Residency, int], None]


class Call(NamedTuple):
    """A call that holds a slot, and how it stands: how long it has run, how long it probably still
    does (inf where nothing tells), how much of its slot's time would be lost with it."""

    attempt: Attempt
    ran_ns: int
    left_ns: float
    waste_ns: int


class Preemptions:
    """See the module. `set_aside` closes a call for that, in words; `start` gives a slot away;
    `grace_ns` is what the slot of a closed call lies idle. `count` and `wasted_ns` are since start.
    """

    def __init__(
        self,
        policy: PreemptionPolicy,
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        ledger: Ledger,
        estimates: Estimates,
        tally: Tally,
        timers: Timers,
        grace_ns: Callable[[], int],
        set_aside: SetAside,
        start: Start,
    ) -> None:
        self.count = 0
        self.wasted_ns = 0
        self.freed: list[Attempt] = []  # whose slots became free in this turn
        self._backends = backends
        self._backlog = backlog
        self._ledger = ledger
        self._estimates = estimates
        self._tally = tally
        self._timers = timers
        self._grace_ns = grace_ns
        self._set_aside = set_aside
        self._start = start
        self._account = WasteAccount(policy)
        self._seen: tuple[int, ...] | None = None  # what was last looked at in vain
        self._wake_timer = 0
        self.configure(policy)

    def configure(self, policy: PreemptionPolicy) -> None:
        """What is set aside from now on is so by this."""
        self.policy = policy
        self._others = mask_of_worse(policy.urgent_worst)
        self._seen = None

    def may_be_set_aside(self, record: Record) -> bool:
        """Does its owner let it, is it no better than may be, and was it not as often already?"""
        return (
            record.spec.preemptible
            and record.priority >= self.policy.victim_best
            and record.preemptions < self.policy.preemptions_max
        )

    def left_ns(self, now_ns: int) -> float:
        """How much of the time of all slots may be wasted now."""
        return self._account.left_ns(self.policy, self._slots(), now_ns)

    def settle(self, now_ns: int) -> None:
        """Sets aside what urgent requests need the slots of. For whoever asks to see first that
        anything preemptible runs."""
        policy = self.policy
        waiting = sum(self._tally.of(each).queued for each in range(1, policy.urgent_worst + 1))
        if not waiting or not policy.preemptions_max:
            return
        # What else could change anything is seldom: pauses, levels, a gate.
        seen = waiting, self._tally.running, self._ledger.attempts_made, now_ns // LOOK_NS
        if seen != self._seen:
            self._seen = None if self._look(now_ns) else seen

    def _look(self, now_ns: int) -> bool:
        """Was anything set aside?"""
        preemptible, pending = self._ledger.preemptible.values(), Counter[int]()
        runners = set[str]()  # that could be given room
        for attempt in preemptible:
            residency = attempt.residency
            if attempt.is_preempted:
                pending[id(residency)] += 1
            elif residency.state is ResidencyState.DRAINING:
                backend = self._backends.get(attempt.backend)
                runners.add(backend.promised if backend is not None else "")
            elif self.may_be_set_aside(attempt.record):
                runners.add(residency.runner)
        counts = self._urgent(runners)
        has_acted = False
        for key in sorted(counts, key=lambda key: -key[1]):
            servers = self._servers(key)
            if servers:
                wanted = counts[key] - _covered(servers, pending, counts[key])
                if wanted > 0 and not any(each.has_free_slot for each in servers):
                    has_acted |= self._make_way(key, servers, wanted, now_ns)
            else:
                has_acted |= self._cut_drains(key, now_ns)
        return has_acted

    # Who is urgent

    def _urgent(self, runners: Collection[str]) -> dict[LineKey, int]:
        """How many urgent requests could start on these if there were slots, by their lines."""
        lines = [(key, line) for key, line in self._backlog.first.items() if key[0] in runners]
        rooms = self._rooms() if lines else {}
        counts = {key: self._count(line, rooms) for key, line in lines}
        return {key: count for key, count in counts.items() if count}

    def _rooms(self) -> dict[int, int]:
        """How many more may run in each compartment that has a limit, by its bit."""
        bulkheads = self._backlog.bulkheads
        return {
            bulkheads.bit(name): most - running
            for name, running, most in bulkheads.limited()
            if running < most
        }

    def _count(self, line: Line, rooms: dict[int, int]) -> int:
        """How many urgent ones of this line could start if there were slots. What they would take
        of the rooms is taken."""
        limited = sum(1 << bit for bit in rooms)
        count = unlimited = line.count_besides(self._others | limited)
        for bit, room in rooms.items():
            in_it = line.count_besides(self._others | limited & ~(1 << bit)) - unlimited
            rooms[bit] = room - min(in_it, room)
            count += min(in_it, room)
        return count

    # Slots of the model that is there

    def _servers(self, key: LineKey) -> list[Residency]:
        """Where this line is served."""
        found = list[Residency]()
        for backend in self._backends.values():
            residency = backend.resident(key[0])
            if residency is None or not residency.fits(key[1]) or not backend.takes(key[0]):
                continue
            if residency.state is ResidencyState.RESIDENT:
                found.append(residency)
        return found

    def _make_way(
        self, key: LineKey, servers: Sequence[Residency], wanted: int, now_ns: int
    ) -> bool:
        """Sets aside what runs there, for so many urgent ones. Has it done so?"""
        calls, ending = self._calls(servers, now_ns)
        soon_ns = self.policy.soon_ns
        wanted -= ending + self._loading_soon(key, now_ns)
        soon = sum(each.left_ns <= soon_ns for each in calls)
        has_acted = False
        for each in sorted((each for each in calls if self._is_movable(each)), key=_place):
            if wanted <= 0:
                break
            if each.left_ns <= soon_ns or (soon >= wanted and each.ran_ns > each.left_ns):
                self._wake_at(now_ns + max(soon_ns, LOOK_NS))
            elif self._can_pay(each.waste_ns, now_ns):
                self._take(each, "urgent work takes its slot", now_ns)
                wanted, has_acted = wanted - 1, True
        return has_acted

    def _loading_soon(self, key: LineKey, now_ns: int) -> int:
        """Slots that this line has in a moment on another backend, where its model is loaded."""
        slots = 0
        for backend in self._backends.values():
            residency = backend.resident(key[0])
            if residency is None or residency.state is not ResidencyState.LOADING:
                continue
            load_ns = self._estimates.load_ns_on(backend.name, key[0])
            ready_ns = residency.load_started_ns + load_ns
            if load_ns and ready_ns <= now_ns + self.policy.soon_ns and residency.fits(key[1]):
                slots += residency.slots
        return slots

    # What drains for another model

    def _cut_drains(self, key: LineKey, now_ns: int) -> bool:
        """Lets what makes room for this line leave sooner. Was anything set aside?"""
        has_acted = False
        for backend in self._backends.values():
            if backend.promised == key[0] and backend.takes(key[0]):
                for residency in backend.draining():
                    if not residency.is_dismissed:  # that it leaves is for nobody who waits
                        has_acted |= self._cut(residency, now_ns)
        return has_acted

    def _cut(self, residency: Residency, now_ns: int) -> bool:
        """All that keeps this drain from its end, or nothing: a slot of it is of no use."""
        calls, _ = self._calls((residency,), now_ns)
        stays_ns = max((each.left_ns for each in calls if not self._is_movable(each)), default=0.0)
        late = [each for each in calls if each.left_ns > stays_ns + self.policy.soon_ns]
        if not late or not self._can_pay(sum(each.waste_ns for each in late), now_ns):
            return False
        for each in late:
            self._take(each, "urgent work waits for another model there", now_ns)
        return True

    # Whose work

    def _calls(self, servers: Iterable[Residency], now_ns: int) -> tuple[list[Call], int]:
        """What runs on these; and of how many the call is being closed already, for whatever
        reason but this one."""
        those = {id(each) for each in servers}
        calls, ending = list[Call](), 0
        for attempt in self._ledger.attempts.values():
            if id(attempt.residency) not in those or attempt.is_preempted:
                continue
            if attempt.ending is not None or attempt.given_up is not None:
                ending += 1
            else:
                calls.append(self._judge(attempt, now_ns))
        return calls, ending

    def _judge(self, attempt: Attempt, now_ns: int) -> Call:
        """What runs for longer than was thought may be over as soon, or last as long again as it
        is beyond that."""
        ran_ns = now_ns - attempt.started_ns
        runner = attempt.residency.runner
        service_ns = attempt.record.service_ns or self._estimates.service_ns(runner) or inf
        goes_on = attempt.record.spec.on_interruption is OnInterruption.CONTINUE
        waste_ns = self._waste_ns(attempt, now_ns, goes_on=goes_on)
        return Call(attempt, ran_ns, abs(service_ns - ran_ns), waste_ns)

    def _waste_ns(self, attempt: Attempt, now_ns: int, *, goes_on: bool) -> int:
        """What is lost of its slot's time: all, or what goes on needs: its prompt read again."""
        until_ns = attempt.first_token_ns if goes_on and attempt.first_token_ns else now_ns
        return until_ns - attempt.started_ns + self._grace_ns()

    def _is_movable(self, call: Call) -> bool:
        return self.may_be_set_aside(call.attempt.record)

    def _can_pay(self, waste_ns: int, now_ns: int) -> bool:
        return waste_ns <= self.left_ns(now_ns)

    def _take(self, call: Call, why: str, now_ns: int) -> None:
        self._account.spend(self.policy, call.waste_ns, self._slots(), now_ns)
        call.attempt.waste_ns = call.waste_ns
        self._set_aside(call.attempt, why)

    def _slots(self) -> int:
        """Those of all models that are loaded."""
        backends = self._backends.values()
        return max(1, sum(each.slots for of in backends for each in of.residents.values()))

    def _wake_at(self, at_ns: int) -> None:
        """What was waited for should be there then."""
        if not self._wake_timer:
            self._wake_timer = self._timers.set(at_ns, self._wake)

    def _wake(self, _: None, now_ns: int) -> None:
        """For the turn alone: its end looks again."""
        self._wake_timer, self._seen = 0, None

    # What comes of it

    def ended(self, attempt: Attempt, now_ns: int, goes_on: bool | None) -> None:
        """Its call has ended. `goes_on`: what came of it stands; None: it had not to be set aside,
        as it came to an end of its own meanwhile, or its request did."""
        waste_ns = 0
        if goes_on is not None:
            waste_ns = self._waste_ns(attempt, now_ns, goes_on=goes_on)
            self.count += 1
            self.wasted_ns += waste_ns
        more_ns = waste_ns - attempt.waste_ns
        self._account.spend(self.policy, more_ns, self._slots(), now_ns)
        attempt.waste_ns = waste_ns

    def hand_over(self, now_ns: int) -> None:
        """The slots that became free in this turn are the urgent ones', as far as there still are
        any. After all that becomes free at one moment, as that may let others run."""
        freed, self.freed = self.freed, []
        for attempt in freed:
            residency, backend = attempt.residency, self._backends.get(attempt.backend)
            if backend is None or backend.resident(residency.runner) is not residency:
                continue
            if backend.takes(residency.runner):
                self._give(residency, backend, now_ns)

    def _give(self, residency: Residency, backend: BackendState, now_ns: int) -> None:
        """A slot to the next of the urgent ones, or the next after what ends as it starts."""
        running = residency.running
        while residency.has_free_slot and residency.running == running:
            entry = self._next_urgent(residency)
            if not entry:
                return
            self._start(self._backlog.record_of(entry), backend, residency, now_ns)

    def _next_urgent(self, residency: Residency) -> int:
        """The handle of the first urgent request that may run on it; 0: none."""
        heads = (
            line.best_besides(self._others)
            for (runner, num_ctx), line in self._backlog.first.items()
            if runner == residency.runner and residency.fits(num_ctx)
        )
        return min((each for each in heads if each is not None), default=(0, 0, 0))[2]


def _covered(servers: Iterable[Residency], pending: Counter[int], wanted: int) -> int:
    """For how many of those that are wanted something was set aside there and has not ended yet;
    each counts once."""
    covered = 0
    for each in servers:
        found = min(wanted - covered, pending[id(each)])
        pending[id(each)] -= found
        covered += found
    return covered


def _place(call: Call) -> tuple[int, int, int]:
    """By which of those that may be set aside come in their order."""
    return -call.attempt.record.priority, call.waste_ns, -call.attempt.id
