"""What deciding and telling cost, each part against a yardstick in the same run.

Sides take turns, round after round, and a metric is the median of the rounds' ratios. All times are
the processor's. The yardstick of the engine is one bare unary gRPC call, its client and its server
together, as one call needs both; the server's part alone stands beside it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field

import grpc

from bench import bucket, heap, observe, turns
from bench.processes import Measured, output_of, pin_self, running
from bench.result import Result
from bench.unary import Call, call
from broker_client.pb.broker.v1 import inference_pb2 as pb

MEASURED_CORE, LOAD_CORE = 0, 1
CALLS_AT_ONCE = 64
WAITING = 300  # while the engine is measured against a call
SHALLOW, DEEP = 1_000, 100_000
BOUNDS = {
    "heap_hold_100k_vs_cpp": 2.5,
    "engine_request_vs_rpc": 0.15,
    "observe_request_vs_rpc": 0.15,
    "dispatch_100k_vs_1k": 2.0,
    "queued_request_bytes": 1_500.0,
}
FLOORS = {"heap_hold_100k_vs_heapq": 4.0, "bucket_vs_python": 2.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rounds: int = 7
    depth: int = DEEP  # of the heap
    holds: int = 300_000
    acquires: int = 300_000
    calls: int = 6_000
    requests: int = 6_000  # through the engine
    deep: int = DEEP  # requests that wait in it
    deep_rounds: int = 3  # filling it takes its time


QUICK = Sizes(
    rounds=1,
    depth=2_000,
    holds=20_000,
    acquires=20_000,
    calls=200,
    requests=300,
    deep=3_000,
    deep_rounds=1,
)


@dataclass(slots=True)
class _Figures:
    """Samples by what was measured, one per round."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def ratio(self, over: str, under: str) -> float:
        """Median of the rounds' ratios."""
        pairs = zip(self.samples[over], self.samples[under], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(each) for name, each in self.samples.items()}


async def run(*, quick: bool) -> Result:
    """Measures everything; takes about two minutes, a few seconds if quick, on smaller heaps."""
    sizes = QUICK if quick else Sizes()
    pin_self(LOAD_CORE)
    figures, not_measured = _Figures(), {}
    no_cpp = await _measure_heap(sizes, figures)
    _measure_bucket(sizes, figures)
    await _measure_request(sizes, figures)
    await _measure_depth(sizes, figures)
    metrics = {
        "heap_hold_100k_vs_heapq": figures.ratio("heap_heapq_ns", "heap_indexed_ns"),
        "bucket_vs_python": figures.ratio("bucket_python_ns", "bucket_array_ns"),
        "engine_request_vs_rpc": figures.ratio("engine_request_us", "rpc_us"),
        "engine_request_vs_rpc_untold": figures.ratio("engine_request_untold_us", "rpc_us"),
        "observe_request_vs_rpc": figures.ratio("observe_us", "rpc_us"),
        "engine_request_vs_rpc_server": figures.ratio("engine_request_us", "rpc_server_us"),
        "dispatch_100k_vs_1k": figures.ratio("dispatch_100k_us", "dispatch_1k_us"),
        "dispatch_100k_vs_1k_untold": figures.ratio(
            "dispatch_100k_untold_us", "dispatch_1k_untold_us"
        ),
        "queued_request_bytes": await _queued_bytes(sizes, figures),
    }
    if no_cpp:
        not_measured["heap_hold_100k_vs_cpp"] = no_cpp
    else:
        metrics["heap_hold_100k_vs_cpp"] = figures.ratio("heap_indexed_ns", "heap_cpp_ns")
    return Result(
        name="micro",
        seed=turns.SEED,
        figures={**metrics, **figures.medians()},
        bounds=BOUNDS,
        floors=FLOORS,
        not_measured=not_measured,
    )


async def _measure_heap(sizes: Sizes, figures: _Figures) -> str:
    """Why C++ could not be measured; empty where it was."""
    async with heap.cpp(MEASURED_CORE) as cpp:
        sides = {name: heap.in_process(name, MEASURED_CORE) for name in heap.SIDES}
        if not isinstance(cpp, str):
            sides["cpp"] = cpp
        for seed in range(sizes.rounds):
            for name, hold in sides.items():
                figures.add(f"heap_{name}_ns", await hold(sizes.depth, sizes.holds, seed))
        return cpp if isinstance(cpp, str) else ""


def _measure_bucket(sizes: Sizes, figures: _Figures) -> None:
    for _ in range(sizes.rounds):
        ours_ns, granted = bucket.array_ns(sizes.acquires)
        python_ns, granted_python = bucket.plain_ns(sizes.acquires)
        if granted != granted_python:
            raise RuntimeError(f"{granted} were granted by ours, {granted_python} by plain Python")
        figures.add("bucket_array_ns", ours_ns)
        figures.add("bucket_python_ns", python_ns)


async def _measure_request(sizes: Sizes, figures: _Figures) -> None:
    """A request's way through the engine, and one bare call, in turn."""
    async with (
        running(["-m", "bench.unary"], ready="unary listening", core=MEASURED_CORE) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ready_line.split()[-1]}") as channel,
    ):
        bare = call(channel)
        await rpc_us(server, bare, CALLS_AT_ONCE * 4)
        for _ in range(sizes.rounds):
            server_us, client_us = await rpc_us(server, bare, sizes.calls)
            figures.add("rpc_server_us", server_us)
            figures.add("rpc_us", server_us + client_us)
            for suffix, more in (("", ()), ("_untold", ("--untold",))):
                measured = await turns_of(WAITING, sizes.requests, *more)
                figures.add(f"engine_request{suffix}_us", measured["request_us"])
            observed_us = await observe.cost_us(sizes.requests, MEASURED_CORE)
            figures.add("observe_us", observed_us)


async def rpc_us(server: Measured, bare: Call, total: int) -> tuple[float, float]:
    """(server, client) in us of processor time per call, CALLS_AT_ONCE at a time."""
    left = iter(range(total))

    async def work() -> None:
        for number in left:
            request = pb.GenerateRequest(
                request_id=f"{number:016x}", agent_id="opus-1", model=turns.MODEL, priority=5
            )
            request.prompt.text = "Say something, please."
            request.options.max_tokens = 100
            await bare(request)

    server_s, client_s = server.cpu_s(), time.process_time()
    await asyncio.gather(*(work() for _ in range(CALLS_AT_ONCE)))
    client_us = (time.process_time() - client_s) / total * 1e6
    return (server.cpu_s() - server_s) / total * 1e6, client_us


async def _measure_depth(sizes: Sizes, figures: _Figures) -> None:
    """The same with many and with very many that wait, each in a process of its own: the collector
    of one would look at the other's. Untold: without a word to those that wait, so that what is the
    same for both hides nothing."""
    for _ in range(sizes.deep_rounds):
        for name, queued in (("1k", SHALLOW), ("100k", sizes.deep)):
            for suffix, more in (("", ()), ("_untold", ("--untold",))):
                measured = await turns_of(queued, sizes.requests, *more)
                figures.add(f"dispatch_{name}{suffix}_us", measured["request_us"])


async def _queued_bytes(sizes: Sizes, figures: _Figures) -> float:
    """By how much the process grows and what its objects add up to: the larger one counts."""
    for name, more in (("grown", ()), ("traced", ("--traced",))):
        measured = await turns_of(sizes.deep, 0, *more)
        figures.add(f"queued_bytes_{name}", measured["held_bytes"])
    return max(max(figures.samples[f"queued_bytes_{name}"]) for name in ("grown", "traced"))


async def turns_of(queued: int, requests: int, *more: str) -> dict[str, float]:
    arguments = ["-m", "bench.turns", "--queued", str(queued), "--requests", str(requests), *more]
    printed = await output_of(arguments, core=MEASURED_CORE)
    figures: dict[str, float] = json.loads(printed)
    return figures
