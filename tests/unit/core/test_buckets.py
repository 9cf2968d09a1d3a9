"""Buckets of requests: whose are asked, what is paid, what comes back, when to come again."""

from __future__ import annotations

from itertools import count

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.errors import (
    AgentQueueFull,
    BackendFailed,
    BrokerError,
    BrokerRateLimited,
    DeadlineExpired,
    QueueFull,
    QuotaExceeded,
    TypeRateLimited,
)
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import CancelAsked, CancelCause
from tests.unit.core.gate_words import ended_with, is_let_in, kind, refused
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, serving

SEED_TYPES = (
    kind("opus", "opus-*", per_minute=10),
    kind("sonnet", "sonnet-*", per_minute=20),
    kind("system", "system-*", per_minute=50),
)
names = count()


def house(
    *types: AgentTypePolicy,
    requests: BucketPolicy | None = None,
    queue: QueuePolicy | None = None,
) -> Scene:
    """A broker that has m loaded and these types; "free" agents have no buckets of their own."""
    policy = AgentsPolicy(types=(*types, kind("free", "free*")), requests=requests)
    return serving(model("m"), agents=policy, queue=queue, first_agent="free")


def sends(
    scene: Scene, agent: str, *, priority: int = 5, deadline_ns: int = 0
) -> BrokerError | None:
    """One more request of this agent: None, or why it was refused."""
    at_ns = deadline_ns or scene.now_ns + 60 * MINUTE_NS
    name = f"n{next(names)}"
    effects = scene.turn(arrived(name, agent=agent, priority=priority, deadline_ns=at_ns))
    return None if is_let_in(effects) else refused(effects)


def let_in(scene: Scene, agent: str, *, of: int) -> int:
    """How many of so many requests at once are let in."""
    return sum(sends(scene, agent) is None for _ in range(of))


def left(scene: Scene, agent: str, bucket: str = "requests") -> float:
    quota = scene.engine.agents.quota(agent, 0, scene.now_ns)
    return next(each.left for each in quota.buckets if each.name == bucket)


# Whose


@pytest.mark.parametrize(
    ("agent", "per_minute"), [("opus-1", 10), ("sonnet-1", 20), ("system-1", 50)]
)
def test_each_agent_may_send_what_its_type_says_a_minute_and_as_much_at_once(
    agent: str, per_minute: int
) -> None:
    scene = house(*SEED_TYPES)
    assert let_in(scene, agent, of=per_minute + 5) == per_minute
    scene.wait(MINUTE_NS // 2)
    assert let_in(scene, agent, of=per_minute) == per_minute // 2
    scene.wait(10 * MINUTE_NS)  # a minute's worth is saved up and no more
    assert let_in(scene, agent, of=per_minute + 5) == per_minute


def test_an_empty_bucket_says_whose_it_is_and_when_more_comes() -> None:
    scene = house(*SEED_TYPES)
    let_in(scene, "opus-1", of=10)
    error = sends(scene, "opus-1")
    assert type(error) is QuotaExceeded
    assert error.message == "this agent may send 10 requests a minute, 10 at once"
    assert error.retry_after_ns == 6 * SECOND_NS
    assert error.retryable


def test_who_comes_back_when_it_was_told_is_let_in_and_a_moment_earlier_is_not() -> None:
    scene = house(kind("odd", "odd", per_minute=7, burst=1))
    scene.wait(12345)
    assert sends(scene, "odd") is None
    scene.wait(777)
    for _ in range(5):
        error = sends(scene, "odd")
        assert error is not None
        assert error.retry_after_ns
        scene.wait(error.retry_after_ns - 1)
        again = sends(scene, "odd")
        assert again is not None
        assert again.retry_after_ns == 1
        scene.wait(1)
        assert sends(scene, "odd") is None


def test_a_burst_of_its_own_takes_the_place_of_one_minute() -> None:
    scene = house(kind("bursty", "bursty", per_minute=60, burst=3))
    assert let_in(scene, "bursty", of=10) == 3
    scene.wait(SECOND_NS)
    assert let_in(scene, "bursty", of=10) == 1


def test_less_than_one_request_a_minute_is_still_one_at_once() -> None:
    scene = house(kind("rare", "rare", per_minute=0.5))
    assert let_in(scene, "rare", of=3) == 1
    error = sends(scene, "rare")
    assert error is not None
    assert error.retry_after_ns == 2 * MINUTE_NS


def test_one_agent_does_not_use_up_what_another_of_its_type_may_send() -> None:
    scene = house(*SEED_TYPES)
    assert let_in(scene, "opus-1", of=20) == 10
    assert let_in(scene, "opus-2", of=20) == 10


def test_a_bucket_of_a_whole_type_bounds_its_agents_together() -> None:
    scene = house(
        kind("opus", "opus-*", per_minute=10, all_requests=BucketPolicy(per_minute=12)),
        kind("sonnet", "sonnet-*", per_minute=10),
    )
    assert let_in(scene, "opus-1", of=20) == 10
    assert let_in(scene, "opus-2", of=20) == 2
    error = sends(scene, "opus-3")
    assert type(error) is TypeRateLimited
    assert "all agents of type 'opus' together may send 12 requests a minute" in error.message
    assert error.retry_after_ns == 5 * SECOND_NS
    assert let_in(scene, "sonnet-1", of=1) == 1


def test_a_bucket_of_everybody_bounds_all_types_together() -> None:
    scene = house(*SEED_TYPES, requests=BucketPolicy(per_minute=6))  # "free" has used one of them
    assert let_in(scene, "opus-1", of=3) == 3
    assert let_in(scene, "free", of=2) == 2
    error = sends(scene, "sonnet-1")
    assert type(error) is BrokerRateLimited
    assert error.message == "all agents together may send 6 requests a minute, 6 at once"
    assert error.retry_after_ns == 10 * SECOND_NS


def test_what_a_shared_bucket_refuses_is_not_taken_from_the_agents_own() -> None:
    scene = house(
        kind("opus", "opus-*", per_minute=10, all_requests=BucketPolicy(per_minute=2)),
        requests=BucketPolicy(per_minute=2),
    )
    assert sends(scene, "opus-1") is None
    assert type(sends(scene, "opus-1")) is BrokerRateLimited
    assert left(scene, "opus-1") == 9
    assert left(scene, "opus-1", "type_requests") == 1
    assert left(scene, "opus-1", "all_requests") == 0


def test_the_time_told_is_that_of_the_slowest_of_all_empty_buckets() -> None:
    """Who came back when only its own had filled would be refused once more."""
    scene = house(
        kind("opus", "opus-*", per_minute=60, burst=1, all_requests=BucketPolicy(per_minute=1)),
        requests=BucketPolicy(per_minute=6, burst=2),
    )
    assert sends(scene, "opus-1") is None
    error = sends(scene, "opus-1")
    assert type(error) is QuotaExceeded
    assert error.retry_after_ns == MINUTE_NS
    scene.wait(MINUTE_NS)
    assert sends(scene, "opus-1") is None


# What comes back


def test_an_unknown_model_costs_nothing() -> None:
    scene = house(*SEED_TYPES)
    for number in range(30):
        refused(scene.turn(arrived(f"r{number}", agent="opus-1", model="never heard of")))
    assert left(scene, "opus-1") == 10


def test_what_a_full_queue_refuses_gets_back_what_it_paid() -> None:
    scene = house(
        kind("opus", "opus-*", per_minute=10, all_requests=BucketPolicy(per_minute=30)),
        requests=BucketPolicy(per_minute=40),
        queue=QueuePolicy(queued_max=1, room_max=0),
    )
    assert let_in(scene, "free", of=2) == 2  # one runs, one waits
    assert type(sends(scene, "opus-1")) is QueueFull
    assert left(scene, "opus-1") == 10
    assert left(scene, "opus-1", "type_requests") == 30
    assert left(scene, "opus-1", "all_requests") == pytest.approx(40 - 3)


def test_what_its_own_queue_limit_refuses_gets_back_what_it_paid() -> None:
    scene = house(*SEED_TYPES, queue=QueuePolicy(queued_per_agent_max=1))
    assert let_in(scene, "opus-1", of=2) == 2
    assert type(sends(scene, "opus-1")) is AgentQueueFull
    assert left(scene, "opus-1") == 8


def test_what_cannot_meet_its_deadline_gets_back_what_it_paid() -> None:
    scene = house(*SEED_TYPES)
    scene.measured(10 * SECOND_NS, agent="free")
    error = sends(scene, "opus-1", deadline_ns=scene.now_ns + SECOND_NS)
    assert type(error) is DeadlineExpired
    assert left(scene, "opus-1") == 10


def test_what_the_waiting_room_gives_up_gets_back_what_it_paid() -> None:
    scene = house(kind("slow", "slow", per_minute=0.001, burst=5), queue=QueuePolicy(queued_max=1))
    assert let_in(scene, "free", of=2) == 2
    scene.turn(arrived("r", agent="slow", priority=1))
    assert left(scene, "slow") == pytest.approx(4)
    outcome, error = ended_with(scene.wait(5 * SECOND_NS), "r")
    assert (outcome, type(error)) == (Outcome.REFUSED, QueueFull)
    assert left(scene, "slow") == pytest.approx(5)


def test_who_is_displaced_gets_back_what_it_paid() -> None:
    scene = house(kind("slow", "slow", per_minute=0.001, burst=9), queue=QueuePolicy(queued_max=3))
    assert let_in(scene, "slow", of=4) == 4
    assert left(scene, "slow") == pytest.approx(5)
    assert sends(scene, "free") is None
    assert left(scene, "slow") == pytest.approx(6)


@pytest.mark.parametrize("how", ["cancelled", "failed", "completed", "expired"])
def test_what_got_a_place_and_ended_otherwise_has_cost_a_request(how: str) -> None:
    scene = house(kind("slow", "slow", per_minute=0.001, burst=9))
    scene.turn(arrived("r", agent="slow", deadline_ns=MINUTE_NS))
    if how == "cancelled":
        scene.turn(CancelAsked(("slow", "r"), CancelCause.BY_AGENT))
    elif how == "expired":
        scene.wait(MINUTE_NS)
    else:
        scene.ends("r", BackendFailed("broke") if how == "failed" else None, agent="slow")
    assert left(scene, "slow") == pytest.approx(8, abs=0.01)


def test_the_same_request_again_is_taken_over_and_pays_once() -> None:
    scene = house(*SEED_TYPES)
    for _ in range(50):
        assert is_let_in(scene.turn(arrived("r", agent="opus-1")))
    assert left(scene, "opus-1") == 9


def test_an_id_in_use_with_other_content_costs_nothing() -> None:
    scene = house(*SEED_TYPES)
    scene.turn(arrived("r", agent="opus-1"))
    refused(scene.turn(arrived("r", agent="opus-1", content=b"other")))
    assert left(scene, "opus-1") == 9
