"""Operators' messages: what the wire is told, and what it says, typed."""

from __future__ import annotations

import pytest

from broker_client.operations import (
    Overtaking,
    RequestName,
    agent_of,
    boost_request,
    drain_request,
    explanation_of,
    lasting_ms,
    resume_request,
    scope_message,
)
from broker_client.pb.broker.v1 import admin_pb2, common_pb2, inference_pb2
from broker_client.quota import TokenBucket, quota_of


def test_a_scope_is_an_agent_a_type_or_everybody_and_never_two() -> None:
    assert scope_message("opus-1", "") == admin_pb2.Scope(agent_id="opus-1")
    assert scope_message("", "opus") == admin_pb2.Scope(agent_type="opus")
    assert scope_message("", "") is None
    with pytest.raises(ValueError, match="exclude each other"):
        scope_message("opus-1", "opus")


@pytest.mark.parametrize(
    ("for_s", "for_ms"), [(None, 0), (0.001, 1), (90.0, 90_000), (2_592_000.0, 2_592_000_000)]
)
def test_how_long(for_s: float | None, for_ms: int) -> None:
    assert lasting_ms(for_s) == for_ms


@pytest.mark.parametrize("for_s", [0.0, 0.0001, float("nan")])
def test_a_time_that_the_wire_would_take_for_no_end_is_refused(for_s: float) -> None:
    with pytest.raises(ValueError, match=r"NaN|until resumed"):
        lasting_ms(for_s)


def test_a_negative_time_is_the_brokers_to_refuse() -> None:
    assert lasting_ms(-1.0) == -1000


def test_what_a_boost_does_not_say_stays_unset() -> None:
    request = boost_request(None, weight_factor=None, rate_factor=2.0, priority_best=0, for_s=None)
    assert [each.name for each, _ in request.ListFields()] == ["rate_factor"]


def test_a_zero_that_was_said_is_not_unset() -> None:
    request = boost_request(None, weight_factor=0.0, rate_factor=None, priority_best=0, for_s=1)
    assert request.HasField("weight_factor")
    assert not request.HasField("rate_factor")


def test_what_has_no_limit_is_none_and_no_zero() -> None:
    assert quota_of(inference_pb2.GetQuotaResponse()).compartment_max is None
    assert quota_of(inference_pb2.GetQuotaResponse(compartment_max=3)).compartment_max == 3
    assert agent_of(admin_pb2.Agent()).requests_left is None
    assert agent_of(admin_pb2.Agent(requests_left=0)).requests_left == 0


def test_a_quota_with_its_buckets() -> None:
    wire = inference_pb2.TokenBucket(name="tokens", per_minute=6, burst=9, left=-2, next_ms=30_000)
    quota = quota_of(inference_pb2.GetQuotaResponse(agent_id="a", buckets=[wire], paused=True))
    assert quota.buckets == (
        TokenBucket(name="tokens", per_minute=6.0, burst=9.0, left=-2.0, next_ms=30_000),
    )
    assert (quota.agent_id, quota.paused, quota.blocked) == ("a", True, False)


def test_a_story_that_waits_and_one_that_does_not() -> None:
    waits = explanation_of(
        admin_pb2.ExplainResponse(wait_reason=common_pb2.WAIT_REASON_BULKHEAD, position=2)
    )
    assert (waits.wait_reason, waits.position) == ("bulkhead", 2)
    assert (waits.run_ms, waits.ended_ago_ms) == (None, None)
    ended = explanation_of(admin_pb2.ExplainResponse(run_ms=0, ended_ago_ms=0))
    assert (ended.wait_reason, ended.run_ms, ended.ended_ago_ms) == ("", 0.0, 0.0)


def test_a_bound_is_a_time_or_the_reason_why_there_is_none() -> None:
    stated = explanation_of(admin_pb2.ExplainResponse(bound_ms=0))
    assert (stated.bound_ms, stated.bound_why) == (0.0, "")
    none = explanation_of(admin_pb2.ExplainResponse(bound_why="too much comes"))
    assert (none.bound_ms, none.bound_why) == (None, "too much comes")


def test_a_call_without_a_piece_and_one_with() -> None:
    wire = [
        admin_pb2.Attempt(number=1, backend="gpu0", reason="BACKEND_FAILED", backoff_ms=250),
        admin_pb2.Attempt(number=2, backend="gpu1", first_token_ms=0, pieces=3, continued=True),
    ]
    first, second = explanation_of(admin_pb2.ExplainResponse(attempts=wire)).attempts
    assert (first.first_token_ms, first.reason, first.backoff_ms) == (None, "BACKEND_FAILED", 250)
    assert (second.first_token_ms, second.pieces, second.continued) == (0.0, 3, True)


def test_a_backend_is_drained_for_as_long_as_it_takes_and_resumed_alone() -> None:
    assert drain_request(None, "gpu0") == admin_pb2.DrainRequest(backend="gpu0")
    assert drain_request(0.0, "").HasField("timeout_ms")
    assert resume_request("", "", "gpu0") == admin_pb2.ResumeRequest(backend="gpu0")
    with pytest.raises(ValueError, match="as its work takes"):
        drain_request(1.0, "gpu0")
    with pytest.raises(ValueError, match="goes with no"):
        resume_request("opus-1", "", "gpu0")


def test_who_overtook_by_which_rule() -> None:
    name = admin_pb2.RequestName(agent_id="a", request_id="r")
    wire = admin_pb2.Overtaking(rule="a better priority", count=7, examples=[name])
    (found,) = explanation_of(admin_pb2.ExplainResponse(overtakings=[wire])).overtakings
    examples = (RequestName(agent_id="a", request_id="r"),)
    assert found == Overtaking(rule="a better priority", count=7, examples=examples)
