"""What the broker costs on the way of a request, as ratios over a bare relay in the same run.

The broker (or the relay) has a core to itself; the load and the upstream share the other. The two
take turns, round after round, and each metric is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import grpc

from bench.processes import Measured, pin_self, running
from bench.result import Result
from bench.upstream import MODEL
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

SEED = 0  # nothing is drawn: the load is the same every time
STREAMS = 64
TOKENS_PER_S = 100
MEASURED_CORE, LOAD_CORE = 0, 1
# The buckets are on, as with any agent, and their cost counts; but the load is not to be refused.
NEVER_REFUSED_PER_MINUTE = 10_000_000
BOUNDS = {
    "generate_cpu_vs_bare": 1.6,
    "token_cpu_vs_bare": 1.2,
    "added_p50_vs_bare": 1.5,
    "idle_cpu_percent": 1.0,
    "idle_rss_mb": 120.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    generations: int = 3000  # per round, one token each
    stream_s: float = 6.0
    latencies: int = 400
    idle_s: float = 10.0


QUICK = Sizes(rounds=1, generations=200, stream_s=1.0, latencies=40, idle_s=2.0)


@dataclass(slots=True)
class _Figures:
    """Samples by what was measured, one per round."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def ratio(self, name: str) -> float:
        """Median of the rounds' ratios of the broker over the relay."""
        pairs = zip(self.samples[f"broker_{name}"], self.samples[f"bare_{name}"], strict=True)
        return statistics.median(mine / bare for mine, bare in pairs)


async def run(*, quick: bool) -> Result:
    """Measures everything; takes about two minutes, a few seconds if quick."""
    sizes = QUICK if quick else Sizes()
    pin_self(LOAD_CORE)
    figures = _Figures()
    await _measure_generate(sizes, figures)
    await _measure_tokens(sizes, figures)
    added = {
        name: figures.median(f"{name}_p50_us") - figures.median("direct_p50_us")
        for name in ("broker", "bare")
    }
    return Result(
        name="path",
        seed=SEED,
        figures={
            "generate_cpu_vs_bare": figures.ratio("generate_cpu_us"),
            "token_cpu_vs_bare": figures.ratio("token_cpu_us"),
            "added_p50_vs_bare": added["broker"] / added["bare"],
            "idle_cpu_percent": figures.median("idle_cpu_percent"),
            "idle_rss_mb": figures.median("idle_rss_mb"),
            **{
                name: figures.median(name)
                for name in sorted(figures.samples)
                if name.endswith(("_us", "_per_s"))
            },
            "broker_added_p50_us": added["broker"],
            "bare_added_p50_us": added["bare"],
        },
        bounds=BOUNDS,
    )


@asynccontextmanager
async def upstream_process(interval_ms: float, fail_every: int = 0) -> AsyncIterator[str]:
    """Its address."""
    arguments = ["-m", "bench.upstream", "--interval-ms", str(interval_ms)]
    arguments += ["--fail-every", str(fail_every)]
    async with running(arguments, ready="upstream listening", core=LOAD_CORE) as measured:
        yield f"127.0.0.1:{measured.ready_line.split()[-1]}"


@asynccontextmanager
async def _relay(upstream: str) -> AsyncIterator[tuple[Measured, str]]:
    arguments = ["-m", "bench.relay", "--upstream", upstream]
    async with running(arguments, ready="relay listening", core=MEASURED_CORE) as measured:
        yield measured, f"127.0.0.1:{measured.ready_line.split()[-1]}"


@asynccontextmanager
async def broker_process(upstream: str, more: str = "") -> AsyncIterator[tuple[Measured, str]]:
    """A broker before it, and its address; `more` of its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "broker.toml"
        config.write_text(
            f"""
            [server]
            grpc_address = "127.0.0.1:0"
            http_address = "127.0.0.1:0"
            log_level = "info"
            log_format = "json"
            state_dir = "{folder}"
            [[backends]]
            name = "upstream"
            url = "http://{upstream}"
            slots = {STREAMS}
            exclusive = true
            local = false
            [[agents.types]]
            name = "system"
            match = ["bench-*"]
            requests_per_minute = {NEVER_REFUSED_PER_MINUTE}
            tokens_per_minute = {NEVER_REFUSED_PER_MINUTE}
            [floods]
            calls_per_s = 1_000_000.0
            calls_burst = 1_000_000.0
            calls_per_agent_max = 1_000_000
            calls_per_connection_max = 1_000_000
            {more}
            """
        )
        arguments = ["-m", "broker.daemon.main", "--config", str(config)]
        async with running(arguments, ready="broker listening", core=MEASURED_CORE) as measured:
            address = json.loads(measured.ready_line)["grpc"]
            await _wait_ready(address)
            yield measured, address


async def _wait_ready(address: str) -> None:
    """Until a first generation succeeds: the backend is known then."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        for _ in range(200):
            try:
                await _generate(stub, 1)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
    raise RuntimeError(f"the broker at {address} does not become ready")


async def _generate(stub: inference_pb2_grpc.InferenceAsyncStub, tokens: int) -> int:
    """One generation; the messages it was answered with, or an error if it did not end well."""
    request = pb.GenerateRequest(agent_id="bench-1", model=MODEL, priority=5)
    request.prompt.text = "Say something, please."
    request.options.max_tokens = tokens
    messages = 0
    done = False
    async for event in stub.Generate(request, timeout=60):
        messages += 1
        done = event.HasField("done")
    if not done:
        raise RuntimeError("a stream ended without done")
    return messages


async def _at_once(stub: inference_pb2_grpc.InferenceAsyncStub, total: int, tokens: int) -> int:
    """`total` generations by STREAMS workers; messages received."""
    left = iter(range(total))

    async def work() -> int:
        received = 0
        for _ in left:
            received += await _generate(stub, tokens)
        return received

    return sum(await asyncio.gather(*(work() for _ in range(STREAMS))))


async def _cpu_us(
    measured: Measured, load: Callable[[], Awaitable[int]]
) -> tuple[float, float, int]:
    """(CPU in us, wall seconds, messages) that a load cost the process."""
    cpu_s, started_s = measured.cpu_s(), time.perf_counter()
    messages = await load()
    return (measured.cpu_s() - cpu_s) * 1e6, time.perf_counter() - started_s, messages


async def _measure_generate(sizes: Sizes, figures: _Figures) -> None:
    """CPU per one-token generation, latency one at a time, and the idle figures."""
    async with (
        upstream_process(0) as upstream,
        _relay(upstream) as (relay, relay_address),
        broker_process(upstream) as (broker, broker_address),
        grpc.aio.insecure_channel(relay_address) as relay_channel,
        grpc.aio.insecure_channel(broker_address) as broker_channel,
    ):
        sides = {
            "bare": (relay, inference_pb2_grpc.InferenceStub(relay_channel)),
            "broker": (broker, inference_pb2_grpc.InferenceStub(broker_channel)),
        }
        for measured, stub in sides.values():
            await _cpu_us(measured, partial(_at_once, stub, STREAMS * 4, 1))
        for _ in range(sizes.rounds):
            for name, (measured, stub) in sides.items():
                cost_us, wall_s, _ = await _cpu_us(
                    measured,
                    partial(_at_once, stub, sizes.generations, 1),
                )
                figures.add(f"{name}_generate_cpu_us", cost_us / sizes.generations)
                figures.add(f"{name}_generations_per_s", sizes.generations / wall_s)
            await _measure_latency(sizes, figures, upstream, {n: s for n, (_, s) in sides.items()})
        await asyncio.sleep(0.5)
        cpu_s = broker.cpu_s()
        await asyncio.sleep(sizes.idle_s)
        figures.add("idle_cpu_percent", (broker.cpu_s() - cpu_s) / sizes.idle_s * 100)
        figures.add("idle_rss_mb", broker.rss_mb())


async def _measure_latency(
    sizes: Sizes,
    figures: _Figures,
    upstream: str,
    stubs: dict[str, inference_pb2_grpc.InferenceAsyncStub],
) -> None:
    """p50 of one generation at a time: directly, through the relay, through the broker, in turn."""
    body = json.dumps({"model": MODEL, "prompt": "Say it.", "options": {"num_predict": 1}}).encode()
    async with aiohttp.ClientSession() as session:

        async def direct() -> None:
            async with session.post(f"http://{upstream}/api/generate", data=body) as answer:
                await answer.read()

        ways: dict[str, Callable[[], Awaitable[object]]] = {"direct": direct}
        for name, stub in stubs.items():
            ways[name] = partial(_generate, stub, 1)
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(sizes.latencies):
            for name, way in ways.items():
                started_s = time.perf_counter()
                await way()
                samples[name].append((time.perf_counter() - started_s) * 1e6)
    for name, taken in samples.items():
        figures.add(f"{name}_p50_us", statistics.median(taken))


async def _measure_tokens(sizes: Sizes, figures: _Figures) -> None:
    """CPU per relayed token at STREAMS streams of TOKENS_PER_S each."""
    tokens = int(sizes.stream_s * TOKENS_PER_S)
    async with (
        upstream_process(1000 / TOKENS_PER_S) as upstream,
        _relay(upstream) as (relay, relay_address),
        broker_process(upstream) as (broker, broker_address),
        grpc.aio.insecure_channel(relay_address) as relay_channel,
        grpc.aio.insecure_channel(broker_address) as broker_channel,
    ):
        sides = {
            "bare": (relay, inference_pb2_grpc.InferenceStub(relay_channel)),
            "broker": (broker, inference_pb2_grpc.InferenceStub(broker_channel)),
        }
        for _ in range(sizes.rounds):
            for name, (measured, stub) in sides.items():
                cost_us, wall_s, messages = await _cpu_us(
                    measured,
                    partial(_at_once, stub, STREAMS, tokens),
                )
                figures.add(f"{name}_token_cpu_us", cost_us / (STREAMS * tokens))
                figures.add(f"{name}_tokens_per_s", STREAMS * tokens / wall_s)
                figures.add(f"{name}_messages_per_s", messages / wall_s)
