"""How far apart two flows of equal weight can be, and what the queue bears."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from itertools import combinations
from random import Random

import pytest

from _sched.queue import FairQueue

COST_MAX = 100


@dataclass
class Servers:
    """One class, `slots` servers. The first two agents begin together and never run dry. What they
    send stands back for its size by anything up to `stands_back_ns` of its agent."""

    slots: int
    grain: int = 0
    chance: Random = field(default_factory=lambda: Random(0))
    stands_back_ns: tuple[int, int, int, int] = (0, 0, 0, 0)
    now_ns: int = 0
    running: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = FairQueue(0, grain=self.grain)
        self.group = self.queue.open_group()
        self.agents = [self.queue.add_agent(1.0) for _ in range(4)]
        self.agent_of: dict[int, int] = {}
        self.dispatched = [0] * 4  # what was begun, at its true cost
        self.served = [0] * 4  # what is over

    def push(self, agent: int) -> None:
        self.now_ns += 1
        back_ns = self.chance.choice([0, self.stands_back_ns[agent]])
        now_ns = self.now_ns
        handle = self.queue.push(
            self.group, 1, 0, self.agents[agent], 0, now_ns, now_ns, stand_back_ns=back_ns
        )
        self.agent_of[handle] = agent

    def top_up(self) -> None:
        for agent in (0, 1):
            while self.queue.backlog(self.agents[agent]) < 2:
                self.push(agent)

    def start(self, actual: int, charged: int) -> None:
        best = self.queue.best(self.group, 0)
        if best is not None and len(self.running) < self.slots:
            agent = self.agent_of.pop(best[2])
            taken = self.queue.take(best[2], charged, self.now_ns)
            assert taken is not None
            self.running.append((taken[0], agent, charged, actual))
            self.dispatched[agent] += actual

    def end(self, at: int) -> None:
        if self.running:
            flow, agent, charged, actual = self.running.pop(at % len(self.running))
            assert self.queue.settle(flow, charged, actual)
            self.served[agent] += actual


# Where only equals count as served alike, a few more, and all that the largest charge lets.
GRAINS = (0, 7, 10**6)


def width(grain: int, slots: int) -> int:
    """How far above the least a counter can be at most and count as alike: less than the largest
    request, or than as many of them as the promise leaves while every agent has one in flight."""
    return max(0, min(grain, max(1, slots - 2) * COST_MAX) - 1)


def someone_stands_back(chance: Random) -> tuple[int, int, int, int]:
    """One agent's requests are short, another's long, or both are mixed."""
    return (*chance.choice([(0, 0), (0, 10**6), (10**6, 0), (30, 30)]), 30, 10**6)


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize("error_max", [0, 10, COST_MAX])
@pytest.mark.parametrize("grain", GRAINS)
def test_two_flows_that_stay_backlogged_stay_close(slots: int, error_max: int, grain: int) -> None:
    """What is served differs by less than (slots + 1) of the largest requests, however wrong the
    estimates are, and whatever the sizes; what is begun, over any stretch of time, by at most twice
    the largest, the width and the errors of those that run beside it."""
    for seed in range(40):
        chance = Random(seed)
        servers = Servers(slots, grain, chance, someone_stands_back(chance))
        leads = []
        servers.top_up()
        for _ in range(150):
            for _ in range(chance.choice([0, 0, 0, 1, 4])):
                servers.push(chance.choice([2, 3]))
            for _ in range(slots):
                servers.top_up()
                actual = chance.choice([0, COST_MAX, chance.randint(0, COST_MAX)])
                error = chance.choice([-error_max, error_max, chance.randint(0, error_max)])
                servers.start(actual, max(0, min(COST_MAX, actual + error)))
                leads.append(servers.dispatched[0] - servers.dispatched[1])
            for _ in range(chance.choice([0, 1, 1, 2, 5])):
                servers.end(chance.choice([-1, -1, chance.randrange(slots)]))
                apart = abs(servers.served[0] - servers.served[1])
                assert apart < (slots + 1) * COST_MAX, seed
                assert apart <= slots * COST_MAX + width(grain, 1), seed
        bound = COST_MAX + (slots - 1) * error_max + width(grain, slots)
        assert max(leads) - min(leads) <= 2 * bound, seed


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("error_max", [0, 10, COST_MAX])
@pytest.mark.parametrize("grain", GRAINS)
def test_flows_that_come_and_go_stay_close_while_both_wait(
    slots: int, error_max: int, grain: int
) -> None:
    """The same of any two, from whenever both wait until one of them does not: a lift puts who
    comes where the others are."""
    bound = 2 * (COST_MAX + (slots - 1) * error_max + width(grain, slots))
    for seed in range(60):
        chance = Random(seed)
        servers = Servers(slots, grain, chance, someone_stands_back(chance))
        leads: dict[tuple[int, int], list[int]] = {}
        for _ in range(200):
            for _ in range(chance.choice([0, 0, 1, 2, 6])):
                servers.push(chance.choice([0, 0, 1, 2, 3]))
            _note_leads(servers, leads)
            actual = chance.choice([0, COST_MAX, chance.randint(0, COST_MAX)])
            error = chance.choice([-error_max, error_max, chance.randint(0, error_max)])
            servers.start(actual, max(0, min(COST_MAX, actual + error)))
            _note_leads(servers, leads)
            for _ in range(chance.choice([0, 1, 1, 2])):
                servers.end(chance.choice([-1, chance.randrange(slots)]))
            assert all(max(each) - min(each) <= bound for each in leads.values()), seed


@pytest.mark.parametrize("back_ns", [0, 1, 50, 1_000])
def test_of_those_served_alike_nobody_passes_who_comes_later_than_sizes_allow(back_ns: int) -> None:
    """A head that stands back by so much is passed by others that became heads before that, and by
    none after it, whatever their sizes."""
    for seed in range(20):
        chance = Random(seed)
        queue = FairQueue(0, grain=10**6)
        group = queue.open_group()
        first = queue.take(queue.push(group, 1, 0, queue.add_agent(1.0), 0, 0, 0), 10**6, 0)
        assert first is not None  # from now on all that follow count as alike
        since = {}
        patient = queue.push(group, 1, 0, queue.add_agent(1.0), 0, 0, 0, stand_back_ns=back_ns)
        for _ in range(200):
            now_ns = chance.randrange(back_ns * 2 + 10)
            entry = queue.push(
                group,
                1,
                0,
                queue.add_agent(1.0),
                0,
                now_ns,
                now_ns,
                stand_back_ns=chance.choice([0, 0, chance.randrange(100)]),
            )
            since[entry] = now_ns
        passed = []
        while (best := queue.best(group, 0)) is not None and best[2] != patient:
            passed.append(since[best[2]])
            assert queue.take(best[2], chance.randrange(3), back_ns * 3)
        assert all(each <= back_ns for each in passed)
        assert passed or back_ns < 50
        assert queue.settle(first[0], 10**6, 0)


def _note_leads(servers: Servers, leads: dict[tuple[int, int], list[int]]) -> None:
    waits = [servers.queue.backlog(agent) > 0 for agent in servers.agents]
    for one, other in combinations(range(4), 2):
        if waits[one] and waits[other]:
            lead = servers.dispatched[one] - servers.dispatched[other]
            leads.setdefault((one, other), []).append(lead)
        else:
            leads.pop((one, other), None)


def test_a_long_request_in_flight_holds_no_newcomer_back_in_time() -> None:
    """Others were served beside it meanwhile: who comes begins where they are, not where it is."""
    servers = Servers(2)
    servers.push(0)
    servers.start(1, 1)  # runs for long
    for _ in range(10):
        servers.push(1)
        servers.start(COST_MAX, COST_MAX)
        servers.end(-1)
    for _ in range(20):
        servers.push(2)
    servers.push(1)
    servers.start(COST_MAX, COST_MAX)
    servers.end(-1)
    servers.start(COST_MAX, COST_MAX)
    assert servers.dispatched[1] == 11 * COST_MAX


def test_a_hundred_thousand_come_out_in_order() -> None:
    queue = FairQueue(0)
    group, agent = queue.open_group(), queue.add_agent(1.0)
    handles = {queue.push(group, 1, 0, agent, at * 7919 % 100_003, 0, 0): at for at in range(10**5)}
    forecast = queue.forward([group], 1, 0, 10**5)
    order = []
    while (best := queue.best(group, 0)) is not None:
        order.append(best[2])
        taken = queue.take(best[2], 1, 0)
        assert taken is not None
        assert queue.settle(taken[0], 1, 1)
    assert order == forecast
    assert order == sorted(handles, key=lambda each: handles[each] * 7919 % 100_003)
    assert len(queue) == queue.flows() == 0
    assert queue.close_group(group)
    assert queue.remove_agent(agent)


@pytest.mark.slow
def test_a_million_requests_leave_no_memory_behind() -> None:
    queue = FairQueue(0)
    group = queue.open_group()
    agents = [queue.add_agent(1.0) for _ in range(10)]

    def serve(times: int) -> None:
        for at in range(times):
            queue.push(group, 1 + at % 3, 0, agents[at % 10], at, at, at)
            best = queue.best(group, 0)
            assert best is not None
            taken = queue.take(best[2], 3, at)
            assert taken is not None
            queue.settle(taken[0], 3, 4)

    serve(1_000)
    held, blocks = sys.getsizeof(queue), sys.getallocatedblocks()
    serve(1_000_000)
    assert sys.getsizeof(queue) == held
    assert abs(sys.getallocatedblocks() - blocks) < 100
    queue.check()


def test_ten_thousand_agents_come_and_go() -> None:
    queue = FairQueue(0)
    group = queue.open_group()
    held = []
    for _ in range(3):
        agents = [queue.add_agent(1.0) for _ in range(10_000)]
        for agent in agents:
            queue.push(group, 1, 0, agent, 0, 0, 0)
        for agent in agents:
            assert not queue.remove_agent(agent)
            assert queue.remove(queue.worst(agent), 0)
            assert queue.remove_agent(agent)
        assert queue.largest_backlog() is None
        assert len(queue) == queue.flows() == 0
        held.append(sys.getsizeof(queue))
    assert held[0] == held[1] == held[2]
    assert queue.close_group(group)


def test_a_waiting_request_takes_a_hundred_bytes() -> None:
    queue = FairQueue(0)
    group, agent = queue.open_group(), queue.add_agent(1.0)
    for at in range(100_000):
        queue.push(group, 1, 0, agent, at, at, at)
    assert sys.getsizeof(queue) <= 100_000 * 100


@pytest.fixture
def busy() -> tuple[FairQueue, int, int, int]:
    """A queue with something waiting and something in flight: (queue, group, agent, flow)."""
    queue = FairQueue(100)
    group, agent = queue.open_group(), queue.add_agent(1.0)
    for rank in range(5):
        queue.push(group, 2, 1, agent, rank, 0, 0)
    taken = queue.take(queue.worst(agent), 3, 0)
    assert taken is not None
    return queue, group, agent, taken[0]


Busy = tuple[FairQueue, int, int, int]


def test_what_is_out_of_range_changes_nothing(busy: Busy) -> None:
    queue, group, agent, flow = busy
    head = queue.worst(agent)
    for priority, compartment in [(0, 0), (256, 0), (-1, 0), (1, -1), (1, 63), (2**70, 0)]:
        with pytest.raises((ValueError, OverflowError)):
            queue.push(group, priority, compartment, agent, 0, 0, 0)
    for now_ns in (-1, 2**62 + 1, 2**64):
        with pytest.raises((ValueError, OverflowError)):
            queue.push(group, 1, 0, agent, 0, 0, now_ns)
        with pytest.raises((ValueError, OverflowError)):
            queue.take(head, 1, now_ns)
        with pytest.raises((ValueError, OverflowError)):
            queue.remove(head, now_ns)
        with pytest.raises((ValueError, OverflowError)):
            queue.forward([group], 1, now_ns, 1)
    for cost in (-1, 2**40 + 1, 2**64):
        with pytest.raises((ValueError, OverflowError)):
            queue.take(head, cost, 0)
        with pytest.raises((ValueError, OverflowError)):
            queue.settle(flow, cost, 1)
        with pytest.raises((ValueError, OverflowError)):
            queue.forward([group], cost, 0, 1)
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError):
            queue.add_agent(weight)
        with pytest.raises(ValueError):
            queue.set_weight(agent, weight)
    for handicap_ns in (-1, 2**54 + 1):
        with pytest.raises(ValueError):
            queue.handicap_ns_per_priority = handicap_ns
        with pytest.raises(ValueError):
            FairQueue(handicap_ns)
    _is_whole(busy)


def test_what_is_unknown_changes_nothing(busy: Busy) -> None:
    queue, group, agent, flow = busy
    for handle in (0, 1, flow ^ (1 << 40), 2**64 - 1):
        with pytest.raises(KeyError):
            queue.push(handle, 1, 0, agent, 0, 0, 0)
        with pytest.raises(KeyError):
            queue.push(group, 1, 0, handle, 0, 0, 0)
        with pytest.raises(KeyError):
            queue.forward([group, handle], 1, 0, 1)
        assert queue.take(handle, 1, 0) is None
        assert not queue.settle(handle, 1, 1)
        assert not queue.remove(handle, 0)
        assert queue.counter_of(group, 2, 1, handle) is None
    _is_whole(busy)


def test_what_is_no_number_changes_nothing(busy: Busy) -> None:
    queue, group, agent, _ = busy
    with pytest.raises(TypeError):
        queue.push(group, 1, 0, agent, "first", 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        queue.take(None, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        queue.forward([group, None], 1, 0, 1)  # type: ignore[list-item]
    _is_whole(busy)


def test_a_caller_that_raises_or_calls_back_finds_the_queue_whole(busy: Busy) -> None:
    queue, group, agent, _ = busy

    def groups() -> object:
        yield group
        assert queue.remove(queue.worst(agent), 0)
        assert queue.push(group, 2, 1, agent, 0, 0, 0)
        raise LookupError

    with pytest.raises(LookupError):
        queue.forward(groups(), 1, 0, 9)  # type: ignore[arg-type]
    _is_whole(busy)


def test_memory_that_runs_out_loses_nothing(busy: Busy) -> None:
    """The n-th allocation fails, for every n, while the queue has to grow."""
    testcapi = pytest.importorskip("_testcapi")
    queue, group, agent, _ = busy
    failures = 0
    for at in range(200):
        before = len(queue)
        testcapi.set_nomemory(at % 4, at % 4 + 1)
        try:
            queue.push(group, 2, 1, agent, at, 0, 0)
            pushed = 1
        except MemoryError:
            pushed = 0
        finally:
            testcapi.remove_mem_hooks()
        failures += 1 - pushed
        assert len(queue) == before + pushed
        queue.check()
    assert 0 < failures < 200


def _is_whole(busy: Busy) -> None:
    queue, group, agent, flow = busy
    queue.check()
    assert len(queue) == queue.size(group) == queue.backlog(agent) == 4
    assert len(queue.forward([group], 1, 0, 9)) == 4
    assert queue.flows() == 1
    assert queue.counter_of(group, 2, 1, agent) == 3_000
    assert queue.settle(flow, 3, 3)
