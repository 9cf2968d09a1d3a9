"""The operator's decisions change under way: what holds from then on, and what is never lost."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.effects import TellQueued
from broker.core.errors import AgentQueueFull, AgentUnknown, QueueFull, QuotaExceeded
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import PauseAsked, Scope
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
)


def house(*types: AgentTypePolicy, default: str = "any") -> AgentsPolicy:
    return AgentsPolicy(types=(*types, kind("any", "any*")), default_type=default)


def with_agents(*types: AgentTypePolicy) -> Scene:
    return serving(model("m"), agents=house(*types), first_agent="any")


def left(scene: Scene, agent: str) -> float:
    [view] = [each for each in scene.engine.agents.views(scene.now_ns) if each.agent_id == agent]
    assert view.requests_left is not None
    return view.requests_left


# Rates


def test_a_higher_rate_counts_at_once_and_gives_nothing_that_was_not_earned() -> None:
    scene = with_agents(kind("t", "t", per_minute=10))
    for number in range(10):
        scene.turn(arrived(f"r{number}", agent="t"))
    scene.reload(agents=house(kind("t", "t", per_minute=60)))
    error = refused(scene.turn(arrived("r", agent="t")))
    assert type(error) is QuotaExceeded
    assert error.retry_after_ns == SECOND_NS


def test_a_lower_rate_takes_what_exceeds_its_burst_and_no_more() -> None:
    scene = with_agents(kind("t", "t", per_minute=60), kind("u", "u", per_minute=60))
    for number in range(57):
        scene.turn(arrived(f"r{number}", agent="t"))
    scene.turn(arrived("r", agent="u"))
    scene.reload(agents=house(kind("t", "t", per_minute=6), kind("u", "u", per_minute=6)))
    assert left(scene, "t") == 3
    assert left(scene, "u") == 6


def test_reading_the_same_configuration_again_fills_no_bucket() -> None:
    scene = with_agents(kind("t", "t", per_minute=10))
    for _ in range(3):
        for number in range(20):
            scene.turn(arrived(f"r{number}", agent="t"))
        scene.reload(agents=house(kind("t", "t", per_minute=10)))
    assert left(scene, "t") == 0


def test_a_bucket_that_is_taken_away_limits_nobody_and_one_that_is_given_is_full() -> None:
    scene = with_agents(kind("t", "t", per_minute=1))
    scene.turn(arrived("r0", agent="t"))
    scene.reload(agents=house(kind("t", "t")))
    assert all(is_let_in(scene.turn(arrived(f"r{n}", agent="t"))) for n in range(1, 9))
    scene.reload(agents=house(kind("t", "t", per_minute=2)))
    assert left(scene, "t") == 2


def test_a_shared_bucket_keeps_its_level_too() -> None:
    def shared(per_minute: float) -> AgentsPolicy:
        rate = BucketPolicy(per_minute=per_minute, burst=2)
        return house(kind("t", "t*", all_requests=rate))

    scene = serving(model("m"), agents=shared(6), first_agent="any")
    for number in range(2):
        scene.turn(arrived(f"r{number}", agent="t1"))
    scene.reload(agents=shared(60))
    assert refused(scene.turn(arrived("r", agent="t2"))).retry_after_ns == SECOND_NS


# Types


def test_who_fits_another_type_now_is_of_it_from_the_next_request_on() -> None:
    scene = with_agents(kind("t", "x*", priority_best=1))
    scene.turn(arrived("running", agent="any"))
    scene.turn(arrived("r1", agent="x1", priority=1))
    scene.reload(agents=house(kind("u", "x*", priority_best=7), kind("t", "t*")))
    scene.turn(arrived("r2", agent="x1", priority=1))
    records = scene.engine.records
    assert records["x1", "r1"].priority == 1
    assert records["x1", "r2"].priority == 7
    assert records["x1", "r2"].agent.type.name == "u"


def test_agents_of_a_type_that_is_taken_away_are_refused_and_what_they_have_goes_on() -> None:
    scene = with_agents(kind("gone", "gone*", per_minute=10, tokens=BucketPolicy(per_minute=9)))
    for name in ("r1", "r2", "r3"):
        scene.turn(arrived(name, agent="gone1"))
    scene.turn(arrived("r1", agent="gone2"))
    scene.reload(agents=house(default=""))
    assert isinstance(refused(scene.turn(arrived("r4", agent="gone1"))), AgentUnknown)
    assert isinstance(refused(scene.turn(arrived("r2", agent="gone2"))), AgentUnknown)
    assert isinstance(refused(scene.turn(arrived("r1", agent="gone3"))), AgentUnknown)
    assert finished(scene.ends("r1", agent="gone1", output_tokens=3)) == [("r1", Outcome.COMPLETED)]
    assert scene.order().split() == ["r1", "r2", "r3"]
    assert nothing_remains(scene)


def test_a_pause_of_a_type_that_is_taken_away_is_over_for_its_agents_too() -> None:
    scene = with_agents(kind("gone", "gone*"))
    scene.turn(PauseAsked(scope=Scope(agent_type="gone")))
    assert started(scene.turn(arrived("r", agent="gone1"))) == []
    scene.engine.agents.meet("gone2", scene.now_ns)
    assert started(scene.reload(agents=house(default=""))) == ["r"]
    assert not any(each.is_paused for each in scene.engine.agents)


def test_a_glob_that_fits_an_agent_no_longer_refuses_it_though_its_type_is_there() -> None:
    scene = with_agents(kind("t", "old*"))
    scene.turn(arrived("r1", agent="old1"))
    scene.reload(agents=house(kind("t", "new*"), default=""))
    assert isinstance(refused(scene.turn(arrived("r2", agent="old1"))), AgentUnknown)
    scene.reload(agents=house(kind("t", "old*"), default=""))
    assert is_let_in(scene.turn(arrived("r2", agent="old1")))


def test_whose_type_came_back_is_let_in_again() -> None:
    scene = with_agents(kind("t", "t1", per_minute=10))
    scene.turn(arrived("r1", agent="t1"))
    scene.reload(agents=house(default=""))
    refused(scene.turn(arrived("r2", agent="t1")))
    scene.reload(agents=house(kind("t", "t1", per_minute=10), default=""))
    assert is_let_in(scene.turn(arrived("r2", agent="t1")))


# Weights


def test_a_changed_weight_changes_the_shares_of_what_waits_already() -> None:
    def weights(of_a: float) -> AgentsPolicy:
        return house(kind("a", "a", weight=of_a), kind("b", "b"))

    scene = serving(model("m"), agents=weights(1), first_agent="any")
    scene.measured(agent="any", output_tokens=10, prompt_tokens=1)
    for number in range(40):
        scene.turn(arrived(f"a{number}", agent="a"))
        scene.turn(arrived(f"b{number}", agent="b"))
    scene.reload(agents=weights(3))
    served = [scene.end_one(output_tokens=10)[0] for _ in range(40)]
    assert served.count("a") == pytest.approx(30, abs=2)


# The queue


def test_a_limit_lowered_below_what_waits_throws_nobody_out() -> None:
    scene = serving(model("m"))
    for number in range(6):
        scene.turn(arrived(f"r{number}"))
    assert scene.reload(queue=QueuePolicy(queued_max=2)) == []
    error = refused(scene.turn(arrived("late")))
    assert isinstance(error, QueueFull)
    assert error.message == "5 requests wait, of at most 2"
    assert scene.order() == "r0 r1 r2 r3 r4 r5"


def test_below_a_lowered_limit_there_are_places_again() -> None:
    scene = serving(model("m"))
    for number in range(4):
        scene.turn(arrived(f"r{number}"))
    scene.reload(queue=QueuePolicy(queued_max=2))
    scene.end_one()
    refused(scene.turn(arrived("late")))
    scene.end_one()
    assert is_let_in(scene.turn(arrived("late")))


def test_displacing_one_makes_no_place_where_more_than_that_are_too_many() -> None:
    scene = serving(model("m"))
    for number in range(6):
        scene.turn(arrived(f"r{number}"))
    scene.reload(queue=QueuePolicy(queued_max=2, room_max=0))
    assert isinstance(refused(scene.turn(arrived("r", agent="b"))), QueueFull)


def test_an_agents_own_limit_lowered_below_what_waits_refuses_its_next() -> None:
    scene = serving(model("m"))
    for number in range(5):
        scene.turn(arrived(f"r{number}"))
    scene.reload(queue=QueuePolicy(queued_per_agent_max=2))
    assert isinstance(refused(scene.turn(arrived("late"))), AgentQueueFull)
    assert scene.order() == "r0 r1 r2 r3 r4"


def test_a_raised_limit_lets_in_who_stands_in_the_waiting_room() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=1))
    for name in ("running", "r1"):
        scene.turn(arrived(name, priority=1))
    [word] = of(scene.turn(arrived("r2", priority=1)), TellQueued)
    assert word.reason.value == "QUEUE_FULL"
    [word] = of(scene.reload(queue=QueuePolicy(queued_max=2)), TellQueued)
    assert (word.key[1], word.reason.value) == ("r2", "SLOT")


def test_a_waiting_room_that_is_taken_away_keeps_its_word_to_those_in_it() -> None:
    scene = serving(model("m"), queue=QueuePolicy(queued_max=1))
    for name in ("running", "r1", "r2"):
        scene.turn(arrived(name, priority=1))
    scene.reload(queue=QueuePolicy(queued_max=1, room_max=0, room_wait_ns=1))
    refused(scene.turn(arrived("r3", priority=1)))
    assert finished(scene.wait(5 * SECOND_NS - 1)) == []
    assert ended_with(scene.wait(1), "r2")[0] is Outcome.REFUSED


def test_another_handicap_counts_for_what_waits_already() -> None:
    scene = serving(model("m"), queue=QueuePolicy(handicap_ns_per_priority=SECOND_NS))
    scene.turn(arrived("running"))
    scene.turn(arrived("old", agent="b", priority=6))
    scene.wait(2 * SECOND_NS)
    scene.turn(arrived("new", agent="c", priority=5))
    scene.reload(queue=QueuePolicy(handicap_ns_per_priority=MINUTE_NS))
    assert started(scene.ends("running")) == ["new"]


def test_another_order_of_an_agents_requests_leaves_those_that_wait_where_they_are() -> None:
    """In both directions: what comes after the change never passes what came before."""
    scene = serving(model("m"))
    scene.turn(arrived("running"))
    scene.turn(arrived("a1", deadline_ns=9 * MINUTE_NS))
    scene.turn(arrived("a2", deadline_ns=8 * MINUTE_NS))
    scene.reload(queue=QueuePolicy(agent_order=AgentOrder.DEADLINE))
    scene.turn(arrived("b1", deadline_ns=5 * MINUTE_NS))
    scene.turn(arrived("b2", deadline_ns=4 * MINUTE_NS))
    scene.turn(arrived("a2", deadline_ns=10 * MINUTE_NS))  # is taken over, and stays
    scene.reload(queue=QueuePolicy())
    scene.turn(arrived("c1", deadline_ns=3 * MINUTE_NS))
    scene.turn(arrived("c2", deadline_ns=2 * MINUTE_NS))
    assert scene.order() == "running a1 a2 b2 b1 c1 c2"
