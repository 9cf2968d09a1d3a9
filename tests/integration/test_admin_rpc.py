"""Admin over the wire: the present state of everything, and the beginning of a drain."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import Config, LimitsConfig, QueueConfig
from broker.config.serving import PlacementConfig
from broker.core.errors import BackendFailed, BackendUnreachable
from broker.daemon.wiring import broker_version
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2, models_pb2
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


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    one_slot = BACKEND.model_copy(update={"slots": 1})
    async with running_daemon(Config(server=FREE_PORTS, backends=(one_slot,), **QUICK)) as running:
        yield running


async def test_an_idle_broker_says_what_it_is(daemon: RunningDaemon) -> None:
    status = await daemon.admin.GetStatus(pb.GetStatusRequest(requests_max=10))
    assert status.version == broker_version()
    assert status.uptime_s > 0
    assert not status.draining
    assert status.level == common_pb2.DEGRADATION_LEVEL_NORMAL
    assert (status.queued, status.queued_max, status.running) == (0, 1000, 0)
    assert not status.requests
    assert all(each.count == 0 for each in status.outcomes)
    (backend,) = status.backends
    assert (backend.name, backend.kind, backend.url) == ("b", "fake", "fake://")
    assert (backend.up, backend.problem, backend.version) == (True, "", "1.2.3")
    assert not backend.models


async def test_what_runs_and_what_waits_is_shown(daemon: RunningDaemon) -> None:
    running = daemon.inference.Generate(generate(request_id="runs", priority=2))
    await read_until(running, "started")
    call = await daemon.backend.calls.get()
    call.say("a", "b")
    await read_until(running, "chunk")
    waiting = daemon.inference.Generate(generate(request_id="waits", agent_id="opus-2"))
    await read_until(waiting, "queued")
    status = await daemon.admin.GetStatus(pb.GetStatusRequest(requests_max=10))
    assert (status.queued, status.running) == (1, 1)
    one, two = status.requests
    assert (one.request_id, one.agent_id, one.model) == ("runs", "opus-1", "talk")
    assert (one.priority, one.state, one.tokens, one.backend) == (2, "streaming", 2, "b")
    assert (one.wait_reason, one.wait_detail) == (common_pb2.WAIT_REASON_UNSPECIFIED, "")
    assert (two.request_id, two.agent_id, two.priority) == ("waits", "opus-2", 5)
    assert (two.state, two.tokens, two.backend) == ("queued", 0, "")
    assert two.wait_reason == common_pb2.WAIT_REASON_SLOT
    assert "talk:latest" in two.wait_detail
    assert one.age_ms >= two.age_ms > 0
    rows = {each.priority: (each.queued, each.running, each.ended) for each in status.priorities}
    assert rows == {2: (0, 1, 0), 5: (1, 0, 0)}
    (model,) = status.backends[0].models
    assert (model.name, model.queued, model.place.running) == ("talk:latest", 1, 1)
    assert model.place.state == models_pb2.MODEL_STATE_RESIDENT
    short = await daemon.admin.GetStatus(pb.GetStatusRequest(requests_max=1))
    assert [each.request_id for each in short.requests] == ["runs"]
    call.complete()
    await read_until(running, "done")
    (await daemon.backend.calls.get()).complete()
    await read_until(waiting, "done")
    assert await daemon.outcomes() == {"completed": 2}
    status = await daemon.admin.GetStatus(pb.GetStatusRequest())
    waits = {each.priority: each for each in status.priorities}
    assert (waits[2].ended, waits[5].ended) == (1, 1)
    assert waits[5].queue_wait_ms_mean == waits[5].queue_wait_ms_max > 0
    assert (status.backends[0].loads, status.backends[0].loads_failed) == (1, 0)


async def test_what_holds_requests_back_is_shown() -> None:
    few = LimitsConfig(queued_max=1)
    one_slot = BACKEND.model_copy(update={"slots": 1})
    queue = QueueConfig(announce_interval_ms=50, room_max=5, room_wait_ms=600_000)
    config = Config(
        server=FREE_PORTS,
        backends=(one_slot,),
        limits=few,
        queue=queue,
        placement=QUICK["placement"],
        bulkheads={"opus": 1},
    )
    async with running_daemon(config) as daemon:
        running = daemon.inference.Generate(generate(request_id="runs"))
        await read_until(running, "started")
        waiting = daemon.inference.Generate(generate(request_id="waits", agent_id="system-1"))
        await read_until(waiting, "queued")
        standing = daemon.inference.Generate(
            generate(request_id="stands", agent_id="opus-2", priority=3)
        )
        await daemon.until_status(lambda status: status.standing == 1)
        await refused(daemon.inference.Generate(generate(agent_id="system-2", priority=9)))
        await daemon.admin.Pause(pb.PauseRequest(scope=pb.Scope(agent_type="sonnet")))
        status = await daemon.admin.GetStatus(pb.GetStatusRequest(requests_max=10))
        assert (status.queued, status.standing, status.standing_max) == (1, 1, 5)
        assert list(status.bulkheads) == [
            pb.BulkheadStatus(compartment="opus", running=1, running_max=1)
        ]
        assert {each.request_id: each.compartment for each in status.requests} == {
            "runs": "opus",
            "waits": "",
            "stands": "opus",
        }
        assert list(status.paused) == ["agents of type sonnet"]
        assert list(status.refusals) == [pb.RefusalCount(reason="QUEUE_FULL", count=1)]
        assert status.agents == 4
        for each in (running, waiting, standing):
            each.cancel()


async def test_a_backend_that_is_away_says_why(daemon: RunningDaemon) -> None:
    daemon.backend.problem = BackendUnreachable("nobody listens there")
    status = await daemon.until_status(lambda status: not status.backends[0].up)
    assert status.backends[0].problem == "nobody listens there"


async def test_a_load_that_failed_is_counted(daemon: RunningDaemon) -> None:
    daemon.backend.load_problem = BackendFailed("broken file")
    too_soon_s = PlacementConfig().failed_load_hold_s / 2
    await refused(daemon.inference.Generate(generate(), timeout=too_soon_s))
    status = await daemon.admin.GetStatus(pb.GetStatusRequest())
    assert (status.backends[0].loads, status.backends[0].loads_failed) == (1, 1)


@pytest.mark.parametrize("timeout_ms", [None, 0, 60_000])
async def test_a_drain_says_what_is_under_way_and_refuses_what_comes(
    daemon: RunningDaemon, timeout_ms: int | None
) -> None:
    running = daemon.inference.Generate(generate())
    await read_until(running, "started")
    call = await daemon.backend.calls.get()
    answer = await daemon.admin.Drain(pb.DrainRequest(timeout_ms=timeout_ms))
    assert daemon.drains == [timeout_ms]
    assert answer.timeout_ms == (30_000 if timeout_ms is None else timeout_ms)
    assert (answer.queued, answer.running) == (0, 1)
    refusal = await refused(daemon.inference.Generate(generate()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert refusal.retry_after_s == 5.0
    assert (await daemon.admin.GetStatus(pb.GetStatusRequest())).draining
    assert (await daemon.get("/readyz")) == (503, "the broker is leaving\n")
    if timeout_ms == 0:
        refusal = await refused(running)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert refusal.about["outcome"] == "cancelled"
    else:
        call.complete()
        await read_until(running, "done")
    await daemon.parts.driver.wait_drained()
