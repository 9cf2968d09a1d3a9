"""PubSub over the wire: the real daemon, real streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from broker.config.machine import PubSubConfig
from broker.config.schema import AgentsConfig, AgentTypeConfig, Config
from broker.core.effects import TellLevel
from broker.core.level import Level
from broker.core.views import AlertView
from broker_client.pb.broker.v1 import admin_pb2, common_pb2, models_pb2, pubsub_pb2_grpc
from broker_client.pb.broker.v1 import pubsub_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    PATIENCE_S,
    QUICK,
    RunningDaemon,
    finish,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

Code = grpc.StatusCode
AGENTS = AgentsConfig(
    default_type="",
    types=(AgentTypeConfig(name="opus", match=("opus-*",)),),
)
PUBSUB = PubSubConfig(
    subscribers_max=4,
    subscribers_per_agent_max=3,
    subscriber_events_max=8,
    subscriber_bytes_max=65_536,
    publishes_per_minute=1.0,
    publishes_burst=1000.0,
    payload_bytes_max=1_000,
)
CONFIG = Config(server=FREE_PORTS, backends=(BACKEND,), agents=AGENTS, pubsub=PUBSUB, **QUICK)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(CONFIG) as running:
        yield running


def subscribe(daemon: RunningDaemon, *topics: str, agent_id: str = "opus-1") -> Any:
    return daemon.pubsub.Subscribe(pb.SubscribeRequest(agent_id=agent_id, topics=topics))


async def read(stream: Any) -> pb.SubscribeResponse:
    """The next message."""
    message = await asyncio.wait_for(stream.read(), PATIENCE_S)
    assert isinstance(message, pb.SubscribeResponse), "the stream ended"
    return message


async def until(stream: Any, holds: Callable[[pb.Event], bool]) -> pb.Event:
    """The first event that this holds for."""
    while True:
        for event in (await read(stream)).events:
            if holds(event):
                return event


async def publish(daemon: RunningDaemon, topic: str, **changed: Any) -> pb.PublishResponse:
    request = pb.PublishRequest(**{"agent_id": "opus-1", "topic": topic, **changed})
    return await daemon.pubsub.Publish(request)


# Free topics


async def test_what_an_agent_publishes_reaches_those_who_asked_for_it(
    daemon: RunningDaemon,
) -> None:
    exact, wild, other = (subscribe(daemon, each) for each in ("team:a:done", "team:**", "team:*"))
    for stream in (exact, wild, other):
        assert await read(stream) == pb.SubscribeResponse()  # no state of these: at once, empty
    told = await publish(daemon, "team:a:done", payload=b"\0\xff", content_type="a/b")
    assert told.subscribers == 2
    for stream in (exact, wild):
        (event,) = (await read(stream)).events
        assert (event.seq, event.topic, event.publisher) == (told.seq, "team:a:done", "opus-1")
        assert event.payload == pb.Payload(data=b"\0\xff", content_type="a/b")
        assert event.at.ToNanoseconds() > 0
        assert not event.is_state
    assert (await publish(daemon, "team:b")).subscribers == 2
    assert [each.topic for each in (await read(other)).events] == ["team:b"]


async def test_an_event_that_fits_several_patterns_is_told_once(daemon: RunningDaemon) -> None:
    stream = subscribe(daemon, "team:a", "team:*", "team:**", "team:a")
    await read(stream)
    assert (await publish(daemon, "team:a")).subscribers == 1
    await publish(daemon, "team:b")
    topics: list[str] = []
    while len(topics) < 2:
        topics += [each.topic for each in (await read(stream)).events]
    assert topics == ["team:a", "team:b"]


@pytest.mark.parametrize(
    "topic", ["capacity", "level", "priority", "models", "requests", "alerts", "health"]
)
async def test_the_brokers_own_topics_are_its_own(daemon: RunningDaemon, topic: str) -> None:
    refusal = await refused(
        daemon.pubsub.Publish(pb.PublishRequest(agent_id="opus-1", topic=topic))
    )
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "TOPIC_RESERVED")
    assert refusal.retry_after_s is None


async def test_so_are_they_by_the_seeds_names(daemon: RunningDaemon) -> None:
    for name, topic in (
        ("ollama:capacity:update", "capacity"),
        ("system:degradation:level", "level"),
        ("agent:priority:change", "priority"),
    ):
        refusal = await refused(
            daemon.pubsub.Publish(pb.PublishRequest(agent_id="opus-1", topic=name))
        )
        assert refusal.reason == "TOPIC_RESERVED"
        assert topic in refusal.message
        states = (await read(subscribe(daemon, name, agent_id=f"opus-{topic}"))).events
        told = [(each.topic, each.is_state) for each in states]
        # Of priorities nothing is in force.
        assert told == ([] if topic == "priority" else [(topic, True)])


# Who may


async def test_who_is_of_no_type_may_neither_speak_nor_listen(daemon: RunningDaemon) -> None:
    speaking = daemon.pubsub.Publish(pb.PublishRequest(agent_id="robot", topic="a"))
    for call in (speaking, subscribe(daemon, "a", agent_id="robot")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "AGENT_UNKNOWN")
        assert "opus-*" in refusal.violations["agent_id"]


async def test_who_is_blocked_may_listen_but_not_speak(daemon: RunningDaemon) -> None:
    scope = admin_pb2.Scope(agent_type="opus")
    await daemon.admin.Block(admin_pb2.BlockRequest(scope=scope))
    refusal = await refused(daemon.pubsub.Publish(pb.PublishRequest(agent_id="opus-1", topic="a")))
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "AGENT_BLOCKED")
    stream = subscribe(daemon, "agent:priority:change")
    blocked = await until(stream, lambda event: event.priority.blocked)
    assert (blocked.is_state, blocked.priority.scope) == (True, scope)
    await daemon.admin.Resume(admin_pb2.ResumeRequest(scope=scope))
    resumed = await until(stream, lambda event: not event.priority.blocked)
    assert (resumed.is_state, resumed.priority.scope) == (False, scope)
    assert resumed.seq > blocked.seq
    await publish(daemon, "a")
    later = subscribe(daemon, "priority")
    assert await read(later) == pb.SubscribeResponse()  # nothing is in force any more


async def test_a_publisher_that_floods_meets_its_own_bucket(daemon: RunningDaemon) -> None:
    burst = int(PUBSUB.publishes_burst)
    calls = [
        daemon.pubsub.Publish(pb.PublishRequest(agent_id="opus-1", topic="a")) for _ in range(burst)
    ]
    await asyncio.gather(*calls)
    refusal = await refused(daemon.pubsub.Publish(pb.PublishRequest(agent_id="opus-1", topic="a")))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "PUBLISH_RATE_LIMITED")
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= 60
    await publish(daemon, "a", agent_id="opus-2")  # nobody else is held back


async def test_an_agents_places_and_all_places_are_bounded_and_come_free(
    daemon: RunningDaemon,
) -> None:
    mine = [subscribe(daemon, "a") for _ in range(3)]
    for stream in mine:
        await read(stream)
    refusal = await refused(subscribe(daemon, "a"))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "AGENT_SUBSCRIBERS_FULL")
    assert refusal.retry_after_s is not None
    other = subscribe(daemon, "a", agent_id="opus-2")
    await read(other)
    refusal = await refused(subscribe(daemon, "a", agent_id="opus-3"))
    assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "SUBSCRIBERS_FULL")
    assert refusal.retry_after_s is not None
    mine[0].cancel()
    other.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while (await publish(daemon, "a")).subscribers > 2:
            pass
    await read(subscribe(daemon, "a"))
    await read(subscribe(daemon, "a", agent_id="opus-3"))


async def test_a_subscriber_that_vanishes_frees_its_place(daemon: RunningDaemon) -> None:
    async with daemon.open_channel() as channel:
        stub = pubsub_pb2_grpc.PubSubStub(channel)
        stream = stub.Subscribe(pb.SubscribeRequest(agent_id="opus-1", topics=["a"]))
        await read(stream)
        assert (await publish(daemon, "a")).subscribers == 1
    async with asyncio.timeout(PATIENCE_S):
        while (await publish(daemon, "a")).subscribers:
            pass


# Slow ones


async def test_a_subscriber_that_never_reads_misses_a_counted_number_and_disturbs_nobody(
    daemon: RunningDaemon,
) -> None:
    """It stops reading at the transport: its window is small and nobody empties it."""
    narrow = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    async with daemon.open_channel(*narrow) as channel:
        stub = pubsub_pb2_grpc.PubSubStub(channel)
        slow = stub.Subscribe(pb.SubscribeRequest(agent_id="opus-slow", topics=["a", "level"]))
        await read(slow)
        quick = subscribe(daemon, "a")
        await read(quick)
        sent = 900
        seen: list[int] = []
        numbers: list[int] = []
        for _ in range(sent):
            numbers.append((await publish(daemon, "a", payload=b"x" * 1_000)).seq)
            while not seen or seen[-1] < numbers[-1]:
                message = await read(quick)
                assert message.missed == 0
                seen += [each.seq for each in message.events]
        for level in (Level.LEVEL_1, Level.LEVEL_2):
            daemon.parts.topics.level_changed(
                TellLevel(level=level, before=Level.NORMAL, why="by the test")
            )
        assert seen == numbers
        got: list[int] = []
        missed = states = 0
        while len(got) + missed < sent or not states:
            message = await read(slow)
            missed += message.missed
            got += [each.seq for each in message.events if each.topic == "a"]
            states += sum(each.topic == "level" for each in message.events)
        assert missed > 0
        assert len(got) + missed == sent
        assert got == sorted(set(got))
        assert got[-1] == numbers[-1]  # it is the oldest that were dropped
        assert states == 1  # of two levels the last


# The broker's own topics


async def test_the_present_state_comes_first_and_all_at_once(daemon: RunningDaemon) -> None:
    events = {each.topic: each for each in (await read(subscribe(daemon, "**"))).events}
    assert set(events) == {"capacity", "level", "models", "alerts"}
    assert all(each.is_state and each.seq == 0 and not each.publisher for each in events.values())
    assert events["capacity"].capacity.queued_max == 1000
    assert events["capacity"].capacity.backends_up == ["b"]
    assert events["capacity"].capacity.level == common_pb2.DEGRADATION_LEVEL_NORMAL
    assert events["level"].level.level == common_pb2.DEGRADATION_LEVEL_NORMAL
    assert events["level"].level.automatic
    assert not events["alerts"].alerts.firing
    assert not events["models"].models.models


async def test_a_request_is_followed_from_its_start_to_its_end(daemon: RunningDaemon) -> None:
    stream = subscribe(daemon, "requests", "models", "capacity")
    await read(stream)
    call = daemon.inference.Generate(generate(request_id="r", agent_id="opus-7", priority=3))
    await read_until(call, "started")
    started = await until(stream, lambda event: event.topic == "requests")
    fake = await daemon.backend.calls.get()
    fake.say("word")
    fake.complete()
    await read_until(call, "done")
    ended = await until(stream, lambda event: event.topic == "requests")
    assert (started.request.state, ended.request.state) == ("started", "completed")
    for request in (started.request, ended.request):
        assert (request.agent_id, request.request_id) == ("opus-7", "r")
        assert (request.model, request.backend, request.priority) == ("talk:latest", "b", 3)
        assert request.level == common_pb2.DEGRADATION_LEVEL_NORMAL
        assert request.reason == ""
    assert not started.request.HasField("total_ms")
    assert ended.request.total_ms >= ended.request.first_token_ms > 0
    assert ended.request.usage.output_tokens >= 1


async def test_a_refusal_is_told_with_its_reason(daemon: RunningDaemon) -> None:
    stream = subscribe(daemon, "requests")
    await read(stream)
    await refused(daemon.inference.Generate(generate(model="absent", agent_id="opus-7")))
    event = await until(stream, lambda event: event.topic == "requests")
    assert (event.request.state, event.request.reason) == ("refused", "MODEL_UNKNOWN")
    assert not event.request.HasField("first_token_ms")


async def test_models_and_capacity_are_told_when_they_change(daemon: RunningDaemon) -> None:
    stream = subscribe(daemon, "models", "ollama:capacity:update")
    await read(stream)
    call = daemon.inference.Generate(generate(agent_id="opus-7"))
    await read_until(call, "started")

    def is_resident(event: pb.Event) -> bool:
        return any(
            each.place.state == models_pb2.MODEL_STATE_RESIDENT for each in event.models.models
        )

    def is_running(event: pb.Event) -> bool:
        return event.capacity.running == 1 and event.capacity.slots == 4

    waiting = [is_resident, is_running]
    told: list[pb.Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while waiting:
            told += (await read(stream)).events
            waiting = [each for each in waiting if not any(map(each, told))]
    resident = next(filter(is_resident, told)).models.models[0]
    assert (resident.name, resident.place.backend) == ("talk:latest", "b")
    assert all(not each.is_state for each in told)
    assert [each.seq for each in told] == sorted(each.seq for each in told)
    (await daemon.backend.calls.get()).complete()
    await finish(call)


async def test_a_change_of_the_level_is_told_and_is_the_state_of_newcomers(
    daemon: RunningDaemon,
) -> None:
    stream = subscribe(daemon, "system:*:level")
    assert (await read(stream)).events[0].seq == 0
    daemon.parts.topics.level_changed(
        TellLevel(level=Level.LEVEL_1, before=Level.NORMAL, why="by the test")
    )
    changed = await until(stream, lambda event: event.topic == "level")
    assert not changed.is_state
    (state,) = (await read(subscribe(daemon, "level"))).events
    assert (state.seq, state.is_state) == (changed.seq, True)


async def test_alerts_are_told_and_are_the_state_of_newcomers(daemon: RunningDaemon) -> None:
    stream = subscribe(daemon, "alerts")
    await read(stream)
    alert = AlertView(
        name="QueueSaturation",
        severity="warning",
        summary="the queue is at 90 %",
        runbook="look who sends",
        since_ns=0,
    )
    daemon.parts.topics.alerts_changed((alert,))
    for message in (await read(stream), await read(subscribe(daemon, "alerts"))):
        (firing,) = message.events[0].alerts.firing
        assert (firing.name, firing.severity) == ("QueueSaturation", "warning")
        assert firing.runbook == "look who sends"
        assert firing.since_ms > 0


# The end


async def test_a_broker_that_stops_tells_its_subscribers_and_waits_for_none(
    daemon: RunningDaemon,
) -> None:
    streams = [subscribe(daemon, "**") for _ in range(2)]
    for stream in streams:
        await read(stream)
    await daemon.admin.Drain(admin_pb2.DrainRequest(timeout_ms=1_000))
    await asyncio.wait_for(daemon.parts.driver.wait_drained(), PATIENCE_S)
    await publish(daemon, "still")  # those who watch it leave hear what happens to the end
    await until(streams[0], lambda event: event.topic == "still")
    daemon.parts.bus.close()
    for call in (*streams, subscribe(daemon, "**")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "DRAINING")
        assert refusal.retry_after_s is not None


async def test_it_is_listed_among_the_services(daemon: RunningDaemon) -> None:
    health = health_pb2_grpc.HealthStub(daemon.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="broker.v1.PubSub"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
