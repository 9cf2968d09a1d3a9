"""The waiting room: urgent requests stand there for a moment while the queue is full."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy
from broker.core.effects import Drained, TellQueued
from broker.core.errors import AgentBlocked, Cancelled, DeadlineExpired, Draining, QueueFull
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import (
    AttemptEnded,
    BlockAsked,
    CancelAsked,
    CancelCause,
    DrainAsked,
    ModelsListed,
    PauseAsked,
    Scope,
)
from tests.unit.core.gate_words import ended_with, is_let_in, kind, refused
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
    started,
    told,
)

ROOM_NS = 5 * SECOND_NS


def full(queue: QueuePolicy | None = None) -> Scene:
    """The slot is held by "running", the only place in the queue by "queued"; of one agent each,
    so that nobody can be displaced."""
    scene = serving(model("m"), queue=queue or QueuePolicy(queued_max=1), first_agent="first")
    scene.turn(arrived("running", agent="first"))
    scene.turn(arrived("queued", agent="second"))
    return scene


def stands(
    scene: Scene,
    name: str,
    priority: int = 1,
    *,
    size_bytes: int = 100,
    deadline_ns: int = 10 * MINUTE_NS,
) -> bool:
    """Comes to the full queue: does it stand in the room, rather than be refused?"""
    word = arrived(
        name,
        agent=f"of {name}",
        priority=priority,
        size_bytes=size_bytes,
        deadline_ns=deadline_ns,
    )
    effects = scene.turn(word)
    return [each.reason.value for each in of(effects, TellQueued)] == ["QUEUE_FULL"]


# Who


@pytest.mark.parametrize(("room_max", "own_max"), [(100, 10), (30, 3), (19, 1), (1, 1)])
def test_one_agent_may_stand_on_a_tenth_of_the_room_at_most(room_max: int, own_max: int) -> None:
    scene = full(QueuePolicy(queued_max=1, room_max=room_max))
    for number in range(own_max):
        assert is_let_in(scene.turn(arrived(f"r{number}", agent="greedy", priority=1)))
    error = refused(scene.turn(arrived("one more", agent="greedy", priority=1)))
    assert isinstance(error, QueueFull)
    assert stands(scene, "another's") is (room_max > own_max)
    scene.turn(CancelAsked(("greedy", "r0"), CancelCause.BY_AGENT))
    assert is_let_in(scene.turn(arrived("one more", agent="greedy", priority=1)))


@pytest.mark.parametrize(("priority", "may_stand"), [(1, True), (3, True), (4, False), (10, False)])
def test_up_to_priority_three_may_stand_while_the_queue_is_full(
    priority: int, may_stand: bool
) -> None:
    assert stands(full(), "r", priority) is may_stand


def test_while_there_is_a_place_nobody_stands() -> None:
    scene = full()
    scene.turn(CancelAsked(("second", "queued"), CancelCause.BY_AGENT))
    assert not stands(scene, "r")
    assert is_let_in(scene.turn(arrived("s", agent="s", priority=1)))


def test_who_stands_hears_what_for_and_how_many_stand_there() -> None:
    scene = full()
    stands(scene, "r1")
    [word] = of(scene.turn(arrived("r2", agent="b", priority=2)), TellQueued)
    assert (word.position, word.eta_ns, word.reason.value) == (2, None, "QUEUE_FULL")
    assert word.detail == "a place in the queue, which is full"


def test_the_room_is_bounded() -> None:
    scene = full(QueuePolicy(queued_max=1, room_max=2))
    assert [stands(scene, f"r{number}", 3) for number in range(2)] == [True, True]
    error = refused(scene.turn(arrived("r3", agent="c", priority=1)))
    assert isinstance(error, QueueFull)


def test_a_room_for_nobody_refuses_at_once() -> None:
    scene = full(QueuePolicy(queued_max=1, room_max=0))
    assert isinstance(refused(scene.turn(arrived("r", agent="c", priority=1))), QueueFull)


def test_a_queue_that_is_full_of_bytes_has_a_room_as_well() -> None:
    scene = full(QueuePolicy(queued_bytes_max=150))
    assert stands(scene, "r")
    assert started(scene.ends("running", agent="first")) == ["queued"]
    assert scene.order() == "queued r"


def test_who_may_not_use_such_a_priority_does_not_stand_by_claiming_it() -> None:
    agents = AgentsPolicy(types=(kind("lowly", "*", priority_best=4),))
    scene = serving(model("m"), queue=QueuePolicy(queued_max=1), agents=agents)
    for name in ("running", "queued"):
        scene.turn(arrived(name, priority=1))
    assert isinstance(refused(scene.turn(arrived("r", priority=1))), QueueFull)


# Let in


def test_a_place_that_becomes_free_lets_in_the_best_priority_then_the_first_come() -> None:
    scene = full()
    for name, priority in (("r1", 3), ("r2", 2), ("r3", 2), ("r4", 1)):
        assert stands(scene, name, priority)
    order = []
    for _ in range(4):
        running = next(iter(scene.engine.attempts))
        order += [name for name, _, _ in told(scene.turn(AttemptEnded(running)))]
    assert order == ["r4", "r2", "r3", "r1"]


def test_each_free_place_lets_in_one() -> None:
    scene = full()
    for name in ("r1", "r2"):
        stands(scene, name)
    effects = scene.ends("running", agent="first")
    assert started(effects) == ["queued"]
    assert told(effects) == [("r1", 1, "SLOT")]


@pytest.mark.parametrize("how", ["cancelled", "expired", "blocked"])
def test_a_place_is_free_however_the_one_who_had_it_left(how: str) -> None:
    scene = full()
    if how == "expired":
        scene = serving(model("m"), queue=QueuePolicy(queued_max=1), first_agent="first")
        scene.turn(arrived("running", agent="first"))
        scene.turn(arrived("queued", agent="second", deadline_ns=SECOND_NS))
    stands(scene, "r")
    if how == "cancelled":
        effects = scene.turn(CancelAsked(("second", "queued"), CancelCause.BY_AGENT))
    elif how == "expired":
        effects = scene.wait(SECOND_NS)
    else:
        effects = scene.turn(BlockAsked(scope=Scope(agent_id="second"), cancels_waiting=True))
    assert told(effects) == [("r", 1, "SLOT")]


def test_who_was_let_in_waits_longer_than_it_might_have_stood() -> None:
    scene = full()
    stands(scene, "r")
    scene.ends("running", agent="first")
    assert finished(scene.wait(MINUTE_NS)) == []
    assert scene.order() == "queued r"
    assert nothing_remains(scene)


def test_who_is_too_large_for_the_place_that_is_free_waits_for_more() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_bytes_max=300), first_agent="first")
    scene.turn(arrived("running", agent="first"))
    for number in range(3):
        scene.turn(arrived(f"q{number}", agent=f"q{number}", size_bytes=100))
    assert stands(scene, "large", size_bytes=300)
    scene.end_one()
    scene.end_one()
    assert len(scene.engine.room) == 1
    assert ("of large", "large") in scene.engine.records
    assert scene.order() == "q1 q2 large"


def test_who_is_too_large_holds_up_nobody_behind_it() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_bytes_max=300), first_agent="first")
    scene.turn(arrived("running", agent="first"))
    for number in range(3):
        scene.turn(arrived(f"q{number}", agent=f"q{number}", size_bytes=100))
    for name, priority, size_bytes in (("large", 1, 300), ("r3", 3, 100), ("r2", 2, 100)):
        assert stands(scene, name, priority, size_bytes=size_bytes)
    running = next(iter(scene.engine.attempts))
    assert [name for name, _, _ in told(scene.turn(AttemptEnded(running)))] == ["r2"]
    assert scene.order().split()[-1] == "large"


def test_the_model_of_one_who_stands_may_be_pulled_anew_meanwhile() -> None:
    scene = full()
    stands(scene, "r")
    scene.turn(ModelsListed("b1", (model("m", runner="newer"),)))
    assert len(scene.engine.room) == 1
    scene.turn(CancelAsked(("second", "queued"), CancelCause.BY_AGENT))
    assert scene.engine.records["of r", "r"].line == ("newer", 0)


def test_who_stands_for_a_model_that_is_gone_hears_it_when_it_would_be_let_in() -> None:
    scene = full()
    stands(scene, "r")
    effects = scene.turn(ModelsListed("b1", (model("other"),)))
    assert finished(effects) == [("queued", Outcome.FAILED), ("r", Outcome.FAILED)]
    scene.ends("running", agent="first")
    assert nothing_remains(scene)


# Not let in


def test_after_five_seconds_it_is_refused_and_hears_when_to_come_again() -> None:
    scene = full()
    stands(scene, "r")
    assert finished(scene.wait(ROOM_NS - 1)) == []
    outcome, error = ended_with(scene.wait(1), "r")
    assert outcome is Outcome.REFUSED
    assert isinstance(error, QueueFull)
    assert error.message == "1 requests wait, of at most 1"
    assert error.retry_after_ns == SECOND_NS
    assert len(scene.engine.room) == 0


def test_each_stands_for_its_own_time() -> None:
    scene = full()
    stands(scene, "r1")
    scene.wait(2 * SECOND_NS)
    stands(scene, "r2")
    assert finished(scene.wait(3 * SECOND_NS)) == [("r1", Outcome.REFUSED)]
    assert finished(scene.wait(2 * SECOND_NS)) == [("r2", Outcome.REFUSED)]


def test_one_who_stands_can_be_cancelled() -> None:
    scene = full()
    stands(scene, "r")
    effects = scene.turn(CancelAsked(("of r", "r"), CancelCause.BY_AGENT))
    outcome, error = ended_with(effects, "r")
    assert (outcome, type(error)) == (Outcome.CANCELLED, Cancelled)
    assert finished(scene.wait(MINUTE_NS)) == []


def test_the_deadline_of_one_who_stands_may_come_first() -> None:
    scene = full()
    stands(scene, "r", deadline_ns=2 * SECOND_NS)
    outcome, error = ended_with(scene.wait(2 * SECOND_NS), "r")
    assert outcome is Outcome.EXPIRED
    assert isinstance(error, DeadlineExpired)
    words = "the deadline passed after 2.0 s of waiting for a place in the queue, which is full"
    assert error.message == words
    assert finished(scene.wait(MINUTE_NS)) == []


def test_a_broker_that_leaves_ends_those_who_stand_as_well() -> None:
    scene = full()
    stands(scene, "r")
    scene.turn(DrainAsked(SECOND_NS))
    effects = scene.wait(SECOND_NS)
    outcome, error = ended_with(effects, "r")
    assert (outcome, type(error)) == (Outcome.CANCELLED, Draining)
    effects = scene.ends("running", agent="first")
    assert of(effects, Drained) == [Drained()]


def test_a_broker_that_leaves_still_serves_those_who_stand_if_there_is_time() -> None:
    scene = full()
    stands(scene, "r")
    scene.turn(DrainAsked(MINUTE_NS))
    assert scene.order() == "running queued r"


def test_those_who_stand_count_for_what_may_be_under_way() -> None:
    scene = full(QueuePolicy(queued_max=1, live_max=3))
    assert stands(scene, "r1")
    assert isinstance(refused(scene.turn(arrived("r2", agent="c", priority=1))), QueueFull)


def test_the_same_request_again_takes_over_where_it_stands() -> None:
    scene = full()
    stands(scene, "r")
    scene.wait(3 * SECOND_NS)
    assert stands(scene, "r")
    assert len(scene.engine.room) == 1
    assert finished(scene.wait(2 * SECOND_NS)) == [("r", Outcome.REFUSED)]


def test_a_blocked_agents_requests_leave_the_room_when_that_is_asked_for() -> None:
    scene = full()
    stands(scene, "r")
    block = BlockAsked(scope=Scope(agent_id="of r"), cancels_waiting=True)
    assert finished(scene.turn(block)) == [("r", Outcome.CANCELLED)]
    assert isinstance(refused(scene.turn(arrived("r", agent="of r"))), AgentBlocked)


def test_a_paused_agents_request_takes_its_place_in_the_queue_and_waits_there() -> None:
    scene = full()
    stands(scene, "r")
    scene.turn(PauseAsked(scope=Scope(agent_id="of r")))
    assert told(scene.ends("running", agent="first")) == [("r", 1, "PAUSED")]
    assert scene.order() == "queued"
