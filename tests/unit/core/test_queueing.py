"""The order within a line: handicaps, turns, heads, places kept, and the positions told of it."""

from __future__ import annotations

import pytest

from broker.core.errors import InvariantBroken
from broker.core.queueing import Line, QueuePolicy, positions

STEP_NS = 1000  # the handicap per priority in these tests
POLICY = QueuePolicy(handicap_ns_per_priority=STEP_NS)


class Waiting:
    """A line that is filled by words such as "a1" (agent a, first request) at priority 5."""

    def __init__(self, policy: QueuePolicy = POLICY) -> None:
        self.line = Line(policy)
        self.priority_of: dict[str, int] = {}
        self.queued_ns: dict[str, int] = {}

    def push(self, names: str, *, at_ns: int, priority: int = 5) -> None:
        for name in names.split():
            self.priority_of[name], self.queued_ns[name] = priority, at_ns
            self.line.push((name[0], name), priority, at_ns, at_ns)
            self.line.check()

    def come_back(self, name: str, *, at_ns: int, head_since_ns: int) -> None:
        self.line.push(
            (name[0], name),
            self.priority_of[name],
            self.queued_ns[name],
            at_ns,
            head_since_ns=head_since_ns,
        )
        self.line.check()

    def remove(self, name: str, *, at_ns: int) -> None:
        self.line.remove((name[0], name), self.priority_of[name], at_ns)
        self.line.check()

    def take(self, *, at_ns: int) -> tuple[str, int]:
        """The next request, and since when it was its agent's head."""
        best = self.line.best()
        assert best is not None
        _, priority, key = best
        head_since_ns = self.line.take(key, priority, at_ns)
        self.line.check()
        return key[1], head_since_ns

    def order(self, *, at_ns: int) -> str:
        """Takes everything."""
        return " ".join(self.take(at_ns=at_ns)[0] for _ in range(self.line.size))


def test_an_empty_line_has_no_next() -> None:
    assert Line(POLICY).best() is None


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
    waiting.push("b1", at_ns=2)
    assert waiting.order(at_ns=3) == "a2 b1"  # b came behind a's new turn


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


def test_the_handicap_grows_with_each_step_from_the_highest_priority() -> None:
    assert [POLICY.handicap_ns(priority) for priority in (1, 2, 10)] == [0, STEP_NS, 9 * STEP_NS]


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
    waiting.push("b1", at_ns=1)
    name, head_since_ns = waiting.take(at_ns=2)
    assert (name, head_since_ns) == ("a1", 0)
    waiting.come_back("a1", at_ns=50, head_since_ns=head_since_ns)
    best = waiting.line.best()
    assert best == (4 * STEP_NS, 5, ("a", "a1"))
    assert waiting.order(at_ns=60) == "a1 b1 a2"


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
    assert waiting.line.waited_ns(100) == 160
    waiting.remove("a1", at_ns=100)
    assert waiting.line.waited_ns(100) == 70


def test_every_request_that_waits_is_named_once() -> None:
    waiting = Waiting()
    waiting.push("a1 a2 b1", at_ns=0)
    waiting.push("a3", at_ns=0, priority=1)
    everybody = list(waiting.line.requests())
    assert sorted(key[1] for key in everybody) == ["a1", "a2", "a3", "b1"]


@pytest.mark.parametrize("priority", [0, 11])
def test_a_priority_that_does_not_exist_is_a_bug_by_now(priority: int) -> None:
    with pytest.raises(InvariantBroken, match="reached the queue"):
        Line(POLICY).push(("a", "a1"), priority, 0, 0)


def test_positions_are_the_order_of_taking_if_time_stands_still() -> None:
    waiting = Waiting()
    waiting.push("a1 a2 a3", at_ns=0, priority=7)
    waiting.push("b1 b2", at_ns=STEP_NS // 2, priority=6)
    waiting.push("c1 c2 a9", at_ns=STEP_NS, priority=5)
    now_ns = 4 * STEP_NS
    told = positions([waiting.line], now_ns)
    real = waiting.order(at_ns=now_ns).split()
    assert [key[1] for key in told] == real
    assert list(told.values()) == list(range(1, len(real) + 1))


def test_positions_over_two_lines_are_counted_through() -> None:
    """Lines of two context sizes that one runner serves."""
    usual, large = Waiting(), Waiting()
    usual.push("a1 a2", at_ns=0)
    large.push("b1", at_ns=0)
    large.push("c1", at_ns=5, priority=1)
    told = positions([usual.line, large.line], 10)
    assert {key[1]: place for key, place in told.items()} == {"c1": 1, "a1": 2, "b1": 3, "a2": 4}


@pytest.mark.parametrize(
    ("queued_max", "live_max", "handicap_ns", "interval_ns"),
    [(0, 10, 1, 1), (10, 9, 1, 1), (10, 10, -1, 1), (10, 10, 0, 0)],
)
def test_a_policy_without_sense_is_refused(
    queued_max: int, live_max: int, handicap_ns: int, interval_ns: int
) -> None:
    with pytest.raises(ValueError):
        QueuePolicy(
            queued_max=queued_max,
            live_max=live_max,
            handicap_ns_per_priority=handicap_ns,
            announce_interval_ns=interval_ns,
        )
