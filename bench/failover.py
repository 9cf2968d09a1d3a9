"""Two backends with the same models, and one dies under load: what is lost?

Two simulated Ollamas as processes, a real `brokerd` before them, agents that ask without a pause;
the one process is killed while answers stream from it. A request is lost that failed before it had
given a piece, or after one though it had asked for `continue` or `restart`. Those that asked for
neither and were streaming must fail: they are counted apart.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.processes import Measured, running
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

MODEL = "tinyllama:latest"
SLOTS = 4
AGENTS = 24
TOKENS = 40
SPEED = "4"
ON_INTERRUPTION = (
    pb.ON_INTERRUPTION_CONTINUE,
    pb.ON_INTERRUPTION_RESTART,
    pb.ON_INTERRUPTION_FAIL,
)


@dataclass(slots=True)
class Losses:
    """What became of the requests. `asked_to_fail`: streaming, and had asked for nothing else."""

    requests: int = 0
    lost: int = 0
    asked_to_fail: int = 0
    requeued: int = 0


async def measure(requests: int) -> Losses:
    """So many requests; the first backend dies when a third of them has been answered."""
    losses = Losses()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulators = [await stack.enter_async_context(_simulator(seed)) for seed in (1, 2)]
        config = folder / "broker.toml"
        config.write_text(_config(folder, [_url(each) for each in simulators]))
        arguments = ["-m", "broker.daemon.main", "--config", str(config)]
        broker = await stack.enter_async_context(running(arguments, ready="broker listening"))
        address = json.loads(broker.ready_line)["grpc"]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stub = inference_pb2_grpc.InferenceStub(channel)
        await _ready(stub)
        left = iter(range(requests))

        async def work() -> None:
            for number in left:
                await _request(stub, number, losses)
                losses.requests += 1
                if losses.requests == requests // 3:
                    simulators[0].process.kill()

        await asyncio.gather(*(work() for _ in range(AGENTS)))
    return losses


def _simulator(seed: int) -> AbstractAsyncContextManager[Measured]:
    arguments = ["-m", "broker.sim.ollama_sim", "--port", "0", "--speed", SPEED]
    arguments += ["--seed", str(seed), "--num-parallel", str(SLOTS)]
    return running(arguments, ready="ollama-sim listening")


def _url(simulator: Measured) -> str:
    return simulator.ready_line.split("http://")[1].split()[0]


def _config(folder: Path, urls: list[str]) -> str:
    backends = "".join(
        f'[[backends]]\nname = "b{number}"\nurl = "http://{url}"\nslots = {SLOTS}\n'
        "exclusive = true\nlocal = false\npoll_interval_ms = 500\nretry_interval_ms = 500\n"
        for number, url in enumerate(urls)
    )
    return f"""
[server]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
log_format = "json"
state_dir = "{folder}"
{backends}
[[agents.types]]
name = "system"
match = ["bench-*"]
[bulkheads]
[monitors]
host = false
gpu = false
"""


async def _ready(stub: inference_pb2_grpc.InferenceAsyncStub) -> None:
    """Until both backends hold the model: as many requests at once as they have slots together."""
    warm = Losses()
    for number in range(100):
        together = (_request(stub, number, warm) for _ in range(2 * SLOTS))
        await asyncio.gather(*together)
        if warm.lost == 0 and number:
            return
        warm = Losses()
        await asyncio.sleep(0.1)
    raise RuntimeError("the broker serves nothing")


async def _request(
    stub: inference_pb2_grpc.InferenceAsyncStub, number: int, losses: Losses
) -> None:
    request = pb.GenerateRequest(
        agent_id=f"bench-{number % AGENTS}",
        model=MODEL,
        on_interruption=ON_INTERRUPTION[number % len(ON_INTERRUPTION)],
    )
    request.prompt.text = f"Say something about {number}, please."
    request.options.max_tokens = TOKENS
    pieces = 0
    try:
        async for event in stub.Generate(request, timeout=120):
            pieces += event.HasField("chunk")
            losses.requeued += event.HasField("requeued")
    except grpc.aio.AioRpcError:
        if pieces and request.on_interruption == pb.ON_INTERRUPTION_FAIL:
            losses.asked_to_fail += 1
        else:
            losses.lost += 1
