"""A line against a model written from the prose of the design ("Who is next"), by brute force.

The model keeps one flat list of what waits and finds everything anew each time: nothing in it is
clever enough to be wrong in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.queueing import Line, QueuePolicy, positions
from broker.core.requests import RequestKey

STEP_NS = 10
AGENTS = ("ann", "bob", "cyd")
PRIORITIES = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One agent at one priority: when it last got its turn, and since when its head is head."""

    agent: str
    priority: int


class Prose:
    """First the priority whose candidate has the smallest key; within it the agent whose turn it
    is; of that agent the request that came first."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, RequestKey, int]] = []  # (queued_ns, request, priority)
        self.turn_of: dict[Flow, int] = {}  # the smallest number has its turn
        self.head_since_ns: dict[Flow, int] = {}
        self._turns_given = 0

    def copy(self) -> Prose:
        other = Prose()
        other.waiting = list(self.waiting)
        other.turn_of, other.head_since_ns = dict(self.turn_of), dict(self.head_since_ns)
        other._turns_given = self._turns_given
        return other

    def requests_of(self, flow: Flow) -> list[tuple[int, RequestKey, int]]:
        return [w for w in self.waiting if Flow(agent=w[1][0], priority=w[2]) == flow]

    def flow_of(self, key: RequestKey) -> Flow:
        return next(Flow(agent=w[1][0], priority=w[2]) for w in self.waiting if w[1] == key)

    def last_turn(self) -> int:
        self._turns_given += 1
        return self._turns_given

    def arrive(self, key: RequestKey, priority: int, now_ns: int) -> None:
        flow = Flow(agent=key[0], priority=priority)
        if not self.requests_of(flow):
            self.turn_of[flow], self.head_since_ns[flow] = self.last_turn(), now_ns
        self.waiting.append((now_ns, key, priority))

    def come_back(self, back: Taken, now_ns: int) -> None:
        flow = Flow(agent=back.key[0], priority=back.priority)
        older = [w for w in self.requests_of(flow) if w[0] < back.queued_ns]
        if not older:
            self.head_since_ns[flow] = back.head_since_ns
        turns = [self.turn_of[each] for each in self.turn_of if self.requests_of(each)]
        self.turn_of[flow] = min(turns, default=0) - 1
        place = next(
            (
                index
                for index, w in enumerate(self.waiting)
                if Flow(agent=w[1][0], priority=w[2]) == flow and w[0] >= back.queued_ns
            ),
            len(self.waiting),
        )
        self.waiting.insert(place, (back.queued_ns, back.key, back.priority))

    def next(self) -> tuple[int, RequestKey]:
        """(order key, request) of the one that is next."""
        candidates = []
        for priority in PRIORITIES:
            flows = [Flow(agent=agent, priority=priority) for agent in AGENTS]
            flows = [flow for flow in flows if self.requests_of(flow)]
            if flows:
                flow = min(flows, key=lambda each: self.turn_of[each])
                key_ns = self.head_since_ns[flow] + (priority - 1) * STEP_NS
                candidates.append((key_ns, priority, self.requests_of(flow)[0][1]))
        key_ns, _, key = min(candidates)
        return key_ns, key

    def leave(self, key: RequestKey, now_ns: int) -> None:
        flow = self.flow_of(key)
        was_head = self.requests_of(flow)[0][1] == key
        self.waiting = [w for w in self.waiting if w[1] != key]
        if was_head:
            self.head_since_ns[flow] = now_ns

    def take(self, now_ns: int) -> RequestKey:
        _, key = self.next()
        self.turn_of[self.flow_of(key)] = self.last_turn()
        self.leave(key, now_ns)
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A request that was given a slot and may come back."""

    key: RequestKey
    priority: int
    queued_ns: int
    head_since_ns: int


class LineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.line = Line(QueuePolicy(handicap_ns_per_priority=STEP_NS))
        self.prose = Prose()
        self.now_ns = 0
        self.arrivals = 0
        self.taken: list[Taken] = []

    @rule(duration_ns=st.integers(0, 40))
    def time_passes(self, duration_ns: int) -> None:
        self.now_ns += duration_ns

    @rule(agent=st.sampled_from(AGENTS), priority=st.sampled_from(PRIORITIES))
    def arrive(self, agent: str, priority: int) -> None:
        self.now_ns += 1  # places are told apart by arrival, to the nanosecond
        self.arrivals += 1
        key = (agent, f"{self.arrivals}")
        self.line.push(key, priority, self.now_ns, self.now_ns)
        self.prose.arrive(key, priority, self.now_ns)

    @precondition(lambda self: self.line.size)
    @rule()
    def take(self) -> None:
        best = self.line.best()
        assert best is not None
        _, priority, key = best
        queued_ns = next(w[0] for w in self.prose.waiting if w[1] == key)
        expected_ns = self.prose.head_since_ns[self.prose.flow_of(key)]
        head_since_ns = self.line.take(key, priority, self.now_ns)
        assert (key, head_since_ns) == (self.prose.take(self.now_ns), expected_ns)
        self.taken.append(
            Taken(key=key, priority=priority, queued_ns=queued_ns, head_since_ns=head_since_ns)
        )

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        back = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.line.push(
            back.key,
            back.priority,
            back.queued_ns,
            self.now_ns,
            head_since_ns=back.head_since_ns,
        )
        self.prose.come_back(back, self.now_ns)

    @precondition(lambda self: self.line.size)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        _, key, priority = data.draw(st.sampled_from(self.prose.waiting))
        self.line.remove(key, priority, self.now_ns)
        self.prose.leave(key, self.now_ns)

    @invariant()
    def agrees(self) -> None:
        self.line.check()
        assert self.line.size == len(self.prose.waiting)
        assert sorted(self.line.requests()) == sorted(w[1] for w in self.prose.waiting)
        waits = sum(self.now_ns - w[0] for w in self.prose.waiting)
        assert self.line.waited_ns(self.now_ns) == waits
        best = self.line.best()
        assert (best and (best[0], best[2])) == (self.prose.next() if self.prose.waiting else None)

    @invariant()
    def tells_positions_as_the_rules_would_take(self) -> None:
        played = self.prose.copy()
        order = [played.take(self.now_ns) for _ in range(len(played.waiting))]
        told = positions([self.line], self.now_ns)
        assert list(told.items()) == [(key, place) for place, key in enumerate(order, start=1)]


TestLine = LineMachine.TestCase
# Derandomized: a failure of the suite is one of the change under test, not of chance.
TestLine.settings = settings(
    derandomize=True, max_examples=60, stateful_step_count=40, deadline=None
)
