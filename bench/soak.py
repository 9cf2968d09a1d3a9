"""Does the broker grow? A hundred thousand requests through a real `brokerd`, and its memory after.

Everything is real but the backend (`bench.upstream`): gRPC, engine, log, metrics, HTTP. 131 agents
send one-token generations, each with an id of its own; of each hundred one is cancelled at once,
two ask for a model that nobody has, one comes from an agent never seen before. A scrape of /metrics
goes along. What the process holds after the warm-up is what a broker that has seen all its agents,
models and metrics holds; growth is what is held in the end beyond that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import grpc

from bench.path import broker_process, upstream_process
from bench.processes import Measured, pin_self
from bench.result import Result
from bench.upstream import MODEL
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

SEED = 0  # nothing is drawn
BOUNDS = {"rss_growth_mb": 5.0}
AGENTS = 131
# So few that the warm-up has filled it: a table that fills to its bound is no leak.
REMEMBERED = f"[agents]\nremembered_max = {AGENTS + 100}"
AT_ONCE = 64
LOAD_CORE = 1
SCRAPE_INTERVAL_S = 1.0
SETTLE_S = 2.0  # for what is under way to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many requests. The warm-up fills the tables that have a bound: agents that are remembered
    beyond the fleet's, stories of ended requests, series of metrics. One still fills after it, the
    stories of the last 1,000 refused requests: with two refusals in a hundred that takes 50,000
    requests, and what it grows by counts as growth."""

    warm_up: int = 20_000
    requests: int = 500_000


QUICK = Sizes(requests=100_000)


async def run(*, quick: bool) -> Result:
    """Takes about ten minutes, three if quick."""
    return await measure(QUICK if quick else Sizes())


async def measure(sizes: Sizes) -> Result:
    """The growth over so many requests."""
    pin_self(LOAD_CORE)
    numbers = iter(range(sizes.warm_up + sizes.requests))
    async with (
        upstream_process(0) as upstream,
        broker_process(upstream, REMEMBERED) as (broker, address),
        grpc.aio.insecure_channel(address) as channel,
        _scraped(broker.ready_line),
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        await _at_once(stub, numbers, sizes.warm_up)
        warm_mb = await _settled_mb(broker)
        begun_s, cpu_s = time.perf_counter(), broker.cpu_s()
        await _at_once(stub, numbers, sizes.requests)
        wall_s, spent_s = time.perf_counter() - begun_s, broker.cpu_s() - cpu_s
        end_mb = await _settled_mb(broker)
    return Result(
        name="soak",
        seed=SEED,
        figures={
            "rss_growth_mb": end_mb - warm_mb,
            "rss_warm_mb": warm_mb,
            "rss_end_mb": end_mb,
            "requests": float(sizes.requests),
            "requests_per_s": sizes.requests / wall_s,
            "request_cpu_us": spent_s / sizes.requests * 1e6,
        },
        bounds=BOUNDS,
    )


async def _settled_mb(broker: Measured) -> float:
    await asyncio.sleep(SETTLE_S)
    return broker.rss_mb()


@asynccontextmanager
async def _scraped(ready_line: str) -> AsyncIterator[None]:
    """Scrapes what the broker shows, as Prometheus would."""
    url = f"http://{json.loads(ready_line)['http']}/metrics"

    async def scrape() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(url) as answer:
                    answer.raise_for_status()
                    await answer.read()
                await asyncio.sleep(SCRAPE_INTERVAL_S)

    task = asyncio.create_task(scrape())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _at_once(
    stub: inference_pb2_grpc.InferenceAsyncStub, numbers: Iterator[int], total: int
) -> None:
    """The next `total` requests, AT_ONCE at a time."""
    left = iter(range(total))

    async def work() -> None:
        for _ in left:
            await _request(stub, next(numbers))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def _request(stub: inference_pb2_grpc.InferenceAsyncStub, number: int) -> None:
    kind = number % 100
    agent_id = f"bench-once-{number}" if kind == 3 else f"bench-{number % AGENTS}"
    model = f"absent-{number}:latest" if kind in (1, 2) else MODEL
    request = pb.GenerateRequest(
        request_id=f"{number:016x}", agent_id=agent_id, model=model, priority=number % 10 + 1
    )
    request.prompt.text = "Say something, please."
    request.options.max_tokens = 1
    call = stub.Generate(request, timeout=60)
    if kind == 0:
        await call.read()  # it is queued
        call.cancel()
        return
    try:
        async for _ in call:
            continue
    except grpc.aio.AioRpcError as error:
        if kind not in (1, 2) or error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
