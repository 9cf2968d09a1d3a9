"""Who is next: each start held against the prose of the design, over counters of the oracle's.

The oracle of the queue keeps the counters as the engine's effects tell of arrivals, starts and
ends; which of those that wait may start first is asked by brute force, for every single start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from _sched.reference_queue import FairQueue
from _sched.reference_vtc import COMPARTMENT_MAX
from broker.core.effects import StartAttempt
from broker.core.queueing import CREDIT_NS_MAX, LineKey
from broker.core.record import Record
from broker.core.requests import AttemptId, Criticality, RequestKey
from broker.core.story import Rule
from tests.property.entry_books import Live
from tests.property.level_books import LevelBooks
from tests.property.operator_books import NOT_LIMITED, OperatorBooks
from tests.property.server_books import Call


@dataclass(slots=True)
class Waiting:
    """A request in a line. `overtakings`: when each of those started who came later, `rules`: for
    how many of them each rule may truly be named."""

    live: Live
    line: LineKey
    entry: int = 0
    stand_back_ns: int = 0  # for its size, as it was when it entered
    overtakings: list[int] = field(default_factory=list)
    has_moved: bool = False  # to the line of a model that was pulled anew
    head_since_ns: int = -1  # its age where it was before, which it brought along
    rules: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Served:
    """A start: whose counter was charged, how much, and what comes back if it does."""

    waiting: Waiting
    flow: int
    charged: int
    head_since_ns: int


class OrderBooks:
    """`waiting` has everybody in a line."""

    def __init__(self, operators: OperatorBooks, levels: LevelBooks) -> None:
        self._levels = levels
        self.waiting: dict[RequestKey, Waiting] = {}
        self.running: Counter[str] = Counter()  # by compartment
        self.eased = 0  # how often one that waited was taken for shorter
        self._operators = operators
        policy = operators.policy.queue
        self._queue = FairQueue(policy.handicap_ns_per_priority, grain=policy.fairness_grain)
        self._agents: dict[str, int] = {}
        self._groups: dict[LineKey, int] = {}
        self._bits: dict[str, int] = {NOT_LIMITED: 0}
        self._heads: dict[tuple[LineKey, int, str, str], tuple[RequestKey, int]] = {}
        self._served: dict[AttemptId, Served] = {}
        self._resting: dict[RequestKey, Served] = {}  # of what waits for its next attempt

    def refit(self, agents: Iterable[str]) -> None:
        """Weights, pauses and handicaps are those in force. Who returns first of several that
        return at once, in this order, is the floor for the others."""
        policy = self._operators.policy.queue
        self._queue.handicap_ns_per_priority = policy.handicap_ns_per_priority
        self._queue.grain = policy.fairness_grain
        for agent in agents:
            if agent in self._agents:
                self._queue.set_weight(self._agents[agent], self._operators.weight(agent))
                self._queue.pause(self._agents[agent], self._operators.is_paused(agent))

    def enter(self, live: Live, line: LineKey, now_ns: int) -> None:
        self._push(Waiting(live, line), now_ns, -1)

    def rest(self, attempt: AttemptId) -> None:
        """It lost its slot."""
        served = self._served.pop(attempt)
        self._resting[served.waiting.live.key] = served

    def come_back(self, key: RequestKey, line: LineKey, now_ns: int) -> None:
        """It waits again at its old place, and nothing was paid for what it lost."""
        served = self._resting.pop(key)
        self._push(Waiting(served.waiting.live, line), now_ns, served.head_since_ns)
        self._queue.settle(served.flow, served.charged, 0)

    def _push(
        self, waiting: Waiting, now_ns: int, head_since_ns: int, *, lift: bool = False
    ) -> None:
        live, waiting.head_since_ns = waiting.live, head_since_ns
        agent = live.key[0]
        if agent not in self._agents:
            self._agents[agent] = self._queue.add_agent(1.0)
            self.refit([agent])
        if waiting.line not in self._groups:
            self._groups[waiting.line] = self._queue.open_group()
        size_ns = int(self._operators.policy.queue.size_handicap * live.service_ns)
        waiting.stand_back_ns = CREDIT_NS_MAX + size_ns - live.credit_ns  # never below 0
        waiting.entry = self._queue.push(
            self._groups[waiting.line],
            live.priority,
            self._bit(live.compartment),
            self._agents[agent],
            live.rank,
            live.arrived_ns,
            now_ns,
            head_since_ns,
            waiting.stand_back_ns,
            lift,
        )
        self.waiting[live.key] = waiting
        self._look_for_head(waiting, head_since_ns if head_since_ns >= 0 else now_ns)

    def _bit(self, compartment: str) -> int:
        return self._bits.setdefault(compartment, len(self._bits))

    def move(self, key: RequestKey, line: LineKey, now_ns: int) -> None:
        """Its model was pulled anew, or the level gives it another: it waits for that now."""
        waiting = self.waiting[key]
        head, since_ns = self._heads[self._flow(waiting)]
        known = (since_ns if head == key else -1, waiting.head_since_ns)
        age_ns = min((each for each in known if each >= 0), default=-1)
        self.leave(key, now_ns)
        waiting.line, waiting.has_moved = line, True
        if waiting.live.spec.prefer_loaded:
            self._push(waiting, now_ns, age_ns, lift=True)  # as old as where it was before
        else:
            self._push(waiting, now_ns, -1)

    def was_read(self, call: Call, records: Mapping[RequestKey, Record]) -> None:
        """Of those that wait for its runner and begin alike some are taken for shorter now, but
        nobody else is, and nobody for longer."""
        begins = set(call.live.spec.prefixes)
        for key, waiting in self.waiting.items():
            live, record = waiting.live, records.get(key)
            is_alike = waiting.line[0] == call.runner and begins & set(live.spec.prefixes)
            if record is None or not is_alike or record.service_ns == live.service_ns:
                continue
            assert record.service_ns < live.service_ns, f"{key} was taken for longer"
            live.service_ns = record.service_ns
            size_ns = int(self._operators.policy.queue.size_handicap * live.service_ns)
            stand_back_ns = CREDIT_NS_MAX + size_ns - live.credit_ns
            waiting.stand_back_ns = min(waiting.stand_back_ns, stand_back_ns)
            assert self._queue.ease(waiting.entry, stand_back_ns)
            self.eased += 1

    def check_sizes(self, records: Mapping[RequestKey, Record]) -> None:
        """Nothing that waits has another size than the books know."""
        for key, waiting in self.waiting.items():
            assert records[key].service_ns == waiting.live.service_ns, f"{key} was weighed anew"

    def leave(self, key: RequestKey, now_ns: int) -> None:
        """It waits no longer, if it did, for whatever reason."""
        served = self._resting.pop(key, None)
        if served is not None:
            self._queue.settle(served.flow, served.charged, 0)
        waiting = self.waiting.pop(key, None)
        if waiting is not None:
            self._queue.remove(waiting.entry, now_ns)
            self._look_for_head(waiting, now_ns)

    def _look_for_head(self, changed: Waiting, now_ns: int) -> None:
        """Who is head of this one's agent now? A new one is so since now."""
        flow = self._flow(changed)
        those = [each for each in self.waiting.values() if self._flow(each) == flow]
        if not those:
            self._heads.pop(flow, None)
            return
        head = min(those, key=lambda each: (each.live.rank, each.live.number)).live.key
        if flow not in self._heads or self._heads[flow][0] != head:
            self._heads[flow] = head, now_ns

    def _flow(self, waiting: Waiting) -> tuple[LineKey, int, str, str]:
        live = waiting.live
        return waiting.line, live.priority, live.compartment, live.key[0]

    # The law

    def is_urgent_waiting(self) -> bool:
        """Is there any that nothing but the want of a slot holds back?"""
        return any(
            each.live.priority <= self._operators.policy.preemption.urgent_worst
            and not self._operators.is_paused(each.live.key[0])
            and not self.is_closed(each.live.compartment)
            and not self._is_held(each)
            for each in self.waiting.values()
        )

    def is_closed(self, compartment: str) -> bool:
        limit = self._operators.limit(compartment)
        return limit is not None and self.running[compartment] >= limit

    def start(
        self,
        effect: StartAttempt,
        charge: int,
        fitting: Iterable[LineKey],
        now_ns: int,
        *,
        best_of: int,
    ) -> None:
        """It got a slot that the requests of these lines fit as well, those of this priority and
        better alone: others have it only where none of these may."""
        key = effect.key
        waiting = self.waiting[key]
        live = waiting.live
        assert not self._operators.is_paused(key[0]), "a paused agent's request was started"
        assert not self.is_closed(live.compartment), "more run in a compartment than may"
        self._check_turn(waiting, set(fitting), best_of)
        for other in self.waiting.values():
            if other.live.arrived_ns < live.arrived_ns:
                other.overtakings.append(now_ns)
                other.rules.update(self._rules(other, waiting))
        taken = self._queue.take(waiting.entry, charge, now_ns)
        assert taken is not None
        assert taken[1] == self._heads[self._flow(waiting)][1]
        del self.waiting[key]
        self._look_for_head(waiting, now_ns)
        self._served[effect.attempt] = Served(waiting, taken[0], charge, taken[1])
        self.running[live.compartment] += 1

    def _check_turn(self, waiting: Waiting, fitting: set[LineKey], best_of: int) -> None:
        """Its class has the oldest claim of all that could run, handicaps counted (the oracle of
        the queue keeps the claims), its agent was served about as little as any of its class, no
        other such one has an older head, sizes considered, and it is its agent's head. What could
        run is of no paused agent and in no compartment that is full. What the
        level holds back runs after all that it does not, and not at all where memory is short."""
        is_held = self._is_held(waiting)
        assert not self._is_barred(waiting), "the level does not let it run"
        could_run = [
            each
            for each in self.waiting.values()
            if each.line in fitting
            and not self._operators.is_paused(each.live.key[0])
            and not self.is_closed(each.live.compartment)
            and not self._is_barred(each)
            and self._is_head(each)
            and each.live.priority <= best_of
        ]
        may_run = [each for each in could_run if self._is_held(each) == is_held]
        assert not is_held or may_run == could_run, "it ran before one that goes first"
        mine, order = self._class(waiting), self._order(waiting)
        assert self._is_head(waiting), f"{waiting.live.key} was not its agent's head"
        closed = sum(1 << bit for name, bit in self._bits.items() if self.is_closed(name))
        # Whose class is held is closed to the others; all of a line are one model's.
        those = [each for each in self.waiting.values() if each.line in fitting]
        closed |= sum(1 << COMPARTMENT_MAX + each for each in range(best_of + 1, 11))
        for each in those:
            if self._is_barred(each) or (self._is_held(each) and not is_held):
                closed |= self._class_bits(each)
        groups = {line: self._groups[line] for line in fitting if line in self._groups}
        bests = {line: self._queue.best(group, closed) for line, group in groups.items()}
        oldest = min(best[:2] for best in bests.values() if best is not None)
        of_line = bests[waiting.line]
        assert of_line is not None
        assert of_line[:2] == oldest, f"{waiting.live.key}: another line's claim is older"
        assert of_line[1] == waiting.live.priority, f"{waiting.live.key}: another's claim is older"
        for each in may_run:
            if self._class(each) == mine:
                assert order <= self._order(each), f"{waiting.live.key} was not the next"

    def _is_barred(self, waiting: Waiting) -> bool:
        return self._levels.bars(waiting.live, waiting.line)

    def _is_held(self, waiting: Waiting) -> bool:
        return self._levels.holds(waiting.live, waiting.line)

    def _class_bits(self, waiting: Waiting) -> int:
        """Batch work is held as such, all else by its priority."""
        live = waiting.live
        if live.spec.criticality is Criticality.BATCH:
            return 1 << self._bit(live.compartment)
        return 1 << COMPARTMENT_MAX + live.priority

    def _class(self, waiting: Waiting) -> tuple[LineKey, int, str]:
        return self._flow(waiting)[:3]

    def _is_head(self, waiting: Waiting) -> bool:
        return self._heads[self._flow(waiting)][0] == waiting.live.key

    def _was_served_more(self, waiting: Waiting) -> bool:
        """Than those of its class who may be next."""
        live = waiting.live
        group, bit = self._groups[waiting.line], self._bit(live.compartment)
        agent = self._agents[live.key[0]]
        counter = self._queue.counter_of(group, live.priority, bit, agent)
        assert counter is not None
        return counter >= self._queue.end_of(group, live.priority, bit)

    def _order(self, waiting: Waiting) -> tuple[bool, int]:
        """Of a head."""
        stand_ns = self._heads[self._flow(waiting)][1] + waiting.stand_back_ns
        has_stands = self._operators.policy.queue.fairness_grain > 0
        return self._was_served_more(waiting), stand_ns if has_stands else 0

    def _rules(self, late: Waiting, early: Waiting) -> set[str]:
        """By which rules `early`, which came later, may truly be said to start before `late`."""
        rules = set[str]()
        if late.line[0] != early.line[0]:
            rules.add(Rule.PLACEMENT)
        elif late.line != early.line:
            rules.add(Rule.CONTEXT)
        if self._operators.is_paused(late.live.key[0]):
            rules.add(Rule.PAUSE)
        if self.is_closed(late.live.compartment):
            rules.add(Rule.BULKHEAD)
        is_after = self._is_held(late) and not self._is_held(early)
        if is_after or self._levels.is_small_first(early.line, late.line):
            rules.add(Rule.LEVEL)
        if late.line != early.line:
            return rules
        if late.live.priority > early.live.priority:
            rules.add(Rule.PRIORITY)
        elif self._class(late) != self._class(early):
            rules.add(Rule.AGEING)
        else:
            rules |= self._rules_in_class(late, early)
        return rules

    def _rules_in_class(self, late: Waiting, early: Waiting) -> set[str]:
        if late.live.key[0] == early.live.key[0]:
            return {Rule.OWN_ORDER}
        if self._was_served_more(early):
            return set()
        rules = {Rule.FAIR_SHARE}
        if early.live.credit_ns > late.live.credit_ns:
            rules.add(Rule.SESSION)
        if early.live.service_ns < late.live.service_ns:
            rules.add(Rule.SIZE)
        if self._operators.is_boosted(early.live.key[0]):
            rules.add(Rule.BOOST)
        return rules

    # The end of a start

    def settle(self, attempt: AttemptId, cost: int) -> None:
        """What it did cost takes the place of what was charged."""
        served = self._served.pop(attempt)
        self._queue.settle(served.flow, served.charged, cost)

    def release(self, compartment: str) -> None:
        """Its work is over, and its place in its compartment is free."""
        self.running[compartment] -= 1
