"""The queue at native speed answers as its oracle does, whatever is asked in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from _sched.queue import FairQueue
from _sched.reference_queue import FairQueue as Oracle

HANDICAP_NS = 100
PRIORITIES = (1, 2, 10, 11)  # those beyond 10 no mask closes
COMPARTMENTS = (0, 1)
# All that closes some of these compartments, and of these priorities.
MASKS = [
    compartments | first << 54 | tenth << 63
    for compartments, first, tenth in product(range(4), (0, 1), (0, 1))
]
AGENTS_MAX = 5
GROUPS_MAX = 2

Pair = tuple[int, int]  # a handle of the queue and the oracle's for the same

WEIGHTS = st.sampled_from([1.0, 1.0, 1.0, 2.0, 0.3, 1e-300])
# Mostly small, so that counters meet; now and then as large as a cost can be.
COSTS = st.sampled_from([0, 1, 1, 2, 3, 5, 8, 2**40])
# From none over such as hold a few requests to one that holds all.
GRAINS = st.sampled_from([0, 0, 1, 4, 10, 2**40])
STANDS_BACK_NS = st.sampled_from([0, 0, 1, 60, 150, 2**54])
STEPS_NS = st.sampled_from([0, 0, 1, 60, 100, 300])
RANKS = st.sampled_from([0, 0, 0, -1, 1, -(2**63), 2**63 - 1])
AT = st.integers(0, 11)


@dataclass(frozen=True)
class Place:
    """Where a request waited, so that it can come back."""

    group: Pair
    priority: int
    compartment: int
    agent: Pair
    rank: int
    arrived_ns: int
    stand_back_ns: int = 0


class FairQueueMachine(RuleBasedStateMachine):
    """The queue beside its oracle. Requests that are gone stay in the list, to be tried again."""

    @initialize(parked_max=st.sampled_from([0, 1, 1024]), grain=GRAINS)
    def start(self, parked_max: int, grain: int) -> None:
        self.queue = FairQueue(HANDICAP_NS, parked_max, grain)
        self.oracle = Oracle(HANDICAP_NS, parked_max, grain)
        self.now_ns = 0
        self.groups: list[Pair] = []
        self.agents: list[Pair] = []
        self.entries: list[Pair] = [(0, 0)]
        self.twin: dict[int, int] = {0: 0}  # the queue's handle of a request -> the oracle's
        self.places: dict[int, Place] = {}
        self.served: list[tuple[Pair, int, int, Place]] = []
        self.open_group()
        for _ in range(3):
            self.add_agent(1.0)

    # Agents and groups

    @rule(weight=WEIGHTS)
    def add_agent(self, weight: float) -> None:
        if len(self.agents) < AGENTS_MAX:
            self.agents.append((self.queue.add_agent(weight), self.oracle.add_agent(weight)))

    @rule()
    def open_group(self) -> None:
        if len(self.groups) < GROUPS_MAX:
            self.groups.append((self.queue.open_group(), self.oracle.open_group()))

    @rule(at=AT)
    def remove_agent(self, at: int) -> None:
        mine, theirs = agent = self.agents[at % len(self.agents)]
        removed = self.oracle.remove_agent(theirs)
        assert self.queue.remove_agent(mine) == removed
        if removed:
            self.agents.remove(agent)
            self.add_agent(1.0)
            assert not self.queue.remove_agent(mine)
            assert not self.queue.pause(mine, True)
            assert self.queue.worst(mine) == self.queue.backlog(mine) == 0
            with pytest.raises(KeyError):
                self.queue.push(self.groups[0][0], 1, 0, mine, 0, 0, 0)

    @rule()
    def close_group(self) -> None:
        mine, theirs = self.groups[-1]
        closed = self.oracle.close_group(theirs)
        assert self.queue.close_group(mine) == closed
        if closed:
            self.groups.pop()
            self.open_group()

    @rule(at=AT, weight=WEIGHTS)
    def set_weight(self, at: int, weight: float) -> None:
        mine, theirs = self.agents[at % len(self.agents)]
        assert self.queue.set_weight(mine, weight) == self.oracle.set_weight(theirs, weight)

    @rule(at=AT, paused=st.booleans())
    def pause(self, at: int, paused: bool) -> None:
        mine, theirs = self.agents[at % len(self.agents)]
        assert self.queue.pause(mine, paused) == self.oracle.pause(theirs, paused)

    @rule(handicap_ns=st.sampled_from([0, 1, 100, 1_000]))
    def set_handicap(self, handicap_ns: int) -> None:
        self.queue.handicap_ns_per_priority = handicap_ns
        self.oracle.handicap_ns_per_priority = handicap_ns

    @rule(grain=GRAINS)
    def set_grain(self, grain: int) -> None:
        self.queue.grain = self.oracle.grain = grain

    # Requests

    @rule(
        at=AT,
        group=AT,
        priority=st.sampled_from(PRIORITIES),
        compartment=st.sampled_from(COMPARTMENTS),
        rank=RANKS,
        step_ns=STEPS_NS,
        stand_back_ns=STANDS_BACK_NS,
    )
    def push(
        self,
        at: int,
        group: int,
        priority: int,
        compartment: int,
        rank: int,
        step_ns: int,
        stand_back_ns: int,
    ) -> None:
        self.now_ns += step_ns
        agent, where = self.agents[at % len(self.agents)], self.groups[group % len(self.groups)]
        at_ns = self.now_ns
        self._push(Place(where, priority, compartment, agent, rank, at_ns, stand_back_ns), -1)

    @rule(at=AT, times=st.integers(1, 3), step_ns=STEPS_NS, stand_back_ns=STANDS_BACK_NS)
    def push_to_one_class(self, at: int, times: int, step_ns: int, stand_back_ns: int) -> None:
        """Most fairness is between the agents of one class."""
        self.now_ns += step_ns
        agent = self.agents[at % len(self.agents)]
        for _ in range(times):
            self._push(Place(self.groups[0], 1, 0, agent, 0, self.now_ns, stand_back_ns), -1)

    @rule(at=AT, cost=COSTS, step_ns=STEPS_NS)
    def take(self, at: int, cost: int, step_ns: int) -> None:
        self.now_ns += step_ns
        self._take(self.entries[-1 - at % len(self.entries)], cost)

    @rule(times=st.integers(1, 3), closed=st.sampled_from([0, 0, 1, 2, 1 << 54]), cost=COSTS)
    def take_best(self, times: int, closed: int, cost: int) -> None:
        for _ in range(times):
            best = self.queue.best(self.groups[0][0], closed)
            if best is not None:
                self._take((best[2], self.twin[best[2]]), cost)

    @rule(at=AT, actual=COSTS)
    def settle(self, at: int, actual: int) -> None:
        if self.served:
            flow, charged, _, _ = self.served.pop(at % len(self.served))
            mine = self.queue.settle(flow[0], charged, actual)
            assert mine == self.oracle.settle(flow[1], charged, actual)

    @rule(at=AT, step_ns=STEPS_NS)
    def come_back(self, at: int, step_ns: int) -> None:
        """Taken, not served after all: back to its place, and the charge is given back."""
        self.now_ns += step_ns
        if self.served:
            flow, charged, head_since_ns, place = self.served.pop(at % len(self.served))
            self._push(place, head_since_ns)
            mine = self.queue.settle(flow[0], charged, 0)
            assert mine == self.oracle.settle(flow[1], charged, 0)

    @rule(at=AT, to=AT, step_ns=STEPS_NS)
    def move(self, at: int, to: int, step_ns: int) -> None:
        """Into any group, with the age that it has, and a lift."""
        self.now_ns += step_ns
        mine, theirs = self.entries[-1 - at % len(self.entries)]
        since_ns = self.queue.head_since(mine)
        assert since_ns == self.oracle.head_since(theirs)
        if self.queue.remove(mine, self.now_ns) and self.oracle.remove(theirs, self.now_ns):
            place = replace(self.places[mine], group=self.groups[to % len(self.groups)])
            self._push(place, since_ns, lift=True)

    @rule(at=AT, stand_back_ns=STANDS_BACK_NS)
    def ease(self, at: int, stand_back_ns: int) -> None:
        """It is taken for shorter; never for longer."""
        mine, theirs = self.entries[-1 - at % len(self.entries)]
        assert self.queue.ease(mine, stand_back_ns) == self.oracle.ease(theirs, stand_back_ns)
        place = self.places.get(mine)
        if place is not None:
            least_ns = min(place.stand_back_ns, stand_back_ns)
            self.places[mine] = replace(place, stand_back_ns=least_ns)

    @rule(at=AT, step_ns=STEPS_NS)
    def remove(self, at: int, step_ns: int) -> None:
        self.now_ns += step_ns
        mine, theirs = self.entries[-1 - at % len(self.entries)]
        assert self.queue.remove(mine, self.now_ns) == self.oracle.remove(theirs, self.now_ns)

    @rule(flow=st.integers(0, 2**64 - 1))
    def settle_nonsense(self, flow: int) -> None:
        if flow not in {each[0][0] for each in self.served}:
            assert not self.queue.settle(flow, 1, 1)

    @rule(cost=COSTS, limit=st.integers(-1, 6), closed=st.sampled_from(MASKS))
    def forward(self, cost: int, limit: int, closed: int) -> None:
        for groups in (self.groups, self.groups[:1]):
            for most, shut in ((limit, 0), (len(self.oracle), closed)):
                asked = cost, self.now_ns, most, shut
                mine = self.queue.forward((each[0] for each in groups), *asked)
                theirs = self.oracle.forward([each[1] for each in groups], *asked)
                assert [self.twin[each] for each in mine] == theirs

    @invariant()
    def agrees(self) -> None:
        self.queue.check()
        assert self.queue.grain == self.oracle.grain
        assert len(self.queue) == len(self.oracle)
        assert self.queue.flows() == self.oracle.flows()
        self._same_largest()
        for mine, theirs in self.agents:
            assert self.queue.backlog(mine) == self.oracle.backlog(theirs)
            assert self.twin[self.queue.worst(mine)] == self.oracle.worst(theirs)
        for group in self.groups:
            assert self.queue.size(group[0]) == self.oracle.size(group[1])
            self._same_counters(group)
            for closed in MASKS:
                self._same_best(group, closed)
                demand = self.oracle.demand(group[1], closed, self.now_ns)
                assert self.queue.demand(group[0], closed, self.now_ns) == demand

    def _push(self, place: Place, head_since_ns: int, *, lift: bool = False) -> None:
        rest = place.rank, place.arrived_ns, self.now_ns, head_since_ns, place.stand_back_ns
        where = place.priority, place.compartment
        theirs = self.oracle.push(place.group[1], *where, place.agent[1], *rest, lift=lift)
        mine = self.queue.push(place.group[0], *where, place.agent[0], *rest, lift=lift)
        assert mine not in self.twin
        self.twin[mine] = theirs
        self.places[mine] = place
        self.entries.append((mine, theirs))

    def _take(self, entry: Pair, cost: int) -> None:
        mine = self.queue.take(entry[0], cost, self.now_ns)
        theirs = self.oracle.take(entry[1], cost, self.now_ns)
        if mine is None or theirs is None:
            assert mine is theirs
            return
        assert mine[1] == theirs[1]
        self.served.append(((mine[0], theirs[0]), cost, mine[1], self.places[entry[0]]))

    def _same_counters(self, group: Pair) -> None:
        for place in product(PRIORITIES, COMPARTMENTS, self.agents):
            priority, compartment, (mine, theirs) = place
            counter = self.oracle.counter_of(group[1], priority, compartment, theirs)
            assert self.queue.counter_of(group[0], priority, compartment, mine) == counter
            waiting = self.oracle.waiting_of(group[1], priority, compartment, theirs)
            assert self.queue.waiting_of(group[0], priority, compartment, mine) == waiting
            standing = self.oracle.standing_of(group[1], priority, compartment, theirs, self.now_ns)
            where = group[0], priority, compartment, mine
            assert self.queue.standing_of(*where, self.now_ns) == standing

    def _same_best(self, group: Pair, closed: int) -> None:
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
            assert (mine[0], theirs[0]) in self.agents


FairQueueMachine.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=60,
)
TestFairQueue = FairQueueMachine.TestCase

Queues = pytest.mark.parametrize("kind", [FairQueue, Oracle])


@Queues
def test_a_forecast_takes_turns_also_where_nothing_is_charged(
    kind: type[FairQueue] | type[Oracle],
) -> None:
    queue = kind(HANDICAP_NS)
    group, first, second = queue.open_group(), queue.add_agent(1.0), queue.add_agent(1.0)
    pushed = [queue.push(group, 1, 0, agent, 0, 0, 0) for agent in [first] * 3 + [second] * 3]
    turns = [pushed.index(each) for each in queue.forward([group], 0, 0, 6)]
    assert turns == [0, 3, 1, 4, 2, 5]


@Queues
def test_who_returns_is_lifted_to_another_one_served_not_to_itself(
    kind: type[FairQueue] | type[Oracle],
) -> None:
    queue = kind(HANDICAP_NS)
    group, first, second = queue.open_group(), queue.add_agent(1.0), queue.add_agent(1.0)
    for agent, cost in ((first, 1), (second, 3)):
        assert queue.take(queue.push(group, 1, 0, agent, 0, 0, 0), cost, 0)
    queue.push(group, 1, 0, first, 0, 0, 0)
    assert queue.counter_of(group, 1, 0, first) == 4_000  # the second began at 1,000


@pytest.mark.parametrize("kind", [FairQueue, Oracle])
def test_an_old_head_that_is_not_due_gives_its_class_one_turn(
    kind: type[FairQueue] | type[Oracle],
) -> None:
    """Of two in a bad priority one owes much and its head grows old. Its age lets the other pass a
    better priority once, and not for as long as it owes."""
    queue = kind(HANDICAP_NS)
    group = queue.open_group()
    debtor, other, urgent = (queue.add_agent(1.0) for _ in range(3))
    for _ in range(2):
        queue.push(group, 5, 0, debtor, 0, 0, 0)
        queue.push(group, 5, 0, other, 0, 0, 0)
    first = queue.best(group, 0)
    assert first is not None
    assert queue.take(first[2], 10_000, 0)  # the debtor's, as the older
    now_ns, turns = 100 * HANDICAP_NS, []
    queue.push(group, 1, 0, urgent, 0, now_ns, now_ns)
    for _ in range(2):
        best = queue.best(group, 0)
        assert best is not None
        turns.append(best[1])
        queue.take(best[2], 1, now_ns)
        queue.push(group, 5, 0, other, 0, now_ns, now_ns)
    assert turns == [5, 5]  # the claims of both heads that had grown old
    best = queue.best(group, 0)
    assert best is not None
    assert best[1] == 1


@pytest.mark.parametrize("kind", [FairQueue, Oracle])
def test_a_weight_that_changes_in_flight_gives_nothing_away(
    kind: type[FairQueue] | type[Oracle],
) -> None:
    queue = kind(HANDICAP_NS)
    group, agent, other = queue.open_group(), queue.add_agent(100.0), queue.add_agent(1.0)
    queue.push(group, 1, 0, other, 0, 0, 0)
    taken = queue.take(queue.push(group, 1, 0, agent, 0, 0, 0), 1_000, 0)
    assert taken is not None
    assert queue.set_weight(agent, 10.0)
    assert queue.settle(taken[0], 1_000, 50)
    queue.push(group, 1, 0, agent, 0, 0, 0)
    assert queue.counter_of(group, 1, 0, agent) == 5_000  # 50 by the weight of today
