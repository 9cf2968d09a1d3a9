"""The daemon's real parts in this process, on free ports, before backends that a test leads.

Everything is what `brokerd` runs (`broker.daemon.wiring.build`) but the backends and the signals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from broker.config.schema import Config, QueueConfig, ServerConfig
from broker.config.serving import BackendConfig, PlacementConfig
from broker.core.content import EmbedContent, Embeddings
from broker.core.placement_rule import PlacementRule
from broker.core.ports import Backend
from broker.daemon.wiring import Parts, build
from broker.runtime.supervisor import Supervisor
from broker_client.pb.broker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2_grpc,
    pubsub_pb2_grpc,
)
from tests.integration.fake_backend import FakeBackend

PATIENCE_S = 30.0  # after which a wait is a failure; nothing is expected to come near it
TALKS = frozenset({"completion", "tools", "thinking", "vision", "insert"})
CAPABILITIES: Mapping[str, frozenset[str]] = {
    "talk:latest": TALKS,
    "llama3:8b": frozenset({"completion"}),
    "qwen3:8b": frozenset({"completion"}),
    "embed:latest": frozenset({"embedding"}),
}
FREE_PORTS = ServerConfig(grpc_address="127.0.0.1:0", http_address="127.0.0.1:0")
# Short intervals, since a test waits for what discovery hears; room for every model at once.
BACKEND = BackendConfig(
    name="b", slots=4, resident_max=4, poll_interval_ms=100, retry_interval_ms=100
)
QUICK: dict[str, Any] = {
    "queue": QueueConfig(announce_interval_ms=50),
    "placement": PlacementConfig(slot_grace_ms=10),
}


class LedBackend(FakeBackend):
    """A FakeBackend whose models have capabilities, and whose embeddings wait for the test."""

    def __init__(
        self, capabilities: Mapping[str, frozenset[str]] = CAPABILITIES, name: str = "b"
    ) -> None:
        super().__init__(*capabilities, name=name)
        self.facts = tuple(
            replace(each, capabilities=capabilities[each.name], context_length_train=8192)
            for each in self.facts
        )
        self.embedded: asyncio.Queue[tuple[str, EmbedContent]] = asyncio.Queue()
        self.may_embed = asyncio.Event()
        self.may_embed.set()
        self.embeds_aborted = 0

    async def embed(self, model: str, content: EmbedContent, *, num_ctx: int | None) -> Embeddings:
        self.embedded.put_nowait((model, content))
        try:
            await self.may_embed.wait()
        except asyncio.CancelledError:
            self.embeds_aborted += 1
            raise
        return await super().embed(model, content, num_ctx=num_ctx)

    @property
    def was_reached(self) -> bool:
        """Has any request come through?"""
        return not (self.calls.empty() and self.embedded.empty())


@dataclass(slots=True, kw_only=True)
class RunningDaemon:
    """What a test works with. `drains` are the limits in milliseconds asked for so far."""

    parts: Parts
    backend: LedBackend
    port: int
    http_port: int
    channel: grpc.aio.Channel
    drains: list[int | None]

    @property
    def inference(self) -> inference_pb2_grpc.InferenceAsyncStub:
        return inference_pb2_grpc.InferenceStub(self.channel)

    @property
    def models(self) -> models_pb2_grpc.ModelsAsyncStub:
        return models_pb2_grpc.ModelsStub(self.channel)

    @property
    def admin(self) -> admin_pb2_grpc.AdminAsyncStub:
        return admin_pb2_grpc.AdminStub(self.channel)

    @property
    def pubsub(self) -> pubsub_pb2_grpc.PubSubAsyncStub:
        return pubsub_pb2_grpc.PubSubStub(self.channel)

    def open_channel(self, *options: tuple[str, int]) -> grpc.aio.Channel:
        """A connection of its own: a client apart from `channel`."""
        own = ("grpc.use_local_subchannel_pool", 1)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=[own, *options])

    async def get(self, path: str) -> tuple[int, str]:
        """(status, text) of an HTTP GET."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()

    async def until_status(
        self, holds: Callable[[admin_pb2.GetStatusResponse], bool]
    ) -> admin_pb2.GetStatusResponse:
        """The first status that this holds for."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status = await self.admin.GetStatus(admin_pb2.GetStatusRequest())
                if holds(status):
                    return status
                await asyncio.sleep(0.01)  # a connection may open only so many calls a second

    async def outcomes(self) -> dict[str, int]:
        """How requests ended so far, once none is under way."""
        status = await self.until_status(lambda status: not status.queued + status.running)
        return {each.outcome: each.count for each in status.outcomes if each.count}


@asynccontextmanager
async def running_daemon(
    config: Config | None = None,
    backend: LedBackend | None = None,
    others: Mapping[str, Backend] | None = None,
    rule: PlacementRule | None = None,
) -> AsyncIterator[RunningDaemon]:
    """A daemon that serves and whose backends have been asked once."""
    backend = backend or LedBackend()
    config = config or Config(server=FREE_PORTS, backends=(BACKEND,), **QUICK)
    drains: list[int | None] = []

    def drain(timeout_ms: int | None) -> int:
        drains.append(timeout_ms)
        granted_ms = 30_000 if timeout_ms is None else timeout_ms
        parts.driver.drain(granted_ms * 1_000_000)
        return granted_ms

    async with asyncio.timeout(PATIENCE_S * 2), Supervisor(1000) as supervisor:
        stand_ins = {"b": backend, **(others or {})}
        parts = build(config, supervisor, drain, backends=stand_ins, rule=rule)
        await parts.pooling.pool.ask_all()
        parts.pooling.pool.start()
        parts.changing.pulls.start()
        port, http_port = await parts.grpc.start(), await parts.http.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        try:
            yield RunningDaemon(
                parts=parts,
                backend=backend,
                port=port,
                http_port=http_port,
                channel=channel,
                drains=drains,
            )
        finally:
            await channel.close(None)
            await parts.changing.pulls.close()
            parts.lists.news.close()
            await parts.grpc.stop(0)
            await parts.http.stop()
            parts.driver.close()
            parts.topics.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error status with the details that every status of the broker has."""

    code: grpc.StatusCode
    message: str
    reason: str
    about: Mapping[str, str]  # ErrorInfo's metadata
    violations: Mapping[str, str]  # BadRequest: description by field
    retry_after_s: float | None


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads the rich status; AssertionError where there is none or it contradicts the call's."""
    trailers: Any = error.trailing_metadata() or ()
    packed = dict(trailers).get("grpc-status-details-bin")
    assert isinstance(packed, bytes), f"no details: {error.code()} {error.details()}"
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info, bad, retry = (
        _detail(status, kind)
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        )
    )
    assert info is not None, "an error without ErrorInfo"
    assert info.domain == "broker.v1"
    return Refusal(
        code=error.code(),
        message=status.message,
        reason=info.reason,
        about=dict(info.metadata),
        violations={each.field: each.description for each in bad.field_violations} if bad else {},
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def _detail(status: status_pb2.Status, kind: type[Message]) -> Any:
    for each in status.details:
        if each.Is(kind.DESCRIPTOR):
            found = kind()
            each.Unpack(found)
            return found
    return None


Events = list[inference_pb2.GenerateEvent]


def kinds(events: Events) -> list[str]:
    """Which event each one is."""
    return [each.WhichOneof("event") or "none" for each in events]


def text_of(events: Events) -> str:
    return "".join(each.chunk.text for each in events)


async def read_until(stream: Any, kind: str) -> Events:
    """The events up to the first of this kind, that one included."""
    events: Events = []
    while not events or events[-1].WhichOneof("event") != kind:
        event = await asyncio.wait_for(stream.read(), PATIENCE_S)
        assert isinstance(event, inference_pb2.GenerateEvent), (
            f"the stream ended before a {kind}: {kinds(events)}"
        )
        events.append(event)
    return events


async def finish(call: Any) -> None:
    """Reads a call to its end, a stream's as well as a single answer's."""
    if isinstance(call, grpc.aio.UnaryStreamCall):
        while isinstance(await asyncio.wait_for(call.read(), PATIENCE_S), Message):
            pass
    else:
        await asyncio.wait_for(call, PATIENCE_S)


async def refused(call: Any) -> Refusal:
    """The error that ends this call."""
    try:
        await finish(call)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError("the call succeeded")
