"""What a stream costs that is open and idle: a generation that waits, and a subscriber of a quiet
topic. Nothing runs meanwhile: the memory of the broker before and after is compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from bench.path import broker_process, upstream_process
from bench.processes import START_TIMEOUT_S, Measured
from bench.upstream import MODEL
from broker_client.pb.broker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2_grpc,
    pubsub_pb2_grpc,
)
from broker_client.pb.broker.v1 import inference_pb2 as inference
from broker_client.pb.broker.v1 import pubsub_pb2 as pb

CONNECTIONS = 20
OPENED_AT_ONCE = 200
SETTLE_S = 2.0
_Open = Callable[[grpc.aio.Channel, int], Any]


def config(streams: int) -> str:
    """Room for so many of either kind."""
    return f"""
[limits]
queued_max = {streams + 100}
streams_max = {streams + 100}
[pubsub]
subscribers_max = {streams + 100}
subscribers_per_agent_max = {streams + 100}
[monitors]
host = false
gpu = false
[degradation]
automatic = false
"""


async def measure(streams: int) -> dict[str, float]:
    """KB per stream of each kind; each kind before a broker of its own."""
    return {
        "open_stream_kb": await _kb_of(_generation, streams, pauses=True),
        "open_subscriber_kb": await _kb_of(_subscriber, streams, pauses=False),
    }


async def _kb_of(opened: _Open, streams: int, *, pauses: bool) -> float:
    async with upstream_process(0) as upstream, _broker(upstream, streams) as (broker, address):
        async with grpc.aio.insecure_channel(address) as channel:
            if pauses:  # what is sent from now on waits
                await admin_pb2_grpc.AdminStub(channel).Pause(admin_pb2.PauseRequest())
        async with _connections(address) as channels:
            warm = [opened(channels[i % CONNECTIONS], i) for i in range(CONNECTIONS)]
            await asyncio.gather(*(each.read() for each in warm))
            await asyncio.sleep(SETTLE_S)
            before_mb = broker.rss_mb()
            calls = []
            for first in range(0, streams, OPENED_AT_ONCE):
                numbers = range(first, min(first + OPENED_AT_ONCE, streams))
                some = [opened(channels[i % CONNECTIONS], CONNECTIONS + i) for i in numbers]
                first_words = (each.read() for each in some)
                await asyncio.wait_for(asyncio.gather(*first_words), START_TIMEOUT_S)
                calls += some
            await asyncio.sleep(SETTLE_S)
            grown_kb = (broker.rss_mb() - before_mb) * 1000
            for each in (*warm, *calls):
                each.cancel()
    return grown_kb / streams


def _generation(channel: grpc.aio.Channel, number: int) -> Any:
    request = inference.GenerateRequest(
        agent_id=f"bench-{number % 131}", request_id=f"{number:016x}", model=MODEL
    )
    request.prompt.text = "Say something, please."
    return inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=600)


def _subscriber(channel: grpc.aio.Channel, number: int) -> Any:
    request = pb.SubscribeRequest(agent_id=f"bench-{number % 131}", topics=["quiet:topic"])
    return pubsub_pb2_grpc.PubSubStub(channel).Subscribe(request)


@asynccontextmanager
async def _broker(upstream: str, streams: int) -> AsyncIterator[tuple[Measured, str]]:
    async with broker_process(upstream, config(streams)) as found:
        yield found


@asynccontextmanager
async def _connections(address: str) -> AsyncIterator[list[grpc.aio.Channel]]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CONNECTIONS)]
    try:
        yield channels
    finally:
        for each in channels:
            await each.close(None)
