"""What operators ask for and are told, between the wire and the words of the core."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.api.grpc.admin_codec import (
    decode_boost,
    decode_lasting,
    decode_scope,
    encode_agent,
    encode_explanation,
)
from broker.api.grpc.inference import encode_quota
from broker.core.effects import WaitReason
from broker.core.stimuli import Scope
from broker.core.views import (
    AgentView,
    AttemptView,
    BucketView,
    Explanation,
    GateView,
    OvertakingView,
    QuotaView,
)
from broker.services.operations import Boost
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2

MS = 1_000_000
STORY = Explanation(
    key=("opus-1", "r"),
    model="m:latest",
    priority=4,
    compartment="opus",
    state="queued",
    arrived_ns=1_000 * MS,
    started_ns=0,
    ended_ns=0,
    at_ns=3_500 * MS,
    position=2,
    wait_reason=WaitReason.SLOT.value,
    wait_detail="a slot",
    changes=("priority lowered from 1 to 4",),
    gates=(GateView(name="backpressure", passed=True, detail="3 of 10"),),
    overtaken=(OvertakingView(rule="a better priority", count=4, examples=(("opus-2", "q"),)),),
    is_complete=True,
    problem="",
)
AGENT = AgentView(
    agent_id="opus-1",
    agent_type="opus",
    weight=2.0,
    priority_best=3,
    queued=1,
    running=2,
    arrived=9,
    ended=6,
    served_cost=2**40,
    requests_left=None,
    is_paused=True,
    is_blocked=False,
    is_boosted=True,
)
QUOTA = QuotaView(
    agent_id="opus-1",
    agent_type="opus",
    weight=2.0,
    priority_best=3,
    may_be_critical=True,
    queued=1,
    queued_max=100,
    running=2,
    compartment="opus",
    compartment_running=3,
    compartment_max=None,
    buckets=(BucketView(name="tokens", per_minute=60.0, burst=90.0, left=-1.5, next_ns=2_500_001),),
    is_paused=False,
    is_blocked=True,
)


def test_a_scope_is_an_agent_a_type_or_everybody() -> None:
    assert decode_scope(pb.Scope(agent_id="a")) == Scope(agent_id="a")
    assert decode_scope(pb.Scope(agent_type="t")) == Scope(agent_type="t")
    assert decode_scope(pb.PauseRequest().scope) == Scope()


def test_what_a_boost_leaves_out_changes_nothing() -> None:
    assert decode_boost(pb.BoostRequest(priority_best=2)) == Boost(priority_best=2)
    assert decode_boost(pb.BoostRequest(rate_factor=0.5)) == Boost(rate_factor=0.5)
    assert decode_boost(pb.BoostRequest(weight_factor=3)) == Boost(weight_factor=3.0)


def test_no_time_is_until_resumed() -> None:
    assert decode_lasting(0) is None
    assert decode_lasting(1) == MS


def test_one_that_waits_has_waited_until_now() -> None:
    encoded = encode_explanation(STORY)
    assert (encoded.agent_id, encoded.request_id, encoded.priority) == ("opus-1", "r", 4)
    assert (encoded.age_ms, encoded.queue_wait_ms, encoded.position) == (2_500, 2_500, 2)
    assert not encoded.HasField("run_ms")
    assert not encoded.HasField("ended_ago_ms")
    assert encoded.wait_reason == common_pb2.WAIT_REASON_SLOT
    assert list(encoded.changes) == ["priority lowered from 1 to 4"]
    assert encoded.gates == [pb.Gate(name="backpressure", passed=True, detail="3 of 10")]
    example = pb.RequestName(agent_id="opus-2", request_id="q")
    assert encoded.overtakings == [
        pb.Overtaking(rule="a better priority", count=4, examples=[example])
    ]
    assert encoded.complete


def test_one_that_runs_runs_until_now() -> None:
    runs = replace(STORY, state="streaming", started_ns=1_500 * MS, position=0, wait_reason="")
    encoded = encode_explanation(runs)
    assert (encoded.queue_wait_ms, encoded.run_ms) == (500, 2_000)
    assert encoded.wait_reason == common_pb2.WAIT_REASON_UNSPECIFIED


@pytest.mark.parametrize(
    ("started_ms", "queue_wait_ms", "run_ms"), [(0, 2_000.0, None), (1_250, 250.0, 1_750.0)]
)
def test_one_that_is_over_neither_waits_nor_runs_on(
    started_ms: int, queue_wait_ms: float, run_ms: float | None
) -> None:
    over = replace(
        STORY, state="expired", started_ns=started_ms * MS, ended_ns=3_000 * MS, wait_reason=""
    )
    encoded = encode_explanation(over)
    assert (encoded.age_ms, encoded.ended_ago_ms) == (2_500, 500)
    assert encoded.queue_wait_ms == queue_wait_ms
    assert (encoded.run_ms if encoded.HasField("run_ms") else None) == run_ms


def test_what_it_shares_with_others_is_told() -> None:
    encoded = encode_explanation(replace(STORY, credit_ns=7_500 * MS, known_bytes=4_096))
    assert (encoded.session_credit_ms, encoded.known_prompt_bytes) == (7_500, 4_096)


def test_how_often_it_was_set_aside_is_told() -> None:
    encoded = encode_explanation(replace(STORY, preemptions=2, is_preemptible=True))
    assert (encoded.preemptions, encoded.preemptible) == (2, True)


def test_what_it_was_told_first_is_told_where_it_was() -> None:
    assert not encode_explanation(STORY).HasField("told_low_ms")
    encoded = encode_explanation(replace(STORY, told_ns=(0, 45_000 * MS)))
    assert encoded.HasField("told_low_ms")
    assert (encoded.told_low_ms, encoded.told_high_ms) == (0, 45_000)


@pytest.mark.parametrize("met", [None, True, False])
def test_by_when_it_would_have_its_answer_is_told(met: bool | None) -> None:
    assert not encode_explanation(STORY).HasField("soft_deadline")
    soft = encode_explanation(replace(STORY, soft_ns=45_000 * MS, soft_met=met)).soft_deadline
    assert soft.within_ms == 45_000
    assert (soft.met if soft.HasField("met") else None) is met


def test_the_bound_on_its_wait_is_told_or_why_there_is_none() -> None:
    assert not encode_explanation(STORY).HasField("bound_ms")
    bounded = encode_explanation(replace(STORY, bound_ns=45_000 * MS))
    assert (bounded.bound_ms, bounded.bound_why) == (45_000, "")
    free = encode_explanation(replace(STORY, bound_why="too much comes"))
    assert (free.HasField("bound_ms"), free.bound_why) == (False, "too much comes")


@pytest.mark.parametrize("reason", WaitReason)
def test_every_wait_has_a_number_on_the_wire(reason: WaitReason) -> None:
    encoded = encode_explanation(replace(STORY, wait_reason=reason.value))
    name = common_pb2.WaitReason.Name(encoded.wait_reason)
    assert name == f"WAIT_REASON_{reason.value}"


def test_an_agent_with_and_without_a_bucket() -> None:
    encoded = encode_agent(AGENT)
    assert (encoded.weight, encoded.priority_best, encoded.served_cost) == (2.0, 3, 2**40)
    assert (encoded.paused, encoded.blocked, encoded.boosted) == (True, False, True)
    assert not encoded.HasField("requests_left")
    assert encode_agent(replace(AGENT, requests_left=0.0)).HasField("requests_left")


def test_a_quota_says_no_limit_by_silence_and_rounds_waits_up() -> None:
    encoded = encode_quota(QUOTA)
    assert not encoded.HasField("compartment_max")
    assert (encoded.queued_max, encoded.paused, encoded.blocked) == (100, False, True)
    (bucket,) = encoded.buckets
    assert (bucket.name, bucket.left, bucket.next_ms) == ("tokens", -1.5, 3)
    assert encode_quota(replace(QUOTA, compartment_max=7)).compartment_max == 7


def test_the_attempts_of_a_story_have_durations_for_moments() -> None:
    failed = AttemptView(
        number=1,
        backend="a",
        model="m:latest",
        started_ns=1_000 * MS,
        first_token_ns=1_200 * MS,
        ended_ns=1_500 * MS,
        pieces=3,
        reason="BACKEND_FAILED",
        problem="the runner died",
        backoff_ns=250 * MS,
        continued=False,
    )
    running = replace(
        failed,
        number=2,
        backend="b",
        started_ns=3_000 * MS,
        first_token_ns=0,
        ended_ns=0,
        reason="",
        problem="",
        continued=True,
    )
    first, second = encode_explanation(replace(STORY, attempts=(failed, running))).attempts
    assert (first.number, first.backend, first.run_ms, first.first_token_ms) == (1, "a", 500, 200)
    assert (first.reason, first.problem) == ("BACKEND_FAILED", "the runner died")
    assert (first.pieces, first.backoff_ms, first.continued) == (3, 250, False)
    assert (second.run_ms, second.HasField("first_token_ms")) == (500, False)
    assert second.continued
