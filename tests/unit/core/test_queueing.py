"""The order within a line: handicaps, turns, heads, places kept. Line by line, without an engine;
as clients see it: test_fair_share.py."""

from __future__ import annotations

from typing import Any

import pytest

from _sched.queue import FairQueue
from broker.core.bulkheads import Bulkheads
from broker.core.queueing import Line, QueuePolicy

STEP_NS = 1000  # the handicap per priority in these tests
COST = 10  # of every request


class Waiting:
    """A line that is filled by words such as "a1" (agent a, first request) at priority 5."""

    def __init__(self, bulkheads: Bulkheads | None = None) -> None:
        self.queue = FairQueue(STEP_NS)
        self.bulkheads = bulkheads or Bulkheads({})
        self.line = Line(("runner", 0), self.queue, self.bulkheads)
        self._agents: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._entries: dict[str, int] = {}
        self._priority_of: dict[str, int] = {}
        self._queued_ns: dict[str, int] = {}
        self._ranks: dict[str, int] = {}
        self._flows: dict[str, int] = {}

    def agent(self, name: str) -> int:
        if name not in self._agents:
            self._agents[name] = self.queue.add_agent(1.0)
        return self._agents[name]

    def push(self, names: str, *, at_ns: int, priority: int = 5, compartment: int = 0) -> None:
        for name in names.split():
            self._priority_of[name], self._queued_ns[name] = priority, at_ns
            self._ranks[name] = len(self._ranks)
            self._push(name, at_ns, compartment, -1)

    def come_back(self, name: str, *, at_ns: int, head_since_ns: int) -> None:
        """Its attempt came to nothing, and cost nothing."""
        self._push(name, at_ns, 0, head_since_ns)
        assert self.queue.settle(self._flows.pop(name), COST, 0)

    def _push(self, name: str, at_ns: int, compartment: int, head_since_ns: int) -> None:
        entry = self.queue.push(
            self.line.group,
            self._priority_of[name],
            compartment,
            self.agent(name[0]),
            self._ranks[name],
            self._queued_ns[name],
            at_ns,
            head_since_ns,
        )
        self._names[entry], self._entries[name] = name, entry

    def remove(self, name: str, *, at_ns: int) -> None:
        assert self.queue.remove(self._entries[name], at_ns)

    def best(self) -> tuple[int, int, str] | None:
        found = self.line.best()
        return None if found is None else (found[0], found[1], self._names[found[2]])

    def take(self, *, at_ns: int) -> tuple[str, int]:
        """The next request, and since when it was its agent's head."""
        best = self.line.best()
        assert best is not None
        taken = self.queue.take(best[2], COST, at_ns)
        assert taken is not None
        name = self._names[best[2]]
        self._flows[name] = taken[0]
        return name, taken[1]

    def order(self, *, at_ns: int) -> str:
        """Takes everything."""
        return " ".join(self.take(at_ns=at_ns)[0] for _ in range(self.line.size))

    def forward(self, *, at_ns: int) -> str:
        entries = self.queue.forward([self.line.group], COST, at_ns, 1000)
        return " ".join(self._names[each] for each in entries)


def test_an_empty_line_has_no_next() -> None:
    assert Waiting().best() is None


def test_one_agent_is_served_first_come_first_served() -> None:
    waiting = Waiting()
    waiting.push("a1 a2 a3", at_ns=0)
    assert waiting.order(at_ns=10) == "a1 a2 a3"


def test_agents_of_one_priority_take_turns_whatever_they_pile_up() -> None:
    waiting = Waiting()
    waiting.push("a1 a2 a3 a4", at_ns=0)
    waiting.push("b1 b2", at_ns=1)
    waiting.push("c1", at_ns=2)
    assert waiting.order(at_ns=10) == "a1 b1 c1 a2 b2 a3 a4"


def test_an_agent_that_was_served_goes_behind_those_that_were_not() -> None:
    waiting = Waiting()
    waiting.push("a1 a2", at_ns=0)
    assert waiting.take(at_ns=1)[0] == "a1"
    waiting.push("b1", at_ns=2)  # lifted to a's counter, and not served before
    waiting.push("c1", at_ns=3)
    assert waiting.order(at_ns=3) == "b1 c1 a2"


def test_a_better_priority_goes_first_among_those_of_one_moment() -> None:
    waiting = Waiting()
    waiting.push("a1", at_ns=0, priority=6)
    waiting.push("b1", at_ns=0, priority=5)
    assert waiting.order(at_ns=1) == "b1 a1"


@pytest.mark.parametrize(
    ("arrival_ns", "order"),
    [
        (STEP_NS - 1, "b1 a1"),  # within one step of handicap: the better priority first
        (STEP_NS, "b1 a1"),  # equal keys: the better priority first
        (STEP_NS + 1, "a1 b1"),  # it has aged into its turn
    ],
)
def test_a_lower_priority_ages_into_its_turn(arrival_ns: int, order: str) -> None:
    waiting = Waiting()
    waiting.push("a1", at_ns=0, priority=6)
    waiting.push("b1", at_ns=arrival_ns, priority=5)
    assert waiting.order(at_ns=arrival_ns) == order


@pytest.mark.parametrize("priority", [1, 2, 10])
def test_the_handicap_grows_with_each_step_from_the_highest_priority(priority: int) -> None:
    waiting = Waiting()
    waiting.push("a1", at_ns=7, priority=priority)
    assert waiting.best() == (7 + (priority - 1) * STEP_NS, priority, "a1")


def test_the_tail_of_a_flood_does_not_age() -> None:
    """All hundred are old, but only the head counts its time: a newcomer of better priority
    passes each of them once it is head."""
    waiting = Waiting()
    waiting.push(" ".join(f"a{number}" for number in range(100)), at_ns=0, priority=6)
    late_ns = 50 * STEP_NS
    waiting.push("b1 b2", at_ns=late_ns, priority=5)
    order = [waiting.take(at_ns=late_ns)[0] for _ in range(4)]
    assert order == ["a0", "b1", "b2", "a1"]


def test_what_becomes_head_by_a_removal_counts_from_then() -> None:
    waiting = Waiting()
    waiting.push("a1 a2", at_ns=0)
    waiting.remove("a1", at_ns=70)
    assert waiting.take(at_ns=90) == ("a2", 70)


def test_what_leaves_from_the_middle_changes_nothing_for_the_others() -> None:
    waiting = Waiting()
    waiting.push("a1 a2 a3", at_ns=0)
    waiting.push("b1", at_ns=5)
    waiting.remove("a2", at_ns=70)
    assert waiting.take(at_ns=90) == ("a1", 0)
    assert waiting.order(at_ns=90) == "b1 a3"


def test_an_agent_keeps_its_turn_when_its_head_is_withdrawn() -> None:
    waiting = Waiting()
    waiting.push("a1 a2", at_ns=0)
    waiting.push("b1", at_ns=1)
    waiting.remove("a1", at_ns=2)
    assert waiting.order(at_ns=3) == "a2 b1"


def test_an_agent_that_left_altogether_comes_back_as_the_last() -> None:
    waiting = Waiting()
    waiting.push("a1", at_ns=0)
    waiting.push("b1", at_ns=1)
    waiting.remove("a1", at_ns=2)
    waiting.push("a2", at_ns=3)
    assert waiting.order(at_ns=4) == "b1 a2"


def test_what_comes_back_has_its_old_place_and_its_old_key() -> None:
    waiting = Waiting()
    waiting.push("a1 a2", at_ns=0)
    waiting.push("c1", at_ns=1, priority=6)
    name, head_since_ns = waiting.take(at_ns=2)
    assert (name, head_since_ns) == ("a1", 0)
    waiting.come_back("a1", at_ns=50, head_since_ns=head_since_ns)
    assert waiting.best() == (4 * STEP_NS, 5, "a1")
    assert waiting.order(at_ns=60) == "a1 a2 c1"


def test_several_that_come_back_stand_in_the_order_in_which_they_had_come() -> None:
    """When a backend falls away its running requests come back one after the other."""
    waiting = Waiting()
    for moment, name in enumerate(["a1", "a2", "a3", "a4"]):
        waiting.push(name, at_ns=moment)
    since = dict(waiting.take(at_ns=10) for _ in range(3))
    for name in ("a2", "a1", "a3"):
        waiting.come_back(name, at_ns=20, head_since_ns=since[name])
    assert waiting.order(at_ns=30) == "a1 a2 a3 a4"


def test_coming_back_to_the_tail_of_a_flood_does_not_make_it_age() -> None:
    """a2 had been head since 100 only, though it waited from 0: that is its key for ever."""
    waiting = Waiting()
    waiting.push("a1 a2", at_ns=0, priority=6)
    waiting.take(at_ns=100)
    name, head_since_ns = waiting.take(at_ns=110)
    assert (name, head_since_ns) == ("a2", 100)
    waiting.come_back("a2", at_ns=120, head_since_ns=head_since_ns)
    waiting.push("b1", at_ns=100 + STEP_NS, priority=5)
    waiting.push("c1", at_ns=100 + STEP_NS + 1, priority=5)
    assert waiting.order(at_ns=3 * STEP_NS) == "b1 a2 c1"


def test_the_waits_of_all_are_added_up() -> None:
    waiting = Waiting()
    waiting.push("a1", at_ns=10)
    waiting.push("b1", at_ns=30)
    assert waiting.line.demand(100) == (2, 160)
    waiting.remove("a1", at_ns=100)
    assert waiting.line.demand(100) == (1, 70)


def test_who_may_not_run_waits_and_wants_nothing() -> None:
    """Of a paused agent, or of a compartment that is full."""
    bulkheads = Bulkheads({"batch": 1})
    waiting = Waiting(bulkheads)
    waiting.push("a1", at_ns=10)
    waiting.push("b1", at_ns=20, compartment=bulkheads.bit("batch"))
    waiting.push("c1", at_ns=30)
    bulkheads.run(bulkheads.bit("batch"), 1)
    waiting.queue.pause(waiting.agent("a"), True)
    assert waiting.line.size == 3
    assert waiting.line.demand(100) == (1, 70)
    assert waiting.forward(at_ns=100).split()[0] in ("b1", "c1")
    best = waiting.best()
    assert best is not None
    assert best[2] == "c1"


def test_what_is_played_forward_is_the_order_of_taking_if_time_stands_still() -> None:
    waiting = Waiting()
    waiting.push("a1 a2 a3", at_ns=0, priority=7)
    waiting.push("b1 b2", at_ns=STEP_NS // 2, priority=6)
    waiting.push("c1 c2 a9", at_ns=STEP_NS, priority=5)
    now_ns = 4 * STEP_NS
    told = waiting.forward(at_ns=now_ns)
    assert told == waiting.order(at_ns=now_ns)
    assert len(told.split()) == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"queued_max": 0},
        {"queued_max": 10, "live_max": 9},
        {"queued_per_agent_max": 0},
        {"room_max": -1},
        {"room_wait_ns": 0},
        {"handicap_ns_per_priority": -1},
        {"size_handicap": -0.1},
        {"fairness_grain": -1},
        {"announce_interval_ns": 0},
        {"slow_down_share": 0.0},
        {"slow_down_share": 1.1},
        {"deadline_margin": 0.9},
        {"prompt_token_cost": -1},
        {"output_token_cost": -1},
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        QueuePolicy(**wrong)
