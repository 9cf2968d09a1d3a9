"""Operators' levers over the wire: who may, who waits, who is refused, and why a request waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import AgentsConfig, AgentTypeConfig, Config
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    RunningDaemon,
    kinds,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

Scope = pb.Scope
Code = grpc.StatusCode
AGENTS = AgentsConfig(
    default_type="system",
    types=tuple(
        AgentTypeConfig(name=name, match=(f"{name}-*",)) for name in ("opus", "sonnet", "system")
    ),
)
CONFIG = Config(
    server=FREE_PORTS,
    backends=(BACKEND.model_copy(update={"slots": 1}),),
    agents=AGENTS,
    **QUICK,
)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(CONFIG) as running:
        yield running


async def ran(daemon: RunningDaemon, agent_id: str, request_id: str = "") -> None:
    """A request of this agent came and is complete."""
    stream = daemon.inference.Generate(generate(agent_id=agent_id, request_id=request_id))
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")


async def occupied(daemon: RunningDaemon) -> tuple[Any, Any]:
    """(stream, backend's call) of a request that holds the only slot."""
    stream = daemon.inference.Generate(generate(agent_id="opus-1", request_id="runs"))
    await read_until(stream, "started")
    return stream, await daemon.backend.calls.get()


async def waiting(daemon: RunningDaemon, agent_id: str, request_id: str = "waits") -> Any:
    stream = daemon.inference.Generate(generate(agent_id=agent_id, request_id=request_id))
    await read_until(stream, "queued")
    return stream


def levers(daemon: RunningDaemon, scope: pb.Scope) -> tuple[Any, ...]:
    admin = daemon.admin
    return (
        admin.Boost(pb.BoostRequest(scope=scope, weight_factor=2)),
        admin.Block(pb.BlockRequest(scope=scope)),
        admin.Pause(pb.PauseRequest(scope=scope)),
        admin.Resume(pb.ResumeRequest(scope=scope)),
    )


async def test_an_agent_that_is_not_known_is_told_with_the_nearest(daemon: RunningDaemon) -> None:
    await ran(daemon, "opus-1")
    await ran(daemon, "sonnet-77")
    for call in levers(daemon, Scope(agent_id="opsu-1")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "AGENT_NOT_FOUND")
        assert refusal.about["nearest"].split(",")[0] == "opus-1"
        assert "opus-1" in refusal.message
    agents = (await daemon.admin.ListAgents(pb.ListAgentsRequest())).agents
    assert not any(each.boosted or each.blocked or each.paused for each in agents)


async def test_a_type_that_there_is_not_is_told_with_the_nearest(daemon: RunningDaemon) -> None:
    for call in levers(daemon, Scope(agent_type="sonet")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refusal.violations["scope.agent_type"].startswith(
            "'sonet' is no type of agents; nearest: sonnet, "
        )


async def test_a_blocked_agent_is_refused_until_it_is_resumed(daemon: RunningDaemon) -> None:
    await ran(daemon, "opus-1")
    scope = Scope(agent_id="opus-1")
    assert (await daemon.admin.Block(pb.BlockRequest(scope=scope))).agents == 1
    refusal = await refused(daemon.inference.Generate(generate(agent_id="opus-1")))
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "AGENT_BLOCKED")
    assert (refusal.about["outcome"], refusal.retry_after_s) == ("refused", None)
    await ran(daemon, "opus-2")
    assert (await daemon.admin.Resume(pb.ResumeRequest(scope=scope))).agents == 1
    await ran(daemon, "opus-1")


async def test_a_type_is_blocked_before_its_first_agent_comes(daemon: RunningDaemon) -> None:
    answer = await daemon.admin.Block(pb.BlockRequest(scope=Scope(agent_type="sonnet")))
    assert answer.agents == 0
    refusal = await refused(daemon.inference.Generate(generate(agent_id="sonnet-1")))
    assert refusal.reason == "AGENT_BLOCKED"
    await ran(daemon, "opus-1")


@pytest.mark.parametrize("cancel_waiting", [False, True])
async def test_what_waits_of_a_blocked_agent_goes_on_unless_it_is_cancelled(
    daemon: RunningDaemon, cancel_waiting: bool
) -> None:
    running, call = await occupied(daemon)
    waits = await waiting(daemon, "opus-2")
    scope = Scope(agent_id="opus-2")
    await daemon.admin.Block(pb.BlockRequest(scope=scope, cancel_waiting=cancel_waiting))
    if cancel_waiting:
        refusal = await refused(waits)
        assert (refusal.code, refusal.reason) == (Code.CANCELLED, "CANCELLED")
        assert refusal.about["outcome"] == "cancelled"
    call.complete()
    await read_until(running, "done")
    if not cancel_waiting:
        (await daemon.backend.calls.get()).complete()
        await read_until(waits, "done")
    await daemon.outcomes()
    assert not daemon.backend.was_reached


@pytest.mark.parametrize(
    "scope", [None, Scope(), Scope(agent_type="opus"), Scope(agent_id="opus-1")], ids=str
)
async def test_nothing_of_the_paused_starts_until_they_are_resumed(
    daemon: RunningDaemon, scope: pb.Scope | None
) -> None:
    await ran(daemon, "opus-1")
    assert (await daemon.admin.Pause(pb.PauseRequest(scope=scope))).agents == 1
    stream = daemon.inference.Generate(generate(agent_id="opus-1", request_id="held"))
    (queued,) = await read_until(stream, "queued")
    assert queued.queued.reason == common_pb2.WAIT_REASON_PAUSED
    story = await daemon.admin.Explain(pb.ExplainRequest(request_id="held"))
    assert story.wait_reason == common_pb2.WAIT_REASON_PAUSED
    assert not daemon.backend.was_reached
    await daemon.admin.Resume(pb.ResumeRequest(scope=scope))
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")


async def test_the_story_of_a_request_from_its_queue_to_its_end(daemon: RunningDaemon) -> None:
    running, call = await occupied(daemon)
    waits = await waiting(daemon, "opus-2")
    story = await daemon.admin.Explain(pb.ExplainRequest(request_id="waits"))
    assert (story.agent_id, story.state, story.position) == ("opus-2", "queued", 1)
    assert story.wait_reason == common_pb2.WAIT_REASON_SLOT
    assert "talk:latest" in story.wait_detail
    assert (story.priority, story.compartment) == (5, "opus")
    assert story.age_ms == story.queue_wait_ms > 0
    assert all(each.passed for each in story.gates)
    assert {"request bucket", "backpressure"} <= {each.name for each in story.gates}
    call.complete()
    await read_until(running, "done")
    await read_until(waits, "started")
    story = await daemon.admin.Explain(pb.ExplainRequest(agent_id="opus-2", request_id="waits"))
    assert (story.state, story.position) in (("dispatched", 0), ("streaming", 0))
    assert story.HasField("run_ms")
    (await daemon.backend.calls.get()).complete()
    await read_until(waits, "done")
    story = await daemon.admin.Explain(pb.ExplainRequest(request_id="waits"))
    assert (story.state, story.problem, list(story.overtakings)) == ("completed", "", [])
    assert story.ended_ago_ms > 0
    assert story.complete


async def test_the_story_of_a_refusal_names_its_gate(daemon: RunningDaemon) -> None:
    await daemon.admin.Block(pb.BlockRequest(scope=Scope(agent_type="opus")))
    refusal = await refused(daemon.inference.Generate(generate(request_id="no")))
    story = await daemon.admin.Explain(pb.ExplainRequest(agent_id="opus-1", request_id="no"))
    assert (story.state, story.problem) == ("refused", refusal.message)
    assert [each.passed for each in story.gates].count(False) == 1
    assert not story.gates[-1].passed


async def test_who_overtook_it_is_named_with_a_rule(daemon: RunningDaemon) -> None:
    running, call = await occupied(daemon)
    waits = await waiting(daemon, "opus-2")
    urgent = daemon.inference.Generate(generate(agent_id="opus-3", request_id="urgent", priority=1))
    await read_until(urgent, "queued")
    call.complete()
    await read_until(running, "done")
    await read_until(urgent, "started")
    story = await daemon.admin.Explain(pb.ExplainRequest(request_id="waits"))
    (overtaking,) = story.overtakings
    assert overtaking.rule.startswith("priority")
    assert overtaking.count == 1
    assert list(overtaking.examples) == [pb.RequestName(agent_id="opus-3", request_id="urgent")]
    for stream in (urgent, waits):
        (await daemon.backend.calls.get()).complete()
        await read_until(stream, "done")


async def test_an_id_that_several_agents_use_needs_the_agent(daemon: RunningDaemon) -> None:
    running, call = await occupied(daemon)
    streams = [await waiting(daemon, f"opus-{number}", "same") for number in (2, 3)]
    for method, make in (
        (daemon.admin.Explain, pb.ExplainRequest),
        (daemon.admin.CancelRequest, pb.CancelRequestRequest),
    ):
        any_method: Any = method
        refusal = await refused(any_method(make(request_id="same")))
        assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refusal.violations["agent_id"].endswith("'same': opus-2, opus-3")
        refusal = await refused(any_method(make(request_id="none")))
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "REQUEST_UNKNOWN")
        refusal = await refused(any_method(make(agent_id="opus-9", request_id="same")))
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "REQUEST_UNKNOWN")
    asked = pb.CancelRequestRequest(agent_id="opus-3", request_id="same")
    assert (await daemon.admin.CancelRequest(asked)).state == "queued"
    refusal = await refused(streams[1])
    assert (refusal.code, refusal.reason) == (Code.CANCELLED, "CANCELLED")
    assert "operator" in refusal.message
    # Of the two, one is over; the other is now the one that is meant.
    answer = await daemon.admin.CancelRequest(pb.CancelRequestRequest(request_id="same"))
    assert (answer.agent_id, answer.state) == ("opus-2", "queued")
    await refused(streams[0])
    call.complete()
    assert kinds(await read_until(running, "done"))[-1] == "done"


async def test_a_request_that_runs_is_cancelled_by_an_operator(daemon: RunningDaemon) -> None:
    running, _ = await occupied(daemon)
    answer = await daemon.admin.CancelRequest(pb.CancelRequestRequest(request_id="runs"))
    assert (answer.agent_id, answer.state) == ("opus-1", "dispatched")
    assert (await refused(running)).code is Code.CANCELLED
    story = await daemon.admin.Explain(pb.ExplainRequest(request_id="runs"))
    assert story.state in ("cancelling", "cancelled")


async def test_agents_are_listed_with_what_was_said_of_them(daemon: RunningDaemon) -> None:
    assert not (await daemon.admin.ListAgents(pb.ListAgentsRequest())).agents
    for agent_id in ("sonnet-1", "opus-2", "opus-1"):
        await ran(daemon, agent_id)
    boost = pb.BoostRequest(scope=Scope(agent_type="opus"), weight_factor=2, priority_best=4)
    assert (await daemon.admin.Boost(boost)).agents == 2
    await daemon.admin.Pause(pb.PauseRequest(scope=Scope(agent_id="opus-2")))
    first = await daemon.admin.ListAgents(pb.ListAgentsRequest(page_size=2))
    assert [each.agent_id for each in first.agents] == ["opus-1", "opus-2"]
    assert [(each.weight, each.priority_best) for each in first.agents] == [(2, 4), (2, 4)]
    assert [(each.boosted, each.paused) for each in first.agents] == [(True, False), (True, True)]
    assert [(each.arrived, each.ended, each.running) for each in first.agents] == [(1, 1, 0)] * 2
    assert not first.agents[0].HasField("requests_left")
    token = first.next_page_token
    rest = await daemon.admin.ListAgents(pb.ListAgentsRequest(page_size=2, page_token=token))
    assert [each.agent_id for each in rest.agents] == ["sonnet-1"]
    assert (rest.agents[0].agent_type, rest.next_page_token) == ("sonnet", "")


async def test_a_lever_that_holds_for_a_while_ends_by_itself(daemon: RunningDaemon) -> None:
    await daemon.admin.Pause(pb.PauseRequest(for_ms=50))
    stream = daemon.inference.Generate(generate(agent_id="opus-1"))
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).complete()
    assert kinds(await read_until(stream, "done")) == ["done"]


async def test_without_a_file_there_is_nothing_to_reload(daemon: RunningDaemon) -> None:
    report = await daemon.admin.Reload(pb.ReloadRequest())
    assert (list(report.changed), list(report.needs_restart)) == ([], [])
    assert "without a configuration file" in report.problems[0]
