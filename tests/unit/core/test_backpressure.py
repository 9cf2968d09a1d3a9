"""The bounded queue: who gets a place, at whose cost, and who is told to send less."""

from __future__ import annotations

import pytest

from broker.core.backpressure import RETRY_AFTER_NS_MAX, RETRY_AFTER_NS_MIN
from broker.core.effects import Admit, Finish, TellQueued
from broker.core.errors import AgentQueueFull, Displaced, QueueFull
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import Criticality, Outcome
from broker.core.stimuli import CancelAsked, CancelCause
from tests.unit.core.gate_words import ended_with, is_let_in, refused, slowed
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    nothing_remains,
    of,
    serving,
)


def full_of(*waiting: tuple[str, str, int], queued_max: int = 0, **limits: int) -> Scene:
    """A scene whose slot is held and whose queue is full of (agent, request id, priority)."""
    queue = QueuePolicy(queued_max=queued_max or len(waiting), **limits)  # type: ignore[arg-type]
    scene = serving(model("m", slots=1), queue=queue, first_agent="holder")
    scene.turn(arrived("running", agent="holder"))
    for agent, name, priority in waiting:
        assert is_let_in(scene.turn(arrived(name, agent=agent, priority=priority)))
    return scene


FLOOD = (("a", "a1", 5), ("a", "a2", 5), ("a", "a3", 5))


# Full


def test_a_full_queue_refuses_and_says_when_a_place_is_free() -> None:
    scene = full_of(*FLOOD)
    error = refused(scene.turn(arrived("late")))
    assert isinstance(error, QueueFull)
    assert error.message == "3 requests wait, of at most 3"
    assert error.retry_after_ns == SECOND_NS  # nothing is measured yet


@pytest.mark.parametrize(
    ("gap_ns", "retry_after_ns"),
    [
        (3 * SECOND_NS, 3 * SECOND_NS),
        (1000, RETRY_AFTER_NS_MIN),
        (9 * MINUTE_NS, RETRY_AFTER_NS_MAX),
    ],
)
def test_the_retry_after_is_the_measured_gap_between_departures_within_bounds(
    gap_ns: int, retry_after_ns: int
) -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=6))
    for number in range(7):
        scene.turn(arrived(f"r{number}", deadline_ns=60 * MINUTE_NS))
    for number in range(4):
        scene.wait(gap_ns)
        scene.ends(f"r{number}")
    for number in range(4):
        scene.turn(arrived(f"s{number}", deadline_ns=60 * MINUTE_NS))
    error = refused(scene.turn(arrived("late", deadline_ns=60 * MINUTE_NS)))
    assert error.retry_after_ns == retry_after_ns


def test_a_place_that_became_free_is_given_to_the_next_that_comes() -> None:
    scene = full_of(*FLOOD)
    scene.turn(CancelAsked(("a", "a2"), CancelCause.BY_AGENT))
    assert is_let_in(scene.turn(arrived("late")))


def test_waiting_bytes_are_bounded_but_a_large_request_may_wait_alone() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_bytes_max=1000))
    scene.turn(arrived("running", size_bytes=5000))
    assert is_let_in(scene.turn(arrived("alone", size_bytes=5000)))
    error = refused(scene.turn(arrived("small", size_bytes=1)))
    assert isinstance(error, QueueFull)
    assert error.message == "waiting requests would hold 5001 bytes, of at most 1000"
    scene.ends("running")
    assert is_let_in(scene.turn(arrived("r1", size_bytes=900)))
    assert isinstance(refused(scene.turn(arrived("r2", size_bytes=101))), QueueFull)
    assert is_let_in(scene.turn(arrived("r3", size_bytes=100)))


def test_what_is_under_way_is_bounded_as_well_and_said_in_other_words() -> None:
    queue = QueuePolicy(queued_max=2, live_max=3)
    scene = serving(model("m", slots=3), queue=queue)
    for name in ("r1", "r2", "r3"):
        scene.turn(arrived(name))
    error = refused(scene.turn(arrived("r4")))
    assert isinstance(error, QueueFull)
    assert error.message == "3 requests are under way, of at most 3"
    scene.ends("r1")
    assert is_let_in(scene.turn(arrived("r4")))


# Per agent


def test_one_agent_may_have_only_so_much_waiting_whatever_place_there_is() -> None:
    scene = full_of(("a", "a1", 5), ("a", "a2", 5), queued_max=9, queued_per_agent_max=2)
    error = refused(scene.turn(arrived("a3")))
    assert isinstance(error, AgentQueueFull)
    assert error.message == "2 requests of this agent wait, of at most 2"
    assert error.retry_after_ns == SECOND_NS
    assert is_let_in(scene.turn(arrived("b1", agent="b")))


def test_what_runs_does_not_count_for_what_an_agent_may_have_waiting() -> None:
    scene = full_of(("a", "a1", 5), queued_max=9, queued_per_agent_max=1)
    scene.ends("running", agent="holder")
    assert is_let_in(scene.turn(arrived("a2")))


def test_an_agent_at_its_limit_gets_no_place_at_anothers_cost_and_none_in_the_room() -> None:
    scene = full_of(*FLOOD, ("b", "b1", 5), queued_per_agent_max=3)
    assert isinstance(refused(scene.turn(arrived("a4", priority=1))), AgentQueueFull)


def test_what_stands_in_the_waiting_room_counts_for_its_agents_limit() -> None:
    """Else they would all enter the queue together, past the limit."""
    scene = full_of(("b", "b1", 1), ("c", "c1", 1), queued_per_agent_max=2)
    for name in ("a1", "a2"):
        [word] = of(scene.turn(arrived(name, priority=1)), TellQueued)
        assert word.reason.value == "QUEUE_FULL"
    error = refused(scene.turn(arrived("a3", priority=1)))
    assert isinstance(error, AgentQueueFull)
    assert error.message == "2 requests of this agent wait, of at most 2"


def test_the_bytes_that_one_agent_has_waiting_are_bounded_wherever_they_wait() -> None:
    queue = QueuePolicy(queued_max=2, queued_bytes_per_agent_max=1000, queued_per_agent_max=9)
    scene = serving(model("m"), queue=queue, first_agent="holder")
    scene.turn(arrived("running", agent="holder"))
    scene.turn(arrived("b1", agent="b", priority=1))
    scene.turn(arrived("a1", size_bytes=600, priority=1))
    [word] = of(scene.turn(arrived("a2", size_bytes=400, priority=1)), TellQueued)
    assert word.reason.value == "QUEUE_FULL"  # it stands, and counts
    error = refused(scene.turn(arrived("a3", size_bytes=1)))
    assert isinstance(error, AgentQueueFull)
    assert error.message == (
        "waiting requests of this agent would hold 1001 bytes, of at most 1000"
    )
    assert error.retry_after_ns == SECOND_NS
    agent = scene.engine.agents.find("a")
    assert agent is not None
    scene.turn(CancelAsked(("a", "a1"), CancelCause.BY_AGENT))
    assert agent.waiting_bytes == 400  # the other has its place now
    assert is_let_in(scene.turn(arrived("a3", size_bytes=600, priority=1)))
    scene.turn(CancelAsked(("a", "a2"), CancelCause.BY_AGENT))
    scene.turn(CancelAsked(("a", "a3"), CancelCause.BY_AGENT))
    assert agent.waiting_bytes == 0


def test_one_request_alone_may_be_larger_than_all_that_its_agent_may_have_waiting() -> None:
    queue = QueuePolicy(queued_bytes_per_agent_max=1000)
    scene = serving(model("m"), queue=queue, first_agent="holder")
    scene.turn(arrived("running", agent="holder"))
    assert is_let_in(scene.turn(arrived("a1", size_bytes=5000)))
    assert isinstance(refused(scene.turn(arrived("a2", size_bytes=1))), AgentQueueFull)
    assert is_let_in(scene.turn(arrived("b1", agent="b", size_bytes=900)))


# Displacement


def test_the_newcomer_displaces_the_worst_of_the_agent_with_the_largest_backlog() -> None:
    scene = full_of(("b", "b1", 9), ("b", "b2", 9), *FLOOD)
    effects = scene.turn(arrived("r", agent="new"))
    assert [each.key for each in of(effects, Admit)] == [("new", "r")]
    assert finished(effects) == [("a3", Outcome.DISPLACED)]
    assert ("new", "r") in scene.engine.records


def test_who_is_displaced_hears_why_and_when_to_come_again() -> None:
    scene = full_of(*FLOOD)
    outcome, error = ended_with(scene.turn(arrived("r", agent="new")), "a3")
    assert outcome is Outcome.DISPLACED
    assert isinstance(error, Displaced)
    assert error.message == (
        "the queue is full and 3 requests of this agent wait: the last gave its place to the "
        "request of an agent of which 0 wait"
    )
    assert error.retryable
    assert error.retry_after_ns == SECOND_NS


def test_a_backlog_that_exceeds_the_newcomers_own_by_one_is_left_alone() -> None:
    scene = full_of(*FLOOD, ("b", "b1", 5), ("b", "b2", 5), room_max=0)
    assert isinstance(refused(scene.turn(arrived("b3", agent="b"))), QueueFull)


def test_a_backlog_that_exceeds_the_newcomers_own_by_two_gives_a_place() -> None:
    scene = full_of(*FLOOD, ("b", "b1", 5))
    assert finished(scene.turn(arrived("b2", agent="b"))) == [("a3", Outcome.DISPLACED)]


def test_two_agents_do_not_displace_each_other_for_ever() -> None:
    scene = full_of(*FLOOD, ("a", "a4", 5), room_max=0)
    displaced = 0
    for number in range(10):
        for agent in ("a", "b"):
            effects = scene.turn(arrived(f"n{number}", agent=agent))
            displaced += len(of(effects, Finish))
    assert displaced == 2  # two each


def test_a_victim_of_better_priority_is_left_alone() -> None:
    scene = full_of(("a", "a1", 4), ("a", "a2", 4), ("a", "a3", 4), room_max=0)
    assert isinstance(refused(scene.turn(arrived("r", agent="new", priority=5))), QueueFull)
    effects = scene.turn(arrived("r", agent="new", priority=4))
    assert finished(effects) == [("a3", Outcome.DISPLACED)]


def test_the_worst_is_the_lowest_priority_and_of_that_the_youngest() -> None:
    scene = full_of(("a", "a1", 5), ("a", "a2", 8), ("a", "a3", 8), ("a", "a4", 5), ("b", "b1", 10))
    assert finished(scene.turn(arrived("r1", agent="x"))) == [("a3", Outcome.DISPLACED)]
    assert finished(scene.turn(arrived("r1", agent="y"))) == [("a2", Outcome.DISPLACED)]


def test_by_deadline_the_worst_is_the_one_that_has_most_time() -> None:
    queue = QueuePolicy(queued_max=3, agent_order=AgentOrder.DEADLINE)
    scene = serving(model("m"), queue=queue)
    scene.turn(arrived("running"))
    for name, minutes in (("a1", 5), ("a2", 9), ("a3", 7)):
        scene.turn(arrived(name, deadline_ns=minutes * MINUTE_NS))
    assert finished(scene.turn(arrived("r", agent="x"))) == [("a2", Outcome.DISPLACED)]


def test_the_backlog_counts_over_all_models_of_an_agent() -> None:
    queue = QueuePolicy(queued_max=4)
    scene = serving(model("m"), model("n"), queue=queue)
    scene.turn(arrived("running", agent="holder"))
    for name, of_model in (("a1", "m"), ("a2", "n"), ("a3", "n")):
        scene.turn(arrived(name, model=of_model))
    scene.turn(arrived("b1", agent="b"))
    assert finished(scene.turn(arrived("r", agent="x"))) == [("a3", Outcome.DISPLACED)]


def test_a_request_that_runs_is_never_displaced() -> None:
    scene = full_of(("b", "b1", 1), room_max=0)
    assert isinstance(refused(scene.turn(arrived("r", agent="x", priority=1))), QueueFull)
    assert scene.attempt("running", "holder")


def test_where_the_bytes_are_full_the_victim_must_make_enough_room() -> None:
    queue = QueuePolicy(queued_bytes_max=1000, room_max=0)
    scene = serving(model("m"), queue=queue)
    scene.turn(arrived("running", agent="holder"))
    for name in ("a1", "a2", "a3", "a4"):
        scene.turn(arrived(name, size_bytes=250))
    assert isinstance(refused(scene.turn(arrived("r", agent="x", size_bytes=251))), QueueFull)
    effects = scene.turn(arrived("r", agent="x", size_bytes=250))
    assert finished(effects) == [("a4", Outcome.DISPLACED)]


def test_the_displaced_one_may_come_again_under_its_id() -> None:
    scene = full_of(*FLOOD)
    scene.turn(arrived("r", agent="new"))
    scene.ends("running", agent="holder")
    assert is_let_in(scene.turn(arrived("a3")))
    while scene.engine.attempts:
        scene.end_one()
    assert nothing_remains(scene)


def test_a_newcomer_that_cannot_meet_its_deadline_displaces_nobody() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=3))
    scene.measured(10 * SECOND_NS, agent="holder")
    scene.turn(arrived("running", agent="holder"))
    for name in ("a1", "a2", "a3"):
        scene.turn(arrived(name))
    effects = scene.turn(arrived("r", agent="x", deadline_ns=scene.now_ns + SECOND_NS))
    assert refused(effects).reason == "DEADLINE_EXPIRED"
    assert finished(effects) == []


# Slow down


def test_before_the_queue_is_full_nobody_is_dropped_but_told_to_slow_down() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=10))
    scene.turn(arrived("running"))
    words = [slowed(scene.turn(arrived(f"r{number}"))) for number in range(10)]
    assert words[:7] == [[]] * 7
    assert words[7:] == [[(f"r{number}", SECOND_NS)] for number in (7, 8, 9)]


def test_an_agent_near_its_own_limit_is_told_and_others_are_not() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_per_agent_max=2))
    scene.turn(arrived("running", agent="holder"))
    assert slowed(scene.turn(arrived("a1"))) == []
    assert slowed(scene.turn(arrived("a2"))) == [("a2", SECOND_NS)]
    assert slowed(scene.turn(arrived("b1", agent="b"))) == []


def test_bytes_slow_down_too() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_bytes_max=1000))
    scene.turn(arrived("running", agent="holder"))
    assert slowed(scene.turn(arrived("a1", size_bytes=799))) == []
    assert slowed(scene.turn(arrived("a2", size_bytes=1))) == [("a2", SECOND_NS)]


def test_the_larger_an_agents_backlog_the_longer_it_is_told_to_pause() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=10))
    for number in range(11):
        scene.turn(arrived(f"r{number}", agent="holder"))
    for number in range(3):
        scene.wait(2 * SECOND_NS)
        scene.ends(f"r{number}", agent="holder")
    words = [slowed(scene.turn(arrived(f"a{number}"))) for number in range(1, 4)]
    assert words[1:] == [[("a2", 4 * SECOND_NS)], [("a3", 6 * SECOND_NS)]]


@pytest.mark.parametrize(
    ("priority", "criticality", "told_from"),
    [
        (5, Criticality.NORMAL, 8),
        (7, Criticality.NORMAL, 8),
        (8, Criticality.NORMAL, 5),
        (10, Criticality.CRITICAL, 5),
        (1, Criticality.BATCH, 5),
    ],
)
def test_who_sends_what_is_not_critical_is_told_earlier(
    priority: int, criticality: Criticality, told_from: int
) -> None:
    queue = QueuePolicy(queued_max=10, slow_down_early_share=0.5)
    scene = serving(model("m"), queue=queue)
    scene.turn(arrived("running"))
    told = [
        bool(slowed(scene.turn(arrived(f"r{n}", priority=priority, criticality=criticality))))
        for n in range(1, 11)
    ]
    assert told == [n >= told_from for n in range(1, 11)]


def test_the_worst_priorities_are_told_first_while_others_are_not_told_yet() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=10))
    scene.turn(arrived("running"))
    for number in range(6):
        assert slowed(scene.turn(arrived(f"r{number}"))) == []
    assert slowed(scene.turn(arrived("low", agent="b", priority=8))) == [("low", SECOND_NS)]
    scene.ends("running")
    assert slowed(scene.turn(arrived("high", agent="c", priority=7))) == []


def test_an_early_share_above_the_other_tells_nobody_later() -> None:
    queue = QueuePolicy(queued_max=10, slow_down_share=0.5, slow_down_early_share=0.9)
    scene = serving(model("m"), queue=queue)
    scene.turn(arrived("running"))
    for number in range(4):
        scene.turn(arrived(f"r{number}"))
    assert slowed(scene.turn(arrived("low", priority=9))) == [("low", SECOND_NS)]


def test_an_agent_near_its_own_limit_of_bytes_is_told() -> None:
    queue = QueuePolicy(queued_bytes_per_agent_max=1000)
    scene = serving(model("m"), queue=queue, first_agent="holder")
    scene.turn(arrived("running", agent="holder"))
    assert slowed(scene.turn(arrived("a1", size_bytes=799))) == []
    assert slowed(scene.turn(arrived("a2", size_bytes=1))) == [("a2", SECOND_NS)]
    assert slowed(scene.turn(arrived("b1", agent="b", size_bytes=700))) == []
