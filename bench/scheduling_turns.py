"""What a request costs the engine where very many wait for many models, against one bare RPC.

As in `micro`, with 10,000 queued over 131 agents and 20 models, which take turns on one server.
"""

from __future__ import annotations

import statistics

import grpc

from bench.micro import CALLS_AT_ONCE, LOAD_CORE, MEASURED_CORE, rpc_us, turns_of
from bench.processes import pin_self, running
from bench.unary import call

MODELS = 20


async def request_vs_rpc(
    *, queued: int, requests: int, calls: int, rounds: int
) -> dict[str, float]:
    """The median of the rounds' ratios, and both sides."""
    pin_self(LOAD_CORE)
    engine_us, bare_us = [], []
    async with (
        running(["-m", "bench.unary"], ready="unary listening", core=MEASURED_CORE) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ready_line.split()[-1]}") as channel,
    ):
        bare = call(channel)
        await rpc_us(server, bare, CALLS_AT_ONCE * 4)
        for _ in range(rounds):
            bare_us.append(sum(await rpc_us(server, bare, calls)))
            measured = await turns_of(queued, requests, "--models", str(MODELS))
            engine_us.append(measured["request_us"])
    pairs = zip(engine_us, bare_us, strict=True)
    return {
        "engine_request_10k_vs_rpc": statistics.median(one / other for one, other in pairs),
        "engine_request_10k_us": statistics.median(engine_us),
        "rpc_us": statistics.median(bare_us),
    }
