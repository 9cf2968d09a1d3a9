"""The queue at native speed answers as its oracle does, whatever is asked in whatever order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from _sched.queue import FairQueue
from _sched.reference_queue import FairQueue as Oracle

HANDICAP_NS = 100
COMPARTMENTS = 3
WEIGHTS = st.one_of(st.sampled_from([1.0, 1.0, 0.5, 3.0, 1e-300]), st.floats(0.01, 100.0))
COSTS = st.one_of(st.integers(0, 5), st.integers(0, 2**40))
STEPS_NS = st.integers(0, 300)
CLOSED = st.integers(0, 2**COMPARTMENTS - 1)


@dataclass(frozen=True)
class Place:
    """Where a request waited, so that it can come back."""

    group: tuple[int, int]
    priority: int
    compartment: int
    agent: tuple[int, int]
    rank: int
    arrived_ns: int


class FairQueueMachine(RuleBasedStateMachine):
    """Every handle is a pair: the queue's and the oracle's. Old pairs stay, to be tried again."""

    groups: Bundle[tuple[int, int]] = Bundle("groups")
    agents: Bundle[tuple[int, int]] = Bundle("agents")
    entries: Bundle[tuple[int, int]] = Bundle("entries")

    @initialize(parked_max=st.sampled_from([0, 1, 2, 1024]))
    def start(self, parked_max: int) -> None:
        self.queue = FairQueue(HANDICAP_NS, parked_max)
        self.oracle = Oracle(HANDICAP_NS, parked_max)
        self.now_ns = 0
        self.all_groups: list[tuple[int, int]] = []
        self.all_agents: list[tuple[int, int]] = []
        self.twin: dict[int, int] = {0: 0}  # the queue's handle of a request -> the oracle's
        self.places: dict[int, Place] = {}
        self.served: list[tuple[tuple[int, int], int, int, Place]] = []

    # Agents and groups

    @rule(target=agents, weight=WEIGHTS)
    def add_agent(self, weight: float) -> tuple[int, int]:
        pair = self.queue.add_agent(weight), self.oracle.add_agent(weight)
        self.all_agents.append(pair)
        return pair

    @rule(target=groups)
    def open_group(self) -> tuple[int, int]:
        pair = self.queue.open_group(), self.oracle.open_group()
        self.all_groups.append(pair)
        return pair

    @rule(agent=agents)
    def remove_agent(self, agent: tuple[int, int]) -> None:
        assert self.queue.remove_agent(agent[0]) == self.oracle.remove_agent(agent[1])

    @rule(group=groups)
    def close_group(self, group: tuple[int, int]) -> None:
        closed = self.oracle.close_group(group[1])
        assert self.queue.close_group(group[0]) == closed
        if closed:
            self.all_groups.remove(group)

    @rule(agent=agents, weight=WEIGHTS)
    def set_weight(self, agent: tuple[int, int], weight: float) -> None:
        assert self.queue.set_weight(agent[0], weight) == self.oracle.set_weight(agent[1], weight)

    @rule(agent=agents, paused=st.booleans())
    def pause(self, agent: tuple[int, int], paused: bool) -> None:
        assert self.queue.pause(agent[0], paused) == self.oracle.pause(agent[1], paused)

    @rule(handicap_ns=st.integers(0, 1_000))
    def set_handicap(self, handicap_ns: int) -> None:
        self.queue.handicap_ns_per_priority = handicap_ns
        self.oracle.handicap_ns_per_priority = handicap_ns

    # Requests

    @rule(
        target=entries,
        group=groups,
        agent=agents,
        priority=st.integers(1, 3),
        compartment=st.integers(0, COMPARTMENTS - 1),
        rank=st.one_of(st.just(0), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)),
        step_ns=STEPS_NS,
    )
    def push(
        self,
        group: tuple[int, int],
        agent: tuple[int, int],
        priority: int,
        compartment: int,
        rank: int,
        step_ns: int,
    ) -> tuple[int, int]:
        self.now_ns += step_ns
        return self._push(Place(group, priority, compartment, agent, rank, self.now_ns), -1)

    @rule(target=entries, group=groups, agent=agents)
    def push_to_one_class(self, group: tuple[int, int], agent: tuple[int, int]) -> tuple[int, int]:
        """Most fairness is between the agents of one class."""
        return self._push(Place(group, 1, 0, agent, 0, self.now_ns), -1)

    @rule(entry=entries, cost=COSTS, step_ns=STEPS_NS)
    def take(self, entry: tuple[int, int], cost: int, step_ns: int) -> None:
        self.now_ns += step_ns
        self._take(entry, cost)

    @rule(at=st.integers(0, 9), closed=CLOSED, cost=COSTS, step_ns=STEPS_NS)
    def take_best(self, at: int, closed: int, cost: int, step_ns: int) -> None:
        if self.all_groups:
            self.now_ns += step_ns
            best = self.queue.best(self.all_groups[at % len(self.all_groups)][0], closed)
            if best is not None:
                self._take((best[2], self.twin[best[2]]), cost)

    @rule(at=st.integers(0, 9), actual=COSTS)
    def settle(self, at: int, actual: int) -> None:
        if self.served:
            flow, charged, _, _ = self.served.pop(at % len(self.served))
            mine = self.queue.settle(flow[0], charged, actual)
            assert mine == self.oracle.settle(flow[1], charged, actual)

    @rule(target=entries, at=st.integers(0, 9))
    def come_back(self, at: int) -> tuple[int, int]:
        """Taken, not served after all: back to its place, and the charge is given back."""
        if not self.served:
            return 0, 0
        flow, charged, head_since_ns, place = self.served.pop(at % len(self.served))
        pair = self._push(place, head_since_ns)
        mine = self.queue.settle(flow[0], charged, 0)
        assert mine == self.oracle.settle(flow[1], charged, 0)
        return pair

    @rule(entry=entries, step_ns=STEPS_NS)
    def remove(self, entry: tuple[int, int], step_ns: int) -> None:
        self.now_ns += step_ns
        mine = self.queue.remove(entry[0], self.now_ns)
        assert mine == self.oracle.remove(entry[1], self.now_ns)

    @rule(flow=st.integers(0, 2**64 - 1))
    def settle_nonsense(self, flow: int) -> None:
        if flow not in {each[0][0] for each in self.served}:
            assert not self.queue.settle(flow, 1, 1)

    # Questions

    @rule(cost=COSTS, limit=st.integers(-1, 6), mask=st.integers(0, 15))
    def forward(self, cost: int, limit: int, mask: int) -> None:
        groups = [each for at, each in enumerate(self.all_groups) if mask >> at % 4 & 1]
        for most in (limit, len(self.oracle)):
            mine = self.queue.forward((each[0] for each in groups), cost, self.now_ns, most)
            theirs = self.oracle.forward([each[1] for each in groups], cost, self.now_ns, most)
            assert [self.twin[each] for each in mine] == theirs

    @rule(closed=CLOSED)
    def demand(self, closed: int) -> None:
        for mine, theirs in self.all_groups:
            demand = self.oracle.demand(theirs, closed, self.now_ns)
            assert self.queue.demand(mine, closed, self.now_ns) == demand

    @rule(closed=CLOSED)
    def best_of_the_open(self, closed: int) -> None:
        for group in self.all_groups:
            self._same_best(group, closed)

    @rule(priority=st.integers(1, 3), compartment=st.integers(0, COMPARTMENTS - 1))
    def counters(self, priority: int, compartment: int) -> None:
        for group in self.all_groups:
            for agent in self.all_agents:
                mine = self.queue.counter_of(group[0], priority, compartment, agent[0])
                theirs = self.oracle.counter_of(group[1], priority, compartment, agent[1])
                assert mine == theirs
                waiting = self.oracle.waiting_of(group[1], priority, compartment, agent[1])
                mine = self.queue.waiting_of(group[0], priority, compartment, agent[0])
                assert mine == waiting

    @invariant()
    def agrees(self) -> None:
        self.queue.check()
        assert len(self.queue) == len(self.oracle)
        assert self.queue.flows() == self.oracle.flows()
        self._same_largest()
        for agent in self.all_agents:
            assert self.queue.backlog(agent[0]) == self.oracle.backlog(agent[1])
            assert self.twin[self.queue.worst(agent[0])] == self.oracle.worst(agent[1])
        for group in self.all_groups:
            assert self.queue.size(group[0]) == self.oracle.size(group[1])
            self._same_best(group, 0)

    def _push(self, place: Place, head_since_ns: int) -> tuple[int, int]:
        rest = place.rank, place.arrived_ns, self.now_ns, head_since_ns
        where = place.priority, place.compartment
        try:
            theirs = self.oracle.push(place.group[1], *where, place.agent[1], *rest)
        except KeyError:
            with pytest.raises(KeyError):
                self.queue.push(place.group[0], *where, place.agent[0], *rest)
            return 0, 0
        mine = self.queue.push(place.group[0], *where, place.agent[0], *rest)
        assert mine not in self.twin
        self.twin[mine] = theirs
        self.places[mine] = place
        return mine, theirs

    def _take(self, entry: tuple[int, int], cost: int) -> None:
        mine = self.queue.take(entry[0], cost, self.now_ns)
        theirs = self.oracle.take(entry[1], cost, self.now_ns)
        if mine is None or theirs is None:
            assert mine is theirs
            return
        assert mine[1] == theirs[1]
        self.served.append(((mine[0], theirs[0]), cost, mine[1], self.places[entry[0]]))

    def _same_best(self, group: tuple[int, int], closed: int) -> None:
        mine, theirs = self.queue.best(group[0], closed), self.oracle.best(group[1], closed)
        if mine is None or theirs is None:
            assert mine is theirs
        else:
            assert (*mine[:2], self.twin[mine[2]]) == theirs

    def _same_largest(self) -> None:
        mine, theirs = self.queue.largest_backlog(), self.oracle.largest_backlog()
        if mine is None or theirs is None:
            assert mine is theirs
        else:
            assert mine[1] == theirs[1]
            assert (mine[0], theirs[0]) in self.all_agents


FairQueueMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, derandomize=True
)
TestFairQueue = FairQueueMachine.TestCase
