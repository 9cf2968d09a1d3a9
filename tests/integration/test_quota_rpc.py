"""Quotas over the wire: what an agent may use, what is left, and what it is told beyond that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import AgentsConfig, AgentTypeConfig, Config, LimitsConfig, QueueConfig
from broker_client.pb.broker.v1 import admin_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

Code = grpc.StatusCode
AGENTS = AgentsConfig(
    default_type="",
    types=(
        AgentTypeConfig(
            name="opus",
            match=("opus-*",),
            weight=2.0,
            requests_per_minute=1.0,
            requests_burst=2.0,
            priority_best=3,
            may_be_critical=False,
        ),
        AgentTypeConfig(name="free", match=("free-*",)),
    ),
)
ONE_SLOT = BACKEND.model_copy(update={"slots": 1})


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    config = Config(
        server=FREE_PORTS,
        backends=(ONE_SLOT,),
        agents=AGENTS,
        limits=LimitsConfig(queued_per_agent_max=1),
        **QUICK,
    )
    async with running_daemon(config) as running:
        yield running


async def quota(daemon: RunningDaemon, agent_id: str) -> pb.GetQuotaResponse:
    return await daemon.inference.GetQuota(pb.GetQuotaRequest(agent_id=agent_id))


async def ran(daemon: RunningDaemon, **changed: Any) -> list[str]:
    """A request came and is complete; what was changed in it."""
    stream = daemon.inference.Generate(generate(**changed))
    started = (await read_until(stream, "started"))[-1].started
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")
    return list(started.changes)


async def test_an_agent_never_seen_is_told_what_it_would_have(daemon: RunningDaemon) -> None:
    found = await quota(daemon, "opus-1")
    assert (found.agent_id, found.agent_type, found.weight) == ("opus-1", "opus", 2)
    assert (found.priority_best, found.may_be_critical) == (3, False)
    assert (found.queued, found.queued_max, found.running) == (0, 1, 0)
    assert (found.compartment, found.compartment_running, found.compartment_max) == ("opus", 0, 10)
    (bucket,) = found.buckets
    assert (bucket.name, bucket.per_minute, bucket.burst) == ("requests", 1, 2)
    assert (bucket.left, bucket.next_ms) == (2, 0)
    assert (found.paused, found.blocked) == (False, False)
    assert not (await daemon.admin.ListAgents(admin_pb2.ListAgentsRequest())).agents


async def test_an_agent_without_limits_is_told_so(daemon: RunningDaemon) -> None:
    found = await quota(daemon, "free-1")
    assert (found.agent_type, found.weight, found.priority_best) == ("free", 1, 1)
    assert found.may_be_critical
    assert not found.buckets
    assert not found.HasField("compartment_max")


async def test_an_agent_of_no_type_has_none(daemon: RunningDaemon) -> None:
    call = daemon.inference.GetQuota(pb.GetQuotaRequest(agent_id="robot-1"))
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "AGENT_UNKNOWN")
    assert "opus-*" in refusal.violations["agent_id"]


async def test_what_is_used_up_is_refused_with_the_time_when_more_comes(
    daemon: RunningDaemon,
) -> None:
    await ran(daemon)
    await ran(daemon)
    (bucket,) = (await quota(daemon, "opus-1")).buckets
    assert 0 <= bucket.left < 1
    assert 0 < bucket.next_ms <= 60_000
    refusal = await refused(daemon.inference.Generate(generate()))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.about["outcome"] == "refused"
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= 60
    await ran(daemon, agent_id="opus-2")  # its bucket is its own


async def test_a_better_priority_than_it_may_use_is_lowered_and_said_so(
    daemon: RunningDaemon,
) -> None:
    (change,) = await ran(daemon, priority=1)
    assert "priority" in change
    assert await ran(daemon, priority=3) == []


async def test_the_queue_of_one_agent_is_bounded(daemon: RunningDaemon) -> None:
    running = daemon.inference.Generate(generate(agent_id="free-1"))
    await read_until(running, "started")
    call = await daemon.backend.calls.get()
    waits = daemon.inference.Generate(generate(agent_id="free-1"))
    await read_until(waits, "queued")
    found = await quota(daemon, "free-1")
    assert (found.queued, found.queued_max, found.running) == (1, 1, 1)
    assert found.compartment_running == 1
    refusal = await refused(daemon.inference.Generate(generate(agent_id="free-1")))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "AGENT_QUEUE_FULL")
    assert refusal.retry_after_s is not None
    call.complete()
    await read_until(running, "done")
    (await daemon.backend.calls.get()).complete()
    await read_until(waits, "done")


async def test_whoever_fills_the_queue_is_asked_to_slow_down() -> None:
    config = Config(
        server=FREE_PORTS,
        backends=(ONE_SLOT,),
        agents=AGENTS,
        limits=LimitsConfig(queued_max=4),
        queue=QueueConfig(announce_interval_ms=50, slow_down_percent=50),
        placement=QUICK["placement"],
    )
    async with running_daemon(config) as daemon:
        streams = []
        for number in range(3):
            streams.append(daemon.inference.Generate(generate(agent_id="free-1")))
            await read_until(streams[number], "queued" if number else "started")
        # Two of four wait now, and the second one heard of it.
        (slow_down,) = await read_until(streams[2], "slow_down")
        assert slow_down.slow_down.retry_after_ms > 0
        for stream in streams:
            (await daemon.backend.calls.get()).complete()
            await read_until(stream, "done")


@pytest.mark.parametrize("word", ["paused", "blocked"])
async def test_a_quota_says_what_an_operator_said(daemon: RunningDaemon, word: str) -> None:
    await ran(daemon, agent_id="free-1")
    scope = admin_pb2.Scope(agent_id="free-1")
    if word == "paused":
        await daemon.admin.Pause(admin_pb2.PauseRequest(scope=scope))
    else:
        await daemon.admin.Block(admin_pb2.BlockRequest(scope=scope))
    found = await quota(daemon, "free-1")
    assert [getattr(found, each) for each in ("paused", "blocked")].count(True) == 1
    assert getattr(found, word)


async def test_an_image_is_not_paid_for_as_if_it_were_text() -> None:
    """Its backend counts an image's tokens; where the answer is cut off, nobody does."""
    metered = AgentTypeConfig(name="any", match=("*",), tokens_per_minute=1.0, tokens_burst=1000.0)
    agents = AgentsConfig(default_type="any", types=(metered,))
    config = Config(server=FREE_PORTS, backends=(ONE_SLOT,), agents=agents, **QUICK)
    async with running_daemon(config) as daemon:
        request = generate(prompt=pb.Prompt(text="hello", images=[b"i" * 1_000_000]))
        stream = daemon.inference.Generate(request)
        call = await daemon.backend.calls.get()
        call.say("a", "b")
        stream.cancel()
        await call.ended.wait()
        (bucket,) = (await quota(daemon, request.agent_id)).buckets
        assert 990 < bucket.left < 999
