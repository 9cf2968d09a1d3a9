"""What operators ask for, by both clients against a scripted broker: one suite, played twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client import (
    AgentNotFound,
    BackendNotFound,
    CancelledRequest,
    Done,
    QuotaExceeded,
    RequestUnknown,
    Retrying,
)
from broker_client.pb.broker.v1 import admin_pb2
from tests.integration.scripted_broker import ScriptedBroker, answer, serving
from tests.integration.test_client_fake_server import (
    ASK,
    AsyncCaller,
    Caller,
    SyncCaller,
    refusing,
)

Scope = admin_pb2.Scope


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


@pytest_asyncio.fixture(params=[AsyncCaller, SyncCaller])
async def caller(request: pytest.FixtureRequest, broker: ScriptedBroker) -> AsyncIterator[Caller]:
    made: Caller = request.param(broker.address)
    yield made
    await made.close()


async def test_an_agent_asks_for_its_own_quota(caller: Caller) -> None:
    quota = await caller.call("quota")
    assert (quota.agent_id, quota.agent_type, quota.compartment_max) == ("opus-1", "opus", 10)
    (bucket,) = quota.buckets
    assert (bucket.name, bucket.left, bucket.next_ms) == ("requests", 0.25, 4_500)


async def test_a_quota_that_is_used_up_is_waited_for(
    broker: ScriptedBroker, caller: Caller
) -> None:
    over = refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after_ms=1)
    broker.script.extend([over, answer])
    events = await caller.events(**ASK)
    assert [type(each.error) for each in events if isinstance(each, Retrying)] == [QuotaExceeded]
    assert isinstance(events[-1], Done)


async def test_a_story_and_the_end_of_a_request(caller: Caller) -> None:
    story = await caller.call("explain", "known")
    assert (story.agent_id, story.position, story.wait_reason) == ("opus-1", 2, "bulkhead")
    assert story.gates[0].passed
    assert (await caller.call("explain", "known", agent_id="opus-9")).agent_id == "opus-9"
    cancelled = await caller.call("cancel_request", "known", agent_id="opus-9")
    assert cancelled == CancelledRequest(agent_id="opus-9", state="queued")
    for name in ("explain", "cancel_request"):
        with pytest.raises(RequestUnknown):
            await caller.call(name, "gone")


async def test_agents_of_all_pages(caller: Caller) -> None:
    assert [each.agent_id for each in await caller.call("agents")] == ["opus-1", "opus-2"]


LEVERS: tuple[tuple[str, dict[str, Any], Any, int], ...] = (
    (
        "boost",
        {"agent_id": "opus-1", "weight_factor": 2.0, "for_s": 1.5},
        admin_pb2.BoostRequest(scope=Scope(agent_id="opus-1"), weight_factor=2, for_ms=1500),
        1,
    ),
    (
        "boost",
        {"agent_type": "opus", "rate_factor": 0.5, "priority_best": 2},
        admin_pb2.BoostRequest(scope=Scope(agent_type="opus"), rate_factor=0.5, priority_best=2),
        3,
    ),
    (
        "block",
        {"agent_id": "opus-1", "cancel_waiting": True},
        admin_pb2.BlockRequest(scope=Scope(agent_id="opus-1"), cancel_waiting=True),
        1,
    ),
    ("pause", {"for_s": 60.0}, admin_pb2.PauseRequest(for_ms=60_000), 3),
    (
        "resume",
        {"agent_type": "opus"},
        admin_pb2.ResumeRequest(scope=Scope(agent_type="opus")),
        3,
    ),
    ("resume", {"backend": "gpu0"}, admin_pb2.ResumeRequest(backend="gpu0"), 3),
)


@pytest.mark.parametrize(("name", "arguments", "asked", "count"), LEVERS)
async def test_a_lever_says_what_was_asked_and_how_many_it_concerns(
    broker: ScriptedBroker,
    caller: Caller,
    name: str,
    arguments: dict[str, Any],
    asked: Any,
    count: int,
) -> None:
    assert await caller.call(name, **arguments) == count
    assert broker.levers == [asked]


async def test_an_agent_that_is_not_known(caller: Caller) -> None:
    with pytest.raises(AgentNotFound):
        await caller.call("block", agent_id="absent")


async def test_one_backend_is_drained_and_the_broker_stays(
    broker: ScriptedBroker, caller: Caller
) -> None:
    begun = await caller.call("drain", backend="gpu0")
    assert (begun.queued, begun.running, begun.timeout_ms) == (1, 2, 0)
    assert broker.levers == [admin_pb2.DrainRequest(backend="gpu0")]
    for name in ("drain", "resume"):
        with pytest.raises(BackendNotFound):
            await caller.call(name, backend="absent")


async def test_two_scopes_at_once_do_not_leave_the_client(
    broker: ScriptedBroker, caller: Caller
) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        await caller.call("pause", agent_id="opus-1", agent_type="opus")
    assert broker.levers == []


async def test_a_reload_reports(broker: ScriptedBroker, caller: Caller) -> None:
    broker.reloaded = admin_pb2.ReloadResponse(changed=["a: 1 -> 2"], needs_restart=["b"])
    report = await caller.call("reload")
    assert (report.changed, report.needs_restart, report.problems) == (("a: 1 -> 2",), ("b",), ())
