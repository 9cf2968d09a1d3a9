"""Publishing and listening, by both clients against a scripted broker: one suite, played twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client import (
    AsyncClient,
    Client,
    ConnectionLost,
    Draining,
    LevelStatus,
    Missed,
    News,
    Payload,
    Published,
    SubscribersFull,
    TopicEvent,
    TopicReserved,
)
from broker_client.pb.broker.v1 import admin_pb2, common_pb2
from broker_client.pb.broker.v1 import pubsub_pb2 as pb
from tests.integration.scripted_broker import Context, ScriptedBroker, Turn, refuse, serving

PATIENCE_S = 30.0


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


class AsyncListener:
    """Publishes and listens with the asyncio client."""

    def __init__(self, address: str) -> None:
        self._client = AsyncClient(address, agent_id="opus-1")
        self._subscription = self._client.subscribe()

    async def publish(self, *args: Any, **kwargs: Any) -> Published:
        return await self._client.publish(*args, **kwargs)

    async def open(self, *topics: str) -> None:
        self._subscription = self._client.subscribe(*topics)
        await self._subscription.__aenter__()

    async def read(self) -> News:
        return await anext(self._subscription)

    async def leave(self) -> None:
        await self._subscription.aclose()

    async def close(self) -> None:
        await self._client.close()


class SyncListener:
    """The same with the blocking client, from threads."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, agent_id="opus-1")
        self._subscription = self._client.subscribe()

    async def publish(self, *args: Any, **kwargs: Any) -> Published:
        return await asyncio.to_thread(self._client.publish, *args, **kwargs)

    async def open(self, *topics: str) -> None:
        self._subscription = self._client.subscribe(*topics)
        await asyncio.to_thread(self._subscription.__enter__)

    async def read(self) -> News:
        return await asyncio.to_thread(next, self._subscription)

    async def leave(self) -> None:
        self._subscription.close()

    async def close(self) -> None:
        self._client.close()


Listener = AsyncListener | SyncListener


@pytest_asyncio.fixture(params=[AsyncListener, SyncListener])
async def listener(
    request: pytest.FixtureRequest, broker: ScriptedBroker
) -> AsyncIterator[Listener]:
    made: Listener = request.param(broker.address)
    yield made
    await made.close()


def payload(seq: int) -> pb.Event:
    event = pb.Event(seq=seq, topic="team:a", publisher="opus-2", payload=pb.Payload(data=b"hi"))
    event.at.FromSeconds(1_700_000_000)
    return event


def level() -> pb.Event:
    status = admin_pb2.LevelStatus(level=common_pb2.DEGRADATION_LEVEL_2, why="memory")
    return pb.Event(seq=3, topic="level", is_state=True, level=status)


def says(*messages: pb.SubscribeResponse, then: Callable[[Context], Any] | None = None) -> Turn:
    """The turn of a broker that sends these, and then ends the call as it is told, or does not."""

    async def turn(request: pb.SubscribeRequest, context: Context) -> AsyncIterator[Any]:
        for message in messages:
            yield message
        if then is not None:
            await then(context)
        await asyncio.Event().wait()

    return turn


async def test_what_is_published_comes_whole(broker: ScriptedBroker, listener: Listener) -> None:
    told = await listener.publish("team:a", b"12345", content_type="text/plain")
    assert told == Published(seq=5, subscribers=2)
    with pytest.raises(TopicReserved):
        await listener.publish("level")


async def test_states_come_first_then_events_then_what_was_missed(
    broker: ScriptedBroker, listener: Listener
) -> None:
    broker.script.append(
        says(
            pb.SubscribeResponse(events=[level()]),
            pb.SubscribeResponse(events=[payload(4)]),
            pb.SubscribeResponse(missed=7, events=[payload(12), payload(13)]),
        )
    )
    await listener.open("level", "team:*")
    assert list(broker.requests[0].topics) == ["level", "team:*"]
    assert broker.requests[0].agent_id == "opus-1"
    state = await listener.read()
    assert isinstance(state, TopicEvent)
    assert (state.seq, state.topic, state.is_state) == (3, "level", True)
    assert isinstance(state.what, LevelStatus)
    assert (state.what.level, state.what.why) == ("2", "memory")
    assert await listener.read() == TopicEvent(
        seq=4,
        topic="team:a",
        at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        publisher="opus-2",
        is_state=False,
        what=Payload(data=b"hi", content_type=""),
    )
    assert await listener.read() == Missed(count=7)
    assert [(await listener.read()).seq for _ in range(2)] == [12, 13]  # type: ignore[union-attr]


async def test_an_event_of_a_kind_not_known_yet_is_told_without_its_content(
    broker: ScriptedBroker, listener: Listener
) -> None:
    broker.script.append(says(pb.SubscribeResponse(events=[pb.Event(seq=1, topic="new")])))
    await listener.open("**")
    event = await listener.read()
    assert isinstance(event, TopicEvent)
    assert (event.topic, event.what) == ("new", None)


async def test_a_refusal_is_raised_when_it_is_opened(
    broker: ScriptedBroker, listener: Listener
) -> None:
    async def refusing(context: Context) -> None:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "SUBSCRIBERS_FULL", retry_after_ms=2000)

    broker.script.append(says(then=refusing))
    with pytest.raises(SubscribersFull) as caught:
        await listener.open("**")
    assert caught.value.retry_after_s == 2


async def test_a_broker_that_leaves_says_so(broker: ScriptedBroker, listener: Listener) -> None:
    async def leaving(context: Context) -> None:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_after_ms=1000)

    broker.script.append(says(pb.SubscribeResponse(events=[payload(1)]), then=leaving))
    await listener.open("**")
    await listener.read()
    with pytest.raises(Draining):
        await listener.read()


async def test_a_connection_that_breaks_is_not_taken_for_silence(
    broker: ScriptedBroker, listener: Listener
) -> None:
    broker.script.append(says(pb.SubscribeResponse()))
    await listener.open("**")
    broker.wire.cut()
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(listener.read(), PATIENCE_S)


async def test_leaving_ends_the_call(broker: ScriptedBroker, listener: Listener) -> None:
    gone = asyncio.Event()

    async def hang(request: pb.SubscribeRequest, context: Context) -> AsyncIterator[Any]:
        try:
            yield pb.SubscribeResponse()
            await asyncio.Event().wait()
        finally:
            gone.set()

    broker.script.append(hang)
    await listener.open("**")
    await listener.leave()
    await asyncio.wait_for(gone.wait(), PATIENCE_S)


async def test_a_thread_that_waits_is_let_go_by_another(broker: ScriptedBroker) -> None:
    began = asyncio.Event()

    async def hang(request: pb.SubscribeRequest, context: Context) -> AsyncIterator[Any]:
        yield pb.SubscribeResponse(events=[payload(1)])
        began.set()
        await asyncio.Event().wait()

    broker.script.append(hang)
    with Client(broker.address, agent_id="opus-1") as client:
        subscription = client.subscribe("**")
        read = asyncio.ensure_future(asyncio.to_thread(list, subscription))
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        subscription.close()
        found = await asyncio.wait_for(read, PATIENCE_S)
    assert len(found) <= 1
