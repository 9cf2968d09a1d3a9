"""What it takes until all know of a level, and what telling many costs those who wait for tokens.

The broker has a core to itself; upstream, load and subscribers share the other. Subscribers are
real streams over several connections.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc

from bench.listeners import CHANNELS
from bench.path import LOAD_CORE, broker_process, upstream_process
from bench.processes import START_TIMEOUT_S, pin_self
from bench.result import Result
from bench.upstream import MODEL
from broker_client.pb.broker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    common_pb2,
    inference_pb2_grpc,
    pubsub_pb2_grpc,
)
from broker_client.pb.broker.v1 import inference_pb2 as inference
from broker_client.pb.broker.v1 import pubsub_pb2 as pb

SEED = 0  # nothing is drawn: the load is the same every time
STREAMS = 32
TOKENS_PER_S = 100
WATCHERS = 100
SUBSCRIBERS = 1000
EVENTS_PER_S = 20
PAYLOAD = b"x" * 100
BOUNDS = {"level_seen_ms": 50.0, "fanout_token_cost_percent": 10.0}
# A publisher that is to be let through, and a level that this benchmark alone changes.
CONFIG = """
[degradation]
automatic = false
[monitors]
host = false
gpu = false
[pubsub]
publishes_per_minute = 1_000_000.0
publishes_burst = 1_000_000.0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    stream_s: float = 5.0
    levels: int = 200
    subscribers: int = SUBSCRIBERS


QUICK = Sizes(rounds=1, stream_s=1.0, levels=4, subscribers=100)


async def run(*, quick: bool) -> Result:
    """Measures everything; takes about two minutes, a few seconds if quick."""
    sizes = QUICK if quick else Sizes()
    pin_self(LOAD_CORE)
    figures: dict[str, float] = {}
    async with (
        upstream_process(1000 / TOKENS_PER_S) as upstream,
        broker_process(upstream, CONFIG) as (_, address),
    ):
        seen_ms = await _levels_seen_ms(address, sizes)
        figures["level_seen_ms"] = percentile(seen_ms, 99)
        figures["level_seen_p50_ms"] = percentile(seen_ms, 50)
        figures.update(await _fanout(address, sizes))
    return Result(name="pubsub", seed=SEED, figures=figures, bounds=BOUNDS)


def percentile(samples: list[float], percent: int) -> float:
    """The smallest sample that so many percent are at most."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


# The level


async def _levels_seen_ms(address: str, sizes: Sizes) -> list[float]:
    """From the moment before an operator's call that sets the level, to each subscriber's having
    it. A sample that changes the level goes the same way from the engine on, without the call."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    admin = admin_pb2_grpc.AdminStub(channels[0])
    streams = []
    for number in range(WATCHERS):
        stub = pubsub_pb2_grpc.PubSubStub(channels[number % CHANNELS])
        request = pb.SubscribeRequest(agent_id="bench-1", topics=["level"])
        streams.append(stub.Subscribe(request))
    for stream in streams:
        await stream.read()
    samples: list[float] = []

    async def see(stream: object, level: int, since_s: float) -> None:
        while True:
            message = await stream.read()  # type: ignore[attr-defined]
            if any(each.level.level == level for each in message.events):
                samples.append((time.perf_counter() - since_s) * 1000)
                return

    for turn in range(sizes.levels):
        level = (common_pb2.DEGRADATION_LEVEL_1, common_pb2.DEGRADATION_LEVEL_NORMAL)[turn % 2]
        since_s = time.perf_counter()
        seeing = [asyncio.ensure_future(see(each, level, since_s)) for each in streams]
        await admin.SetLevel(admin_pb2.SetLevelRequest(level=level))
        await asyncio.wait_for(asyncio.gather(*seeing), START_TIMEOUT_S)
        await asyncio.sleep(0.05)
    await admin.SetLevel(admin_pb2.SetLevelRequest())  # back to the load
    for channel in channels:
        await channel.close(None)
    return samples


# The tokens


@dataclass(slots=True)
class _Gaps:
    """Milliseconds between the messages of token streams, of all of them."""

    samples: list[float] = field(default_factory=list)


async def _fanout(address: str, sizes: Sizes) -> dict[str, float]:
    """The same streams without and with subscribers, in turn; which comes first alternates."""
    ratios, with_ms, without_ms = [], [], []
    delivered = [0, 0, 0]
    for number in range(sizes.rounds):
        p99_ms: dict[bool, float] = {}
        for is_told in (number % 2 == 1, number % 2 == 0):
            if is_told:
                async with _listeners(address, sizes.subscribers) as tally, _publishing(address):
                    p99_ms[True] = await _token_p99_ms(address, sizes)
                delivered = [a + b for a, b in zip(delivered, tally, strict=True)]
            else:
                p99_ms[False] = await _token_p99_ms(address, sizes)
        ratios.append(p99_ms[True] / p99_ms[False])
        with_ms.append(p99_ms[True])
        without_ms.append(p99_ms[False])
    messages, events, missed = delivered
    return {
        "fanout_token_cost_percent": (statistics.median(ratios) - 1) * 100,
        "token_p99_ms_with": statistics.median(with_ms),
        "token_p99_ms_without": statistics.median(without_ms),
        "events_per_message": events / max(1, messages),
        "events_missed": float(missed),
    }


async def _token_p99_ms(address: str, sizes: Sizes) -> float:
    """The 99th percentile of the time from one message of a stream to the next."""
    gaps = _Gaps()
    tokens = int(sizes.stream_s * TOKENS_PER_S)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        await asyncio.gather(*(_stream(stub, tokens, gaps) for _ in range(STREAMS)))
    return percentile(gaps.samples, 99)


async def _stream(stub: inference_pb2_grpc.InferenceAsyncStub, tokens: int, gaps: _Gaps) -> None:
    request = inference.GenerateRequest(agent_id="bench-1", model=MODEL, priority=5)
    request.prompt.text = "Say something, please."
    request.options.max_tokens = tokens
    before_s: float | None = None
    is_done = False
    async for event in stub.Generate(request, timeout=60):
        if event.HasField("chunk"):
            now_s = time.perf_counter()
            if before_s is not None:
                gaps.samples.append((now_s - before_s) * 1000)
            before_s = now_s
        is_done = event.HasField("done")
    if not is_done:
        raise RuntimeError("a stream ended without done")


@asynccontextmanager
async def _publishing(address: str) -> AsyncIterator[None]:
    """Publishes at its rate until the block ends."""

    async def publish() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pubsub_pb2_grpc.PubSubStub(channel)
            loop = asyncio.get_running_loop()
            due_s = loop.time()
            while True:
                request = pb.PublishRequest(agent_id="bench-1", topic="load:a", payload=PAYLOAD)
                await stub.Publish(request)
                due_s += 1 / EVENTS_PER_S
                await asyncio.sleep(max(0.0, due_s - loop.time()))

    task = asyncio.ensure_future(publish())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _listeners(address: str, count: int) -> AsyncIterator[list[int]]:
    """Subscribers; once the block has ended, what they were told: messages, events, missed."""
    process = await asyncio.create_subprocess_exec(  # on the core of this one
        sys.executable,
        *("-m", "bench.listeners", "--address", address, "--count", str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    told: list[int] = []
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
        if b"ready" not in line:
            raise RuntimeError("the subscribers did not come up")
        yield told
        printed, _ = await asyncio.wait_for(process.communicate(b""), START_TIMEOUT_S)
        tally = json.loads(printed)
        told += [tally["messages"], tally["events"], tally["missed"]]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
