"""All that waits: the lines, who enters and who leaves them, and the counts that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from _sched.queue import FairQueue
from broker.core.agent_policy import COMPARTMENTS_MAX
from broker.core.agents import Agent
from broker.core.bulkheads import Bulkheads
from broker.core.errors import InvariantBroken
from broker.core.estimates import Estimates
from broker.core.lifecycle import State
from broker.core.offers import NOTHING, Offers
from broker.core.queueing import Line, LineKey, QueuePolicy
from broker.core.record import Record
from broker.core.tally import Tally
from broker.core.waiting_index import WaitingIndex, beginnings_of, others_of
from broker.core.work_seen import WaitingWork

SLOT_MASK = 0xFFFFFFFF  # the part of a handle that says where in memory it is
EVERY_BIT = (1 << COMPARTMENTS_MAX + 1) - 1  # the mask that closes all compartments


class Taken(NamedTuple):
    """Who pays for a request that was taken, and how much was charged."""

    flow: int
    charged: int


class Backlog:
    """One line per (runner, context size), kept only while somebody waits in it.

    `lines` holds all of them, `ready` those of which something could run if it had a slot: what a
    full bulkhead, a pause or the level holds back wants no model loaded and keeps none. `first` are
    those of `ready` of which something goes before what the level lets go after the others; where
    it holds nothing back, all. `note` hears of each runner whose waiting requests may stand
    elsewhere now. The dictionaries are the same ones for ever, so that others may hold on to them
    and read; but `first` is one of two.
    """

    __slots__ = (
        "_estimates",
        "_first",
        "_idle",
        "_note",
        "_policy",
        "_queue",
        "_tally",
        "_waiting",
        "accepting",
        "bulkheads",
        "lines",
        "offers",
        "ready",
        "sharers",
        "size_bytes",
        "work",
    )

    def __init__(
        self,
        policy: QueuePolicy,
        queue: FairQueue,
        bulkheads: Bulkheads,
        offers: Offers,
        tally: Tally,
        estimates: Estimates,
        note: Callable[[str], None],
    ) -> None:
        self.lines: dict[LineKey, Line] = {}
        self.ready: dict[LineKey, Line] = {}
        self.size_bytes = 0  # of all that waits
        self.accepting = WaitingIndex(others_of)
        self.sharers = WaitingIndex(beginnings_of)
        self.work = WaitingWork()
        self.bulkheads = bulkheads
        self.offers = offers
        self._first: dict[LineKey, Line] = {}  # kept only while the level holds something back
        self._policy = policy
        self._queue = queue
        self._idle: dict[LineKey, Line] = {}  # of which something runs and nothing waits
        self._waiting: list[Record | None] = []  # by the slot of the queue's handle
        self._tally = tally
        self._estimates = estimates
        self._note = note

    def configure(self, policy: QueuePolicy) -> None:
        """What waits is ordered by this from now on, but keeps the size that it was put down at."""
        self._policy = policy
        self._queue.handicap_ns_per_priority = policy.handicap_ns_per_priority
        if self._queue.grain != policy.fairness_grain:
            self._queue.grain = policy.fairness_grain

    @property
    def is_holding(self) -> bool:
        """Does the level hold something back?"""
        return self.offers.held != NOTHING

    @property
    def first(self) -> Mapping[LineKey, Line]:
        """See the class."""
        return self._first if self.offers.held else self.ready

    def enter(self, record: Record, now_ns: int, *, lift: bool = False) -> None:
        """A request waits now; where it was taken before, at its old place. `lift`: it brings its
        age from another line, and its agent is lifted there like whoever comes."""
        line = self._line(record.line)
        record.line = line.key  # one tuple for all that wait here
        record.entry = self._queue.push(
            line.group,
            record.priority,
            record.compartment,
            record.agent.handle,
            record.rank,
            record.arrived_ns,
            now_ns,
            record.head_since_ns,
            self._policy.stand_back_ns(record.service_ns, record.credit_ns),
            lift,
        )
        slot = record.entry & SLOT_MASK
        if slot >= len(self._waiting):
            self._waiting.extend([None] * (slot + 1 - len(self._waiting)))
        self._waiting[slot] = record
        self._tally.queue(record.priority, 1)
        self.size_bytes += record.spec.size_bytes
        record.agent.waiting_bytes += record.spec.size_bytes
        self.work.change(line.key[0], record.service_ns)
        if record.accepts:
            self.accepting.add(record)
        if record.spec.prefixes:
            self.sharers.add(record)
        if line.key not in self.first:
            self._look(line, now_ns)
        self._note(record.line[0])

    def take(self, record: Record, now_ns: int) -> Taken:
        """The next of its line gets a slot. Its agent is charged what such requests cost on
        average, until it is known what this one did."""
        cost = self._estimates.cost(record.line[0])
        taken = self._queue.take(record.entry, cost, now_ns)
        if taken is None:
            raise InvariantBroken(f"{record.spec.key} was to start and does not wait")
        flow, record.head_since_ns = taken
        # What is displaced, cancelled or late frees a place too, but no faster service.
        self._estimates.departed(now_ns)
        self._left(record, now_ns)
        return Taken(flow, cost)

    def settle(self, flow: int, charged: int, cost: int) -> None:
        """What was taken is over: this is what it did cost."""
        self._queue.settle(flow, charged, cost)
        if self._idle:
            self._close_idle()

    def withdraw(self, record: Record, now_ns: int) -> None:
        """A request leaves from wherever it stands, for good."""
        self._queue.remove(record.entry, now_ns)
        record.head_since_ns = -1
        self._left(record, now_ns)

    def ease(self, record: Record, service_ns: int) -> None:
        """It will run for less than it looked: it stands back by less, in its old place."""
        self.work.change(record.line[0], service_ns - record.service_ns)
        record.service_ns = service_ns
        self._queue.ease(record.entry, self._policy.stand_back_ns(service_ns, record.credit_ns))
        self._note(record.line[0])

    def move(
        self,
        record: Record,
        now_ns: int,
        *,
        line: LineKey | None = None,
        rank: int | None = None,
        compartment: int | None = None,
        keeps_age: bool = False,
    ) -> None:
        """Changes what decides where a request stands. If it waits it does so there from now on, as
        if it had come now; or `keeps_age`: as old as it has become as head of its agent."""
        is_queued = record.state is State.QUEUED
        since_ns = -1
        if is_queued:
            if keeps_age:  # as it would have where it was before, had it stayed
                known = (self._queue.head_since(record.entry), record.head_since_ns)
                since_ns = min((each for each in known if each >= 0), default=-1)
            self.withdraw(record, now_ns)
            record.head_since_ns = since_ns
        record.line = record.line if line is None else line
        record.rank = record.rank if rank is None else rank
        record.compartment = record.compartment if compartment is None else compartment
        if is_queued:
            self.enter(record, now_ns, lift=keeps_age)

    def record_of(self, entry: int) -> Record:
        """The request behind a handle of the queue."""
        record = self._waiting[entry & SLOT_MASK]
        if record is None:
            raise InvariantBroken("the queue names a request that does not wait")
        return record

    def waiting(self, is_meant: Callable[[LineKey], bool]) -> list[Record]:
        """Those that wait in the lines that are meant, in no order that means anything."""
        return [each for each in self._waiting if each is not None and is_meant(each.line)]

    def waiting_of(self, agents: Iterable[Agent]) -> list[Record]:
        """What waits of these agents."""
        meant = {each.id for each in agents if self._queue.backlog(each.handle)}
        if not meant:
            return []
        return [each for each in self._waiting if each is not None and each.agent.id in meant]

    def worst_of_largest(self) -> tuple[Record, int] | None:
        """What the agent with the largest backlog would miss least, and how large that backlog is;
        None where nothing waits."""
        largest = self._queue.largest_backlog()
        if largest is None or largest[1] == 0:
            return None
        return self.record_of(self._queue.worst(largest[0])), largest[1]

    def worst_barred(self) -> Record | None:
        """What would be missed least of what the level does not let run at all: of the worst
        priority, of the agent with most that waits, and what came last; None where all may run."""
        bars, lines = self.offers.bars, self.lines.values()
        if not self.is_holding or all(x.size == x.count_let_run() for x in lines):
            return None
        barred = (
            each
            for each in self._waiting
            if each is not None and bars(each.line[0], each.priority, each.compartment)
        )
        return max(
            barred,
            key=lambda each: (each.priority, self.of_agent(each.agent), each.arrived_ns, each.rank),
            default=None,
        )

    def of_agent(self, agent: Agent) -> int:
        """How many requests of this agent wait."""
        return self._queue.backlog(agent.handle)

    def ahead(
        self,
        line: LineKey,
        priority: int,
        compartment: int,
        agent: Agent,
        stand_ns: int | None = None,
    ) -> int:
        """How many requests of the agent itself surely start before a newcomer of these. O(1);
        `stand_ns`: those that came by then, sizes considered, in as many steps as there are."""
        known = self.lines.get(line)
        if known is None:
            return 0
        where = known.group, priority, compartment, agent.handle
        if stand_ns is None:
            return self._queue.waiting_of(*where)
        return self._queue.standing_of(*where, stand_ns)

    def forward(self, runner: str, now_ns: int, limit: int) -> list[Record]:
        """The first `limit` requests for this runner in the order in which they would start from
        now on, were nobody else to come: what the level holds back after the others, and those in
        full compartments last."""
        groups = [line.group for key, line in self.lines.items() if key[0] == runner]
        cost, closed = self._estimates.cost(runner), self.bulkheads.closed
        held = self.offers.mask(runner) if self.is_holding else NOTHING
        entries = self._queue.forward(groups, cost, now_ns, limit, closed | held)
        if held:
            known = set(entries)
            both = self._queue.forward(groups, cost, now_ns, limit, closed)
            entries += [each for each in both if each not in known][: limit - len(entries)]
        if closed:
            rest = limit - len(entries)
            entries += self._queue.forward(groups, cost, now_ns, rest, closed ^ EVERY_BIT)
        return [self.record_of(each) for each in entries]

    def joining(self, runner: str) -> list[Record]:
        """Those that this runner may answer and that could run, wherever they wait; in the order in
        which they began to wait there."""
        if not self.offers.lets_answer(runner):
            return []
        closed = self.bulkheads.closed
        return [
            each
            for each in self.accepting.of(runner)
            if each.may_join
            and not each.agent.is_paused
            and not closed >> each.compartment & 1
            and not (self.is_holding and self.offers.holds(each))
        ]

    def let_run(self) -> int:
        """How many waiting requests the level lets run, be it only in a slot that would idle: what
        it holds back altogether is no load that could hold the level up."""
        return sum(self.let_run_in(line) for line in self.lines.values())

    def let_run_in(self, line: Line) -> int:
        """The same of one line."""
        return line.count_let_run()

    def hold_anew(self, now_ns: int) -> None:
        """What the level holds back has changed."""
        self._first.clear()
        for line in (*self.lines.values(), *self._idle.values()):
            self._hold(line)
        self.look_again(now_ns)

    def look_again(self, now_ns: int) -> None:
        """What may run has changed, for whatever reason."""
        for line in self.lines.values():
            self._look(line, now_ns)
            self._note(line.key[0])

    def check(self) -> None:
        """Raises InvariantBroken where the books do not agree. O(n)."""
        records = [each for each in self._waiting if each is not None]
        if any(each.state is not State.QUEUED for each in records):
            raise InvariantBroken("what waits is not said to wait")
        if not len(records) == len(self._queue) == sum(x.size for x in self.lines.values()):
            raise InvariantBroken("the queue, its lines and what waits differ")
        if not (self.accepting.check(records) and self.sharers.check(records)):
            raise InvariantBroken("what accepts other models, or begins alike, is kept wrong")
        if sum(each.spec.size_bytes for each in records) != self.size_bytes:
            raise InvariantBroken("the bytes that wait are counted wrong")
        if sum(each.service_ns for each in records) != self.work.of_all:
            raise InvariantBroken("the work that waits is counted wrong")
        may_run = [key for key, line in self.lines.items() if line.demand(0)[0]]
        if set(may_run) != set(self.ready) or any(x.size == 0 for x in self.lines.values()):
            raise InvariantBroken("the lines that are kept, or ready, are others than should be")
        go_first = [key for key, line in self.lines.items() if line.demand_first(0)[0]]
        if set(go_first) != set(self.first):
            raise InvariantBroken("the lines that go first are others than should be")
        if any(x.held != self._mask(x) for x in self.lines.values()):
            raise InvariantBroken("a line holds back what the level does not")

    def _line(self, key: LineKey) -> Line:
        line = self.lines.get(key)
        if line is None:
            line = self._idle.pop(key, None)
            if line is None:
                line = Line(key, self._queue, self.bulkheads)
                if self.is_holding:
                    self._hold(line)
            self.lines[key] = line
        return line

    def _hold(self, line: Line) -> None:
        line.hold(self._mask(line), self.offers.mask_barred(line.key[0]))

    def _mask(self, line: Line) -> int:
        return self.offers.mask(line.key[0]) if self.is_holding else NOTHING

    def _left(self, record: Record, now_ns: int) -> None:
        self._waiting[record.entry & SLOT_MASK] = None
        record.entry = 0
        line = self.lines[record.line]
        self._look(line, now_ns)
        if line.size == 0:
            del self.lines[record.line]
            if not self._queue.close_group(line.group):
                self._idle[record.line] = line
        self._tally.queue(record.priority, -1)
        self.size_bytes -= record.spec.size_bytes
        record.agent.waiting_bytes -= record.spec.size_bytes
        self.work.change(line.key[0], -record.service_ns)
        if record.accepts:
            self.accepting.drop(record)
        if record.spec.prefixes:
            self.sharers.drop(record)
        if not self.lines:
            self._estimates.emptied()
        self._note(record.line[0])

    def _look(self, line: Line, now_ns: int) -> None:
        if line.demand(now_ns)[0]:
            self.ready.setdefault(line.key, line)
        else:
            self.ready.pop(line.key, None)
        if not self.is_holding:
            return
        if line.demand_first(0)[0]:
            self._first.setdefault(line.key, line)
        else:
            self._first.pop(line.key, None)

    def _close_idle(self) -> None:
        for key, line in list(self._idle.items()):
            if self._queue.close_group(line.group):
                del self._idle[key]
