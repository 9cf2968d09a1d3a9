"""How soon a frozen stream is noticed, over real sockets; and how often a healthy one is taken for
frozen, on a virtual clock.

The first: a simulated Ollama (`broker.sim`) whose runner stops in the middle of an answer, for
models of several speeds. From the last piece that the client got to the error that it got. The
second: the daemon's own engine before the same simulated server, where decoding stalls for as long
as a neighbour's prompt is worked on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import grpc

from bench.processes import running
from broker.core.effects import AbortAttempt, Effect, TellHealing
from broker.core.engine import Engine
from broker.core.healing import HealingStep
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import ModelSpec, Stimulus
from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_machine import ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Task
from broker.sim.world import Site, World
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

SEED = 1
RATES = {"fast": 100.0, "middling": 20.0, "slow": 5.0}  # tokens per second
LEARNED = 3  # requests that are served before one freezes
FREEZE_AFTER = 12  # tokens
NS_PER_S = 1_000_000_000
SLOTS = 4
NUM_CTX = 8192
PREFILL_TOKENS_PER_S = 600.0
LONG_SHARE = 0.1
LOOK_NS = 60 * NS_PER_S

# What the bound allows: three of the usual gaps, and so long beyond.
GAPS_ALLOWED, EXTRA_S_ALLOWED = 3.0, 2.0


async def found_ratio(rounds: int) -> float:
    """The worst of all speeds and rounds."""
    ratios = [await _found(name, rate) for name, rate in RATES.items() for _ in range(rounds)]
    return max(ratios)


async def _found(name: str, rate: float) -> float:
    """Before servers of its own: a runner that was frozen is another one afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models.toml"
        models.write_text(
            f'[[model]]\nname = "{name}"\nsize_bytes = 100_000_000\n'
            f"[model.speed]\nprefill_tokens_per_s = 2000.0\ndecode_tokens_per_s = {rate}\n"
        )
        simulator = ["-m", "broker.sim.ollama_sim", "--port", "0", "--models", str(models)]
        async with running(simulator, ready="ollama-sim listening") as upstream:
            url = upstream.ready_line.split("http://")[1].split()[0]
            config = Path(folder) / "broker.toml"
            config.write_text(_config(folder, url))
            daemon = ["-m", "broker.daemon.main", "--config", str(config)]
            async with running(daemon, ready="broker listening") as broker:
                address = json.loads(broker.ready_line)["grpc"]
                silent_s = await _silent_s(address, url, name)
    return silent_s / (GAPS_ALLOWED / rate + EXTRA_S_ALLOWED)


def _config(folder: str, url: str) -> str:
    return f"""
[server]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
log_format = "json"
state_dir = "{folder}"
[[backends]]
url = "http://{url}"
exclusive = true
local = false
poll_interval_ms = 500
[monitors]
host = false
gpu = false
"""


async def _silent_s(address: str, url: str, model: str) -> float:
    async with (
        grpc.aio.insecure_channel(address) as channel,
        aiohttp.ClientSession() as session,
    ):
        stub = inference_pb2_grpc.InferenceStub(channel)
        for number in range(LEARNED):
            await _last_piece_s(stub, model, f"learned {number}", tokens=2 * FREEZE_AFTER)
        fault = {"kind": "freeze", "after": FREEZE_AFTER}
        async with session.post(f"http://{url}/sim/faults", json=fault) as answer:
            answer.raise_for_status()
        last_s = await _last_piece_s(stub, model, "frozen", tokens=1_000)
        return time.perf_counter() - last_s


async def _last_piece_s(
    stub: inference_pb2_grpc.InferenceAsyncStub, model: str, words: str, *, tokens: int
) -> float:
    """When the last piece came; the call has ended, well or not, when this returns."""
    request = pb.GenerateRequest(agent_id="bench-1", model=model, priority=5)
    request.prompt.text = words
    request.options.max_tokens = tokens
    last_s = 0.0
    for _ in range(50):  # until the backend is known
        try:
            async for event in stub.Generate(request, timeout=120):
                if event.HasField("chunk"):
                    last_s = time.perf_counter()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and not last_s:
                await asyncio.sleep(0.1)
                continue
        return last_s
    raise RuntimeError("the broker serves nothing")


# Healthy ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """What became of requests that nothing was wrong with."""

    false_alarms: int
    completed: int


class _Alarms:
    """A judge that counts alarms, and calls that were given up; it sees nothing else."""

    def __init__(self) -> None:
        self.count = 0

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        self.count += sum(
            isinstance(each, AbortAttempt)
            or (isinstance(each, TellHealing) and each.step is HealingStep.FROZEN)
            for each in effects
        )

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None:
        return

    def closed(self, server: str, exchange: ExchangeId) -> None:
        return

    def signalled(self, server: str, signal: Signal) -> None:
        return


def false_alarms(requests: int) -> Healthy:
    """Short prompts with answers of many tokens, and among them, one in ten, prompts of thousands
    of tokens, which stall the others' decoding for seconds; four slots for each of three models
    that differ in speed and are all resident."""
    models = tuple(_model(name, rate) for name, rate in RATES.items())
    settings = ServerSettings(num_parallel=SLOTS, max_loaded_models=len(models))
    policy = BackendPolicy(name="s", resident_max=len(models), exclusive=True)
    specs = tuple(
        ModelSpec(
            name=each.name,
            runner=each.blob,
            size_bytes=each.size_bytes,
            slots=SLOTS,
            num_ctx=NUM_CTX,
            num_ctx_max=NUM_CTX,
        )
        for each in models
    )
    site = Site(start=lambda: OllamaModel(Catalogue(models), settings, SEED), specs=specs)
    alarms = _Alarms()
    world = World(Engine(EnginePolicy(backends=(policy,))), {"s": site}, judge=alarms)
    world.add(_tasks(requests, [each.name for each in models]))
    while not _is_over(world, requests):
        world.timeline.run(world.timeline.now_ns + LOOK_NS)
    done = sum(each.outcome is Outcome.COMPLETED for each in world.stories.values())
    return Healthy(false_alarms=alarms.count, completed=done)


def _is_over(world: World, requests: int) -> bool:
    stories = world.stories.values()
    return len(stories) == requests and all(each.endings for each in stories)


def _model(name: str, rate: float) -> SimModel:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return SimModel(
        name=f"{name}:latest",
        blob=digest,
        digest=digest[::-1],
        size_bytes=1_000_000_000,
        parameter_count=1_000_000_000,
        architecture="llama",
        context_length_train=NUM_CTX,
        speed=Speed(prefill_tokens_per_s=PREFILL_TOKENS_PER_S, decode_tokens_per_s=rate),
    )


def _tasks(requests: int, names: list[str]) -> Iterator[Task]:
    """Arrivals at about the rate at which they are served."""
    chance = Random(SEED)
    at_ns = 0
    for number in range(requests):
        model = names[number % len(names)]
        at_ns += int(chance.expovariate(1.0) * NS_PER_S)
        is_long = chance.random() < LONG_SHARE
        yield Task(
            at_ns=at_ns,
            agent_id=f"bench-{number % 131}",
            request_id=str(number),
            model=model,
            priority=5,
            prompt_tokens=chance.randint(2_000, 7_000) if is_long else chance.randint(10, 200),
            output_tokens=chance.randint(5, 60),
            patience_ns=24 * 3600 * NS_PER_S,
        )
