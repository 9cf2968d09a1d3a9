"""The status over the wire while things happen: levels set by hand, waits, rates, watches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.core.ports import Resident
from broker_client import AsyncClient, Client, Draining, Status
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2, models_pb2
from tests.integration.daemon import (
    PATIENCE_S,
    LedBackend,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

LEVEL_2 = common_pb2.DEGRADATION_LEVEL_2
QUICKEST = pb.WatchStatusRequest(interval_ms=100)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon() as running:
        yield running


@pytest_asyncio.fixture
async def client(daemon: RunningDaemon) -> AsyncIterator[AsyncClient]:
    """It asks anew whenever it is asked."""
    async with AsyncClient(f"127.0.0.1:{daemon.port}", agent_id="opus-1", level_age_s_max=0) as one:
        yield one


async def test_a_level_set_by_hand_holds_until_it_is_given_back(
    daemon: RunningDaemon, client: AsyncClient
) -> None:
    assert not await client.is_degraded()
    held = await client.set_level("2")
    assert (held.level, held.level_before, held.automatic) == ("2", "normal", False)
    assert held.until_ms is None
    assert await client.is_degraded()
    status = await client.status()
    assert (status.level, status.level_status.level) == ("2", "2")
    assert {each.name for each in status.level_status.parts} >= {"queue", "wait"}
    given_back = await client.set_level(None)
    assert given_back.automatic
    assert given_back.why


async def test_the_blocking_client_sets_a_level_and_watches_it(daemon: RunningDaemon) -> None:
    def play() -> None:
        address = f"127.0.0.1:{daemon.port}"
        with Client(address, agent_id="opus-1", level_age_s_max=0) as blocking:
            assert (blocking.level(), blocking.is_degraded()) == ("normal", False)
            watch = blocking.watch_status(interval_s=0.1)
            assert next(watch).level == "normal"
            held = blocking.set_level("2", for_s=3600)
            assert (held.level, held.automatic) == ("2", False)
            assert blocking.is_degraded()
            seen = next(each for each in watch if each.level == "2")
            assert seen.level_status.until_ms is not None
            assert blocking.set_level(None).automatic
            next(each for each in watch if each.level_status.automatic)
            blocking.drain()
            with pytest.raises(Draining):
                deque(watch, maxlen=0)  # reads it to its end

    await asyncio.wait_for(asyncio.to_thread(play), PATIENCE_S)


async def test_a_level_set_for_a_while_says_how_long_yet(client: AsyncClient) -> None:
    held = await client.set_level("1", for_s=3600)
    assert held.until_ms is not None
    assert 0 < held.until_ms <= 3_600_000


async def test_rates_first_tokens_and_waits_are_of_what_runs(
    daemon: RunningDaemon, client: AsyncClient
) -> None:
    running = daemon.inference.Generate(generate(request_id="runs", priority=2))
    call = await daemon.backend.calls.get()
    call.say("a")
    await read_until(running, "chunk")
    call.say("b", "c")
    await read_until(running, "chunk")
    status = await client.status(requests_max=1)
    (request,) = status.requests
    assert request.tokens == 3
    assert status.tokens_per_s == request.tokens_per_s > 0
    assert request.substitute == ""
    assert status.first_token.count == 1
    assert 0 < status.first_token.p50_ms == status.first_token.p99_ms
    assert status.queue_wait.count == 1
    assert [(each.priority, each.queue_wait.count) for each in status.priorities] == [(2, 1)]
    (agent,) = status.agents_working
    assert (agent.agent_id, agent.agent_type) == ("opus-1", "opus")
    assert (agent.queued, agent.running) == (0, 1)
    call.complete()
    await read_until(running, "done")
    await daemon.outcomes()
    status = await client.status()
    assert (status.tokens_per_s, status.agents_working) == (0, ())
    assert status.first_token.count == 1


async def test_answers_say_the_level_at_which_they_began(
    daemon: RunningDaemon, client: AsyncClient
) -> None:
    await client.set_level("1")
    asked = asyncio.create_task(client.generate(model="talk", prompt="hi"))
    call = await daemon.backend.calls.get()
    await client.set_level(None)
    call.say("a")
    call.complete()
    answer = await asked
    assert (answer.level, answer.text, answer.cached) == ("1", "a", False)
    await client.set_level("1")
    assert (await client.embed(model="embed", inputs=["a"])).level == "1"


class Expiring(LedBackend):
    """Says that what it holds leaves at this moment of the wall's clock."""

    expires_unix_s: float | None = 4e9

    async def residents(self) -> tuple[Resident, ...]:
        found = await super().residents()
        return tuple(replace(each, expires_unix_s=self.expires_unix_s) for each in found)


async def test_a_resident_says_how_long_yet() -> None:
    backend = Expiring()
    backend.loaded["talk:latest"] = 4096
    async with running_daemon(backend=backend) as daemon:
        status = await daemon.admin.GetStatus(pb.GetStatusRequest())
        (model,) = status.backends[0].models
        assert model.place.state == models_pb2.MODEL_STATE_RESIDENT
        assert model.place.expires_ms > 0
        listed = await daemon.models.Get(models_pb2.GetRequest(name="talk"))
        assert listed.model.places[0].HasField("expires_ms")
        backend.expires_unix_s = None
        await daemon.until_status(
            lambda status: not status.backends[0].models[0].place.HasField("expires_ms")
        )


async def level_seen(watch: Any) -> int:
    """The level in the next status of a watch."""
    read = await asyncio.wait_for(watch.read(), PATIENCE_S)
    assert isinstance(read, pb.WatchStatusResponse), "the watch has ended"
    return read.status.level


async def test_a_watch_gives_the_first_at_once_and_then_what_changes(
    daemon: RunningDaemon,
) -> None:
    hourly = daemon.admin.WatchStatus(pb.WatchStatusRequest(interval_ms=3_600_000))
    assert await level_seen(hourly) == common_pb2.DEGRADATION_LEVEL_NORMAL
    hourly.cancel()
    quick = daemon.admin.WatchStatus(QUICKEST)
    await level_seen(quick)
    await daemon.admin.SetLevel(pb.SetLevelRequest(level=LEVEL_2))
    while await level_seen(quick) != LEVEL_2:
        pass
    quick.cancel()


async def test_a_watch_sees_a_drain_and_ends_when_the_broker_has_left(
    daemon: RunningDaemon, client: AsyncClient
) -> None:
    running = daemon.inference.Generate(generate())
    call = await daemon.backend.calls.get()
    seen: list[Status] = []
    is_watching = asyncio.Event()

    async def watch() -> None:
        async for status in client.watch_status(interval_s=0.1):
            seen.append(status)
            is_watching.set()
            if status.draining:
                call.complete()

    watching = asyncio.create_task(watch())
    await is_watching.wait()
    await daemon.admin.Drain(pb.DrainRequest())
    await read_until(running, "done")
    with pytest.raises(Draining):
        await asyncio.wait_for(watching, PATIENCE_S)
    assert not seen[0].draining
    assert any(each.draining and each.running for each in seen)


@pytest.mark.parametrize("field", ["requests_max", "interval_ms"])
async def test_a_watch_of_nonsense_is_refused_before_it_begins(
    daemon: RunningDaemon, field: str
) -> None:
    refusal = await refused(daemon.admin.WatchStatus(pb.WatchStatusRequest(**{field: -1})))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == [field]


async def test_all_that_is_wrong_with_a_level_is_named_together(daemon: RunningDaemon) -> None:
    request = pb.SetLevelRequest(for_ms=-1)
    request.level = 9  # type: ignore[assignment]  # no level
    refusal = await refused(daemon.admin.SetLevel(request))
    assert list(refusal.violations) == ["level", "for_ms"]
    status = await daemon.admin.GetStatus(pb.GetStatusRequest())
    assert status.level == common_pb2.DEGRADATION_LEVEL_NORMAL
