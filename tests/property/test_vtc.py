"""The virtual token counters at native speed do what their oracle does, in whatever order."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from _sched.reference_vtc import VirtualTokenCounters as Oracle
from _sched.vtc import VirtualTokenCounters

Pair = tuple[int, int]

COSTS = st.one_of(st.integers(0, 5), st.integers(0, 2**40))
GRAINS = st.sampled_from([0, 0, 1, 3, 2**40])
STANDS_NS = st.integers(0, 3)
WEIGHTS = st.one_of(st.sampled_from([1.0, 0.5, 3.0, 1e-300]), st.floats(0.01, 100.0))


class VtcMachine(RuleBasedStateMachine):
    """Every handle is a pair: the counters' and the oracle's. Old pairs stay, to be tried again."""

    classes: Bundle[Pair] = Bundle("classes")
    flows: Bundle[Pair] = Bundle("flows")

    @initialize(target=classes, parked_max=st.sampled_from([0, 1, 2, 1024]), grain=GRAINS)
    def start(self, parked_max: int, grain: int) -> Pair:
        self.counters = VirtualTokenCounters(parked_max, grain)
        self.oracle = Oracle(parked_max, grain)
        self.open_classes: list[Pair] = []
        self.all_flows: list[Pair] = []
        self.twin = {0: 0}
        return self.open_class()

    @rule(target=classes)
    def another_class(self) -> Pair:
        return self.open_class()

    def open_class(self) -> Pair:
        pair = self.counters.open_class(), self.oracle.open_class()
        self.open_classes.append(pair)
        return pair

    @rule(of=classes)
    def close_class(self, of: Pair) -> None:
        closed = self.oracle.close_class(of[1])
        assert self.counters.close_class(of[0]) == closed
        if closed:
            self.open_classes.remove(of)

    @rule(target=flows, of=classes, weight=WEIGHTS)
    def add_flow(self, of: Pair, weight: float) -> Pair:
        if of not in self.open_classes:
            with pytest.raises(KeyError):
                self.counters.add_flow(of[0], weight)
            return 0, 0
        pair = self.counters.add_flow(of[0], weight), self.oracle.add_flow(of[1], weight)
        assert pair[0] not in self.twin
        self.twin[pair[0]] = pair[1]
        self.all_flows.append(pair)
        return pair

    @rule(flow=flows)
    def remove_flow(self, flow: Pair) -> None:
        assert self.counters.remove_flow(flow[0]) == self.oracle.remove_flow(flow[1])

    @rule(flow=flows, weight=WEIGHTS)
    def set_weight(self, flow: Pair, weight: float) -> None:
        mine = self.counters.set_weight(flow[0], weight)
        assert mine == self.oracle.set_weight(flow[1], weight)

    @rule(grain=GRAINS)
    def set_grain(self, grain: int) -> None:
        self.counters.grain = self.oracle.grain = grain

    @rule(flow=flows, lift=st.booleans(), stand_ns=STANDS_NS)
    def activate(self, flow: Pair, lift: bool, stand_ns: int) -> None:
        mine = self.counters.activate(flow[0], lift, stand_ns)
        assert mine == self.oracle.activate(flow[1], lift, stand_ns)

    @rule(flow=flows, stand_ns=STANDS_NS)
    def restand(self, flow: Pair, stand_ns: int) -> None:
        mine = self.counters.restand(flow[0], stand_ns)
        assert mine == self.oracle.restand(flow[1], stand_ns)

    @rule(flow=flows)
    def deactivate(self, flow: Pair) -> None:
        assert self.counters.deactivate(flow[0]) == self.oracle.deactivate(flow[1])

    @rule(flow=flows, cost=COSTS)
    def charge(self, flow: Pair, cost: int) -> None:
        assert self.counters.charge(flow[0], cost) == self.oracle.charge(flow[1], cost)

    @rule(flow=flows, charged=COSTS, actual=COSTS)
    def settle(self, flow: Pair, charged: int, actual: int) -> None:
        mine = self.counters.settle(flow[0], charged, actual)
        assert mine == self.oracle.settle(flow[1], charged, actual)

    @rule(flow=flows)
    def park(self, flow: Pair) -> None:
        assert self.counters.park(flow[0]) == self.oracle.park(flow[1])

    @rule()
    def pop_spent(self) -> None:
        for mine, theirs in self.open_classes:
            assert self.twin[self.counters.pop_spent(mine)] == self.oracle.pop_spent(theirs)

    @invariant()
    def agrees(self) -> None:
        self.counters.check()
        assert self.counters.grain == self.oracle.grain
        assert len(self.counters) == len(self.oracle)
        for mine, theirs in self.open_classes:
            assert self.twin[self.counters.least(mine)] == self.oracle.least(theirs)
            assert self.counters.floor_of(mine) == self.oracle.floor_of(theirs)
        for mine, theirs in self.all_flows:
            assert self.counters.counter_of(mine) == self.oracle.counter_of(theirs)


VtcMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
)
TestVtc = VtcMachine.TestCase


def test_who_was_served_least_for_its_weight_is_next() -> None:
    """Served one after another at equal cost, a flow of twice the weight has twice the turns."""
    counters = VirtualTokenCounters()
    of = counters.open_class()
    light, heavy = counters.add_flow(of, 1.0), counters.add_flow(of, 2.0)
    assert counters.activate(light)
    assert counters.activate(heavy)
    turns = []
    for _ in range(30):
        turns.append(counters.least(of))
        assert counters.charge(turns[-1], 10)
        assert counters.settle(turns[-1], 10, 10)
    assert turns.count(heavy) == 20
    assert turns.count(light) == 10


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    counters = VirtualTokenCounters()
    of = counters.open_class()
    flow = counters.add_flow(of, 1.0)
    with pytest.raises(ValueError):
        counters.add_flow(of, weight)
    with pytest.raises(ValueError):
        counters.set_weight(flow, weight)
    assert len(counters) == 1


@pytest.mark.parametrize("cost", [-1, 2**40 + 1, 2**64])
def test_a_cost_out_of_range_is_refused(cost: int) -> None:
    counters = VirtualTokenCounters()
    flow = counters.add_flow(counters.open_class(), 1.0)
    with pytest.raises((ValueError, OverflowError)):
        counters.charge(flow, cost)
    assert counters.charge(flow, 1)
    with pytest.raises((ValueError, OverflowError)):
        counters.settle(flow, 1, cost)
    assert counters.counter_of(flow) == 1000


@pytest.mark.parametrize("grain", [-1, 2**40 + 1])
def test_a_grain_out_of_range_is_refused(grain: int) -> None:
    counters = VirtualTokenCounters()
    with pytest.raises(ValueError):
        counters.grain = grain
    with pytest.raises(ValueError):
        VirtualTokenCounters(1, grain)
    assert counters.grain == 0


def test_a_counter_stops_before_it_overflows() -> None:
    counters = VirtualTokenCounters()
    flow = counters.add_flow(counters.open_class(), 5e-324)
    for _ in range(9):
        assert counters.charge(flow, 2**40)
    assert counters.counter_of(flow) == 2**62
