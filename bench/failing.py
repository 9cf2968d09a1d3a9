"""How much more a backend is called because it fails: every second call, for ever.

The circuit breaker is kept closed, since an open one calls nobody: what is measured is the budget
of retries alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import grpc

from bench.path import broker_process, upstream_process
from bench.upstream import MODEL
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

AT_ONCE = 16
CONFIG = """
[breaker]
failures = 10_000
[retries]
backoff_s = 0.01
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """`extra_calls_percent`: calls beyond one for each request, in percent of the requests."""

    extra_calls_percent: float
    failed_percent: float  # of the requests, in the end


async def measure(requests: int) -> Failing:
    """So many requests, each of one token."""
    async with (
        upstream_process(0, fail_every=2) as upstream,
        broker_process(upstream, CONFIG) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        before = await _calls(upstream)
        failed = await _all(stub, requests)
        calls = await _calls(upstream) - before
    return Failing(
        extra_calls_percent=(calls / requests - 1) * 100,
        failed_percent=failed / requests * 100,
    )


async def _calls(upstream: str) -> int:
    """How many generations the backend was asked for, as it counts them itself."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{upstream}/calls") as answer,
    ):
        return int((await answer.json())["calls"])


async def _all(stub: inference_pb2_grpc.InferenceAsyncStub, requests: int) -> int:
    """How many of them failed."""
    left = iter(range(requests))

    async def work() -> int:
        return sum([await _fails(stub) for _ in left])

    return sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))))


async def _fails(stub: inference_pb2_grpc.InferenceAsyncStub) -> bool:
    request = pb.GenerateRequest(agent_id="bench-1", model=MODEL, priority=5)
    request.prompt.text = "Say something, please."
    request.options.max_tokens = 1
    try:
        async for _ in stub.Generate(request, timeout=60):
            continue
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.INTERNAL:
            raise
        return True
    return False
