"""What one client that stops reading costs the others: their time per token, with and without it.

The one has asked for a long answer and reads nothing of it once it has begun; the broker keeps what
may be kept and then ends it. It comes anew with each round that has it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from bench.path import broker_process, upstream_process
from bench.upstream import MODEL
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

STREAMS = 32
TOKENS_PER_S = 100
STALLED_TOKENS = 100_000  # more than any round lasts


async def measure(pairs: int, stream_s: float) -> dict[str, float]:
    """Medians over so many pairs; which of a pair comes first alternates."""
    ratios, with_ms, without_ms = [], [], []
    async with (
        upstream_process(1000 / TOKENS_PER_S) as upstream,
        broker_process(upstream) as (_, address),
    ):
        await _p99_ms(address, stream_s)  # all are as warm as all
        for number in range(pairs):
            p99_ms: dict[bool, float] = {}
            for is_stalled in (number % 2 == 1, number % 2 == 0):
                if is_stalled:
                    async with _stalled(address):
                        p99_ms[True] = await _p99_ms(address, stream_s)
                else:
                    p99_ms[False] = await _p99_ms(address, stream_s)
            ratios.append(p99_ms[True] / p99_ms[False])
            with_ms.append(p99_ms[True])
            without_ms.append(p99_ms[False])
    return {
        "slow_reader_cost_percent": (statistics.median(ratios) - 1) * 100,
        "slow_reader_p99_ms_with": statistics.median(with_ms),
        "slow_reader_p99_ms_without": statistics.median(without_ms),
    }


@asynccontextmanager
async def _stalled(address: str) -> AsyncIterator[None]:
    """One stream over a connection of its own that is opened and then not read."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(_request(STALLED_TOKENS))
        for _ in range(3):  # it runs
            await call.read()
        try:
            yield
        finally:
            call.cancel()


async def _p99_ms(address: str, stream_s: float) -> float:
    """The 99th percentile, over the others' streams, of the time from one message to the next."""
    gaps_ms: list[float] = []
    tokens = int(stream_s * TOKENS_PER_S)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        await asyncio.gather(*(_stream(stub, tokens, gaps_ms) for _ in range(STREAMS)))
    return statistics.quantiles(gaps_ms, n=100)[98]


async def _stream(
    stub: inference_pb2_grpc.InferenceAsyncStub, tokens: int, gaps_ms: list[float]
) -> None:
    before_s: float | None = None
    is_done = False
    async for event in stub.Generate(_request(tokens), timeout=60):
        if event.HasField("chunk"):
            now_s = time.perf_counter()
            if before_s is not None:
                gaps_ms.append((now_s - before_s) * 1000)
            before_s = now_s
        is_done = event.HasField("done")
    if not is_done:
        raise RuntimeError("a stream ended without done")


def _request(tokens: int) -> pb.GenerateRequest:
    request = pb.GenerateRequest(agent_id="bench-1", model=MODEL, priority=5)
    request.prompt.text = "Say something, please."
    request.options.max_tokens = tokens
    return request
