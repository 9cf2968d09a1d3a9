"""Models.Watch over the wire: the list at once and after every change, to any number of watchers,
however slowly they read, until the broker leaves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.models import ModelListConfig
from broker.config.schema import Config
from broker.core.errors import BackendUnreachable
from broker_client.pb.broker.v1 import models_pb2 as pb
from broker_client.pb.broker.v1 import pubsub_pb2
from tests.integration.daemon import (
    BACKEND,
    CAPABILITIES,
    FREE_PORTS,
    PATIENCE_S,
    QUICK,
    LedBackend,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

WATCHERS_MAX = 3
SELDOM = BACKEND.model_copy(update={"poll_interval_ms": 600_000})
CONFIG = Config(
    server=FREE_PORTS,
    backends=(SELDOM,),
    model_list=ModelListConfig(cache=False, watchers_max=WATCHERS_MAX, watch_interval_ms=50),
    **QUICK,
)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(CONFIG) as running:
        yield running


class Watch:
    """A call of Watch, and what it has told."""

    def __init__(self, daemon: RunningDaemon, request: pb.WatchRequest) -> None:
        self.call: Any = daemon.models.Watch(request)
        self.told: list[pb.WatchResponse] = []

    async def next(self) -> pb.WatchResponse:
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert isinstance(message, pb.WatchResponse), "the watch ended"
        self.told.append(message)
        return message

    async def until(self, holds: Callable[[pb.WatchResponse], bool]) -> pb.WatchResponse:
        while not holds(message := await self.next()):
            pass
        return message

    async def until_told(self, name: str, kind: str) -> pb.WatchResponse:
        return await self.until(lambda message: (name, kind) in kinds(message))


@asynccontextmanager
async def watching(daemon: RunningDaemon, **wanted: Any) -> AsyncIterator[Watch]:
    watch = Watch(daemon, pb.WatchRequest(**wanted))
    try:
        await watch.next()
        yield watch
    finally:
        watch.call.cancel()


def kinds(message: pb.WatchResponse) -> set[tuple[str, str]]:
    return {(each.name, each.kind) for each in message.changes}


def names(message: pb.WatchResponse) -> list[str]:
    return [each.name for each in message.list.models]


def put(backend: LedBackend, name: str, **changed: Any) -> None:
    """The backend has this model, or another one of this name."""
    others = tuple(each for each in backend.facts if each.name != name)
    new = {"name": name, "runner": name, "digest": f"digest of {name}", **changed}
    backend.facts = (*others, replace(backend.facts[0], **new))


def drop(backend: LedBackend, name: str) -> None:
    backend.facts = tuple(each for each in backend.facts if each.name != name)


async def until(holds: Callable[[], bool]) -> None:
    """For what nobody is told of."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


async def test_the_list_comes_at_once_and_after_every_change(daemon: RunningDaemon) -> None:
    async with watching(daemon) as watch:
        first = watch.told[0]
        assert (names(first), list(first.changes)) == (sorted(CAPABILITIES), [])
        assert first.list.total == len(CAPABILITIES)
        put(daemon.backend, "new:1", digest="one")
        message = await watch.until_told("new:1", "added")
        assert names(message) == sorted([*CAPABILITIES, "new:1"])
        put(daemon.backend, "new:1", digest="two")
        message = await watch.until_told("new:1", "changed")
        assert [each.digest for each in message.list.models if each.name == "new:1"] == ["two"]
        drop(daemon.backend, "new:1")
        message = await watch.until_told("new:1", "removed")
        assert names(message) == sorted(CAPABILITIES)
        stamps = [each.list.changed_unix_ms for each in watch.told]
        assert stamps == sorted(stamps)
        assert len(set(stamps)) >= 4


async def test_what_is_watched_is_filtered_ordered_and_cut(daemon: RunningDaemon) -> None:
    wanted = pb.ModelFilter(search="q")
    by_size = pb.MODEL_ORDER_SIZE
    async with (
        watching(daemon, filter=wanted) as narrow,
        watching(daemon, page_size=1, order=by_size) as short,
    ):
        assert names(narrow.told[0]) == ["qwen3:8b"]
        assert (len(names(short.told[0])), short.told[0].list.total) == (1, 4)
        put(daemon.backend, "tiny:1", size_bytes=1)
        put(daemon.backend, "quick:1", size_bytes=10**12)
        message = await narrow.until_told("quick:1", "added")
        assert not any("tiny:1" in {name for name, _ in kinds(each)} for each in narrow.told)
        assert names(message) == ["quick:1", "qwen3:8b"]
        message = await short.until(lambda told: told.list.total == 6)
        assert names(message) == ["tiny:1"]


async def test_what_models_do_in_memory_is_told(daemon: RunningDaemon) -> None:
    async with watching(daemon, filter=pb.ModelFilter(resident=True)) as watch:
        assert names(watch.told[0]) == []
        stream = daemon.inference.Generate(generate())
        await read_until(stream, "started")
        message = await watch.until(lambda told: names(told) == ["talk:latest"])
        assert ("talk:latest", "state") in kinds(message)
        (await daemon.backend.calls.get()).complete()
        await read_until(stream, "done")


async def test_that_a_backend_is_away_is_told_with_what_was_known(daemon: RunningDaemon) -> None:
    async with watching(daemon) as watch:
        daemon.backend.problem = BackendUnreachable("gone for lunch")
        message = await watch.until(
            lambda told: any(not each.up for each in told.list.sources if each.name == "b")
        )
        (source,) = [each for each in message.list.sources if each.name == "b"]
        assert "gone for lunch" in source.problem
        assert names(message) == sorted(CAPABILITIES)
        put(daemon.backend, "new:1")
        daemon.backend.problem = None
        await watch.until_told("new:1", "added")


async def test_who_reads_slowly_gets_what_holds_and_all_that_changed(
    daemon: RunningDaemon,
) -> None:
    async with watching(daemon) as slow, watching(daemon) as quick:
        for number in range(5):
            put(daemon.backend, f"new:{number}")
            await quick.until_told(f"new:{number}", "added")
        drop(daemon.backend, "new:0")
        await quick.until_told("new:0", "removed")
        assert daemon.parts.lists.news.watchers == 2
        there = {f"new:{number}" for number in range(1, 5)}
        await slow.until(lambda told: there <= set(names(told)) and "new:0" not in names(told))
        told = [each for message in slow.told for each in kinds(message)]
        assert {name for name, kind in told if kind == "added"} >= there


async def test_as_many_watch_as_may_and_the_next_is_told_why(daemon: RunningDaemon) -> None:
    async with watching(daemon), watching(daemon), watching(daemon) as last:
        _, metrics = await daemon.get("/metrics")
        assert "broker_model_watchers 3.0\nbroker_model_watchers_max 3.0" in re.sub(
            r"#.*\n", "", metrics
        )
        refusal = await refused(daemon.models.Watch(pb.WatchRequest()))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "SUBSCRIBERS_FULL"
        assert "3 watch" in refusal.message
        assert "watchers_max" in refusal.message
        assert refusal.retry_after_s
        last.call.cancel()
        await until(lambda: daemon.parts.lists.news.watchers == WATCHERS_MAX - 1)
        async with watching(daemon) as next_one:
            assert next_one.told


async def test_it_ends_with_the_broker(daemon: RunningDaemon) -> None:
    async with watching(daemon) as watch:
        daemon.parts.lists.news.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "leaving" in (caught.value.details() or "")
        refusal = await refused(daemon.models.Watch(pb.WatchRequest()))
        assert refusal.reason == "DRAINING"


async def test_backends_are_asked_often_only_while_somebody_watches(
    daemon: RunningDaemon,
) -> None:
    backend = daemon.backend

    async def until_asked_again() -> None:
        before = backend.listings
        await until(lambda: backend.listings >= before + 2)

    async with watching(daemon):
        await until_asked_again()
    await until(lambda: not daemon.parts.lists.is_watched())
    stream: Any = daemon.pubsub.Subscribe(
        pubsub_pb2.SubscribeRequest(agent_id="opus-1", topics=["models"])
    )
    message = await asyncio.wait_for(stream.read(), PATIENCE_S)
    (event,) = message.events
    assert event.models.changed_unix_ms == daemon.parts.listing.index.changed_unix_ms > 0
    await until_asked_again()
    put(backend, "new:1")
    async with asyncio.timeout(PATIENCE_S):
        while event.models.changed_unix_ms <= message.events[0].models.changed_unix_ms:
            (event,) = (await stream.read()).events
    assert (await daemon.models.Get(pb.GetRequest(name="new:1"))).model.downloaded
    stream.cancel()
