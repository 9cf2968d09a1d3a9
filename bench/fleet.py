"""A fleet's ten minutes, once straight to an Ollama and once through the broker before it.

The Ollama is `ollama-sim`, over real sockets, its clock sped up. 131 agents send the work of
bench/workload.py and give up after a minute of the fleet's time. Each request ends in exactly one
way; what is compared is how many end in time, and how many loads of models that takes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc

from bench.processes import running
from bench.result import Result
from bench.workload import (
    AGENT_TYPES,
    DECODE_TOKENS_PER_S,
    MODELS,
    PATIENCE_S,
    PREFILL_TOKENS_PER_S,
    RESIDENT,
    SLOTS,
    Job,
    fleet_jobs,
)
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

SEED = 1
SPEED = 20.0  # the fleet's seconds per real one
BOUNDS = {"fleet_loads_vs_direct": 0.6}
MODEL_BYTES = 4_000_000_000
NUM_CTX = 16_384  # holds the longest prompt and answer of the trace
WORD = "w "  # about one token of the simulator's tokenizer

# How a request can end. `in_time` is the only good one.
IN_TIME, GAVE_UP, REFUSED, FAILED = "in time", "gave up", "refused", "failed"


@dataclass(slots=True)
class Ending:
    """What became of a job. `wait_s` is until the first token; both in the fleet's seconds."""

    job: Job
    how: str
    wait_s: float | None


@dataclass(frozen=True, slots=True)
class Leg:
    """One way through the ten minutes. `loads` counts runner processes started, as the recordings
    of a real Ollama do: each keeps the machine busy, also one that ends because the client that it
    belongs to gives up. `loads_completed` are those that did not."""

    name: str
    endings: list[Ending]
    loads: int
    loads_completed: int
    wall_s: float

    def count(self, how: str) -> int:
        return sum(each.how == how for each in self.endings)

    def loads_per_in_time(self) -> float:
        return self.loads / max(1, self.count(IN_TIME))


Send = Callable[[Job, Callable[[], None]], Awaitable[str]]


async def run(*, quick: bool) -> Result:
    """About three minutes for each of the two; a few seconds if quick, which proves nothing."""
    jobs = fleet_jobs(SEED, requests_max=60 if quick else None)
    speed = 60.0 if quick else SPEED
    async with _ollama(speed) as url, _session() as session:
        send = _direct(session, url, speed)
        direct = await _play("straight to Ollama", jobs, speed, send, url)
    async with (
        _ollama(speed) as url,
        _broker(url, speed) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        send = _through_broker(inference_pb2_grpc.InferenceStub(channel), speed)
        through = await _play("through the broker", jobs, speed, send, url)
    ratio = through.loads_per_in_time() / direct.loads_per_in_time()
    return Result(
        name="fleet",
        seed=SEED,
        figures={
            "fleet_loads_vs_direct": ratio,
            "requests": float(len(jobs)),
            **_figures("direct", direct),
            **_figures("broker", through),
        },
        bounds=BOUNDS,
        table=_table(direct, through),
    )


@asynccontextmanager
async def _ollama(speed: float) -> AsyncIterator[str]:
    """The simulator with the fleet's models, of which RESIDENT fit, SLOTS slots each."""
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / "models.toml"
        catalogue.write_text("".join(_catalogue_entry(each.name, each.load_s) for each in MODELS))
        arguments = ["-m", "broker.sim.ollama_sim", "--port", "0", "--speed", str(speed)]
        arguments += ["--models", str(catalogue), "--num-parallel", str(SLOTS)]
        arguments += ["--max-loaded", str(RESIDENT), "--memory-gb", "200"]
        arguments += ["--context-length", str(NUM_CTX)]
        async with running(arguments, ready="listening on") as measured:
            yield measured.ready_line.split("listening on ")[1].split()[0]


def _catalogue_entry(name: str, load_s: float) -> str:
    """Service does not depend on how many slots are busy, so that rho means what it says."""
    rate = MODEL_BYTES / load_s
    return f"""
    [[model]]
    name = "{name}"
    size_bytes = {MODEL_BYTES}
    context_length_train = {NUM_CTX}
    [model.speed]
    prefill_tokens_per_s = {PREFILL_TOKENS_PER_S}
    decode_tokens_per_s = {DECODE_TOKENS_PER_S}
    batch_slowdown = 0.0
    load_bytes_per_s = {rate}
    load_cached_bytes_per_s = {rate}
    spawn_ms = 0.0
    [model.says]
    output_tokens_min = 8000
    output_tokens_max = 8000
    """


@asynccontextmanager
async def _broker(url: str, speed: float) -> AsyncIterator[str]:
    """The broker as it comes, but for the rates of agents, which it does not limit here; its times
    are shortened as the simulator's clock is."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "broker.toml"
        config.write_text(
            f"""
            [server]
            grpc_address = "127.0.0.1:0"
            http_address = "127.0.0.1:0"
            log_format = "json"
            [queue]
            handicap_ms_per_priority = {int(5000 / speed)}
            announce_interval_ms = {max(50, int(1000 / speed))}
            [placement]
            slot_grace_ms = {int(300 / speed)}
            [[backends]]
            name = "sim"
            url = "{url}"
            slots = {SLOTS}
            resident_max = {RESIDENT}
            local = false
            """
            + "".join(_agent_type(kind) for kind, _ in AGENT_TYPES)
        )
        arguments = ["-m", "broker.daemon.main", "--config", str(config)]
        async with running(arguments, ready="broker listening") as measured:
            address: str = json.loads(measured.ready_line)["grpc"]
            await _wait_known(address)
            yield address


def _agent_type(kind: str) -> str:
    """Without rates: Ollama alone limits nobody either, and real time is not the fleet's."""
    return f"""
            [[agents.types]]
            name = "{kind}"
            match = ["{kind}-*"]
            """


async def _wait_known(address: str) -> None:
    """Until the broker knows its backend: an unknown model is then NOT_FOUND, not UNAVAILABLE."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        request = pb.GenerateRequest(agent_id="bench", model="no-such-model")
        request.prompt.text = "?"
        for _ in range(200):
            try:
                async for _event in stub.Generate(request, timeout=10):
                    raise RuntimeError("a model that does not exist answered")
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"the broker at {address} does not find its backend")


async def _play(name: str, jobs: list[Job], speed: float, send: Send, url: str) -> Leg:
    """Sends each job at its time and waits for all endings."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()

    async def one(job: Job) -> Ending:
        await asyncio.sleep(job.at_s / speed - (loop.time() - begun_s))
        sent_s = loop.time()
        first_s: list[float] = []
        how = await send(job, lambda: first_s.append(loop.time()))
        wait_s = (first_s[0] - sent_s) * speed if first_s else None
        return Ending(job, how, wait_s)

    started_s = time.perf_counter()
    endings = await asyncio.gather(*(one(job) for job in jobs))
    async with aiohttp.ClientSession() as session, session.get(f"{url}/sim/state") as answer:
        state = await answer.json()
    wall_s = time.perf_counter() - started_s
    completed = sum(state["loads"].values())
    return Leg(name, list(endings), state["runner_starts"], completed, wall_s)


def _session() -> aiohttp.ClientSession:
    """Agents are processes of their own: each call has its own connection."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


def _direct(session: aiohttp.ClientSession, url: str, speed: float) -> Send:
    """An agent with an HTTP client and a time-out, as agents have without a broker."""

    async def send(job: Job, on_first: Callable[[], None]) -> str:
        body = {
            "model": job.model,
            "prompt": WORD * job.prompt_tokens,
            "options": {"num_predict": job.output_tokens},
        }
        try:
            async with asyncio.timeout(PATIENCE_S / speed):
                async with session.post(f"{url}/api/generate", json=body) as answer:
                    if answer.status != 200:
                        return REFUSED if answer.status == 503 else FAILED
                    done = False
                    async for line in answer.content:
                        if not done:
                            on_first()
                        done = b'"done":true' in line
                    return IN_TIME if done else FAILED
        except TimeoutError:
            return GAVE_UP
        except aiohttp.ClientError:
            return FAILED

    return send


def _through_broker(stub: inference_pb2_grpc.InferenceAsyncStub, speed: float) -> Send:
    """The same agent with the broker's stub and a deadline."""

    async def send(job: Job, on_first: Callable[[], None]) -> str:
        request = pb.GenerateRequest(
            request_id=f"job-{job.number}",
            agent_id=job.agent_id,
            model=job.model,
            priority=job.priority,
        )
        request.prompt.text = WORD * job.prompt_tokens
        request.options.max_tokens = job.output_tokens
        done = False
        try:
            async for event in stub.Generate(request, timeout=PATIENCE_S / speed):
                if event.HasField("chunk"):
                    on_first()
                done = event.HasField("done")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return GAVE_UP
            return REFUSED if error.code() is grpc.StatusCode.UNAVAILABLE else FAILED
        return IN_TIME if done else FAILED

    return send


def _figures(name: str, leg: Leg) -> dict[str, float]:
    waits = sorted(each.wait_s for each in leg.endings if each.wait_s is not None)
    return {
        f"{name}_in_time": float(leg.count(IN_TIME)),
        f"{name}_loads": float(leg.loads),
        f"{name}_loads_completed": float(leg.loads_completed),
        f"{name}_first_token_p50_s": statistics.median(waits) if waits else 0.0,
        f"{name}_wall_s": leg.wall_s,
    }


def _table(direct: Leg, through: Leg) -> str:
    """For people; Markdown, as docs/ shows it."""
    lines = [
        "| | in time | gave up | refused | failed | loads | completed | loads per in time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for leg in (direct, through):
        counts = " | ".join(str(leg.count(how)) for how in (IN_TIME, GAVE_UP, REFUSED, FAILED))
        loads = f"{leg.loads} | {leg.loads_completed} | {leg.loads_per_in_time():.3f}"
        lines.append(f"| {leg.name} | {counts} | {loads} |")
    lines += [
        "",
        "First token p50 / p95 in seconds, of the requests that got one:",
        "",
        "| priority | requests | in time direct | in time broker | wait direct | wait broker |",
        "|---|---|---|---|---|---|",
    ]
    for priority in range(1, 11):
        mine = [_of_priority(leg, priority) for leg in (direct, through)]
        in_time = " | ".join(str(sum(each.how == IN_TIME for each in some)) for some in mine)
        waits = " | ".join(_waits(some) for some in mine)
        lines.append(f"| {priority} | {len(mine[0])} | {in_time} | {waits} |")
    return "\n".join(lines)


def _of_priority(leg: Leg, priority: int) -> list[Ending]:
    found = [each for each in leg.endings if each.job.priority == priority]
    ends = Counter(each.job.number for each in found)
    if any(count != 1 for count in ends.values()):
        raise RuntimeError("a request ended more than once")
    return found


def _waits(endings: list[Ending]) -> str:
    waits = sorted(each.wait_s for each in endings if each.wait_s is not None)
    if not waits:
        return "-"
    return f"{statistics.median(waits):.1f} / {waits[int(len(waits) * 0.95)]:.1f}"
