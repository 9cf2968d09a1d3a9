"""The first List after a start, from the kept list alone, in a real `brokerd`; and one bare call.

The backend does not answer, so that all there is comes from the file. Each start is a new process;
before its first List the client has connected and asked for the broker's health, no more. Measured
is the processor's time that all threads of the daemon take for it, to a microsecond; and beside it
what the client waits. The bare call (`bench/unary.py`), one after the other, is counted as a whole:
its client and its server, as one call needs both.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.models_data import library_models
from bench.models_list import BACKEND, ON_BACKENDS, PAGE, URL, gathered
from bench.processes import running
from bench.unary import call
from broker.state.model_cache import ModelCache
from broker_client.pb.broker.v1 import inference_pb2, models_pb2, models_pb2_grpc

MEASURED_CORE: Final = 0
BARE_CALLS: Final = 300
LATER_CALLS: Final = 50
SETTLE_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of one call: processor's time, and from its beginning to its end."""

    cpu_ms: float
    wall_ms: float


async def figures(models: int, variants: int, starts: int) -> dict[str, float]:
    """Medians over the starts: the first List, those after it, a bare call."""
    first: list[_Cost] = []
    later: list[_Cost] = []
    bare: list[_Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        config = await _prepare(Path(folder), models, variants)
        for _ in range(starts):
            bare.append(await _bare())
            one, others = await _lists(config)
            first.append(one)
            later.append(others)

    def median(name: str, costs: list[_Cost]) -> float:
        return float(statistics.median(getattr(each, name) for each in costs))

    pairs = list(zip(first, later, bare, strict=True))
    return {
        "list_at_start_vs_rpc": statistics.median(
            one.cpu_ms / call.cpu_ms for one, _, call in pairs
        ),
        "list_later_vs_rpc": statistics.median(
            more.cpu_ms / call.cpu_ms for _, more, call in pairs
        ),
        "list_at_start_cpu_ms": median("cpu_ms", first),
        "list_later_cpu_ms": median("cpu_ms", later),
        "rpc_cpu_ms": median("cpu_ms", bare),
        "list_at_start_client_ms": median("wall_ms", first),
        "list_later_client_ms": median("wall_ms", later),
        "rpc_client_ms": median("wall_ms", bare),
    }


def _cpu_ms(pid: int) -> float:
    """What all threads of a process have run for, as the scheduler counts."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e6


async def _prepare(folder: Path, models: int, variants: int) -> Path:
    """A configuration, and the list that a run before it has kept."""
    file = folder / "model_cache.json"
    told = library_models(models, variants)
    if not await ModelCache(file, sleep=lambda _: None).write(*gathered(told).to_keep()):
        raise RuntimeError("the list was not written")
    config = folder / "broker.toml"
    config.write_text(
        f"""
        [server]
        grpc_address = "127.0.0.1:0"
        http_address = "127.0.0.1:0"
        log_format = "json"
        state_dir = "{folder}"
        [model_list]
        cache_file = "{file}"
        [[backends]]
        name = "{BACKEND}"
        url = "{URL}"
        local = false
        """
    )
    return config


async def _lists(config: Path) -> tuple[_Cost, _Cost]:
    """(the first List of a broker, the median of those after it)."""
    arguments = ["-m", "broker.daemon.main", "--config", str(config)]
    async with running(arguments, ready="broker listening", core=MEASURED_CORE) as measured:
        address, pid = json.loads(measured.ready_line)["grpc"], measured.process.pid
        async with grpc.aio.insecure_channel(address) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            stub = models_pb2_grpc.ModelsStub(channel)
            request = models_pb2.ListRequest(page_size=PAGE)
            costs = []
            for _ in range(1 + LATER_CALLS):
                cpu_ms, began = _cpu_ms(pid), time.perf_counter()
                answer = await stub.List(request)
                wall_ms = (time.perf_counter() - began) * 1e3
                await asyncio.sleep(SETTLE_S)  # what the server does after its answer counts too
                costs.append(_Cost(_cpu_ms(pid) - cpu_ms, wall_ms))
                if len(answer.models) != PAGE or answer.total < ON_BACKENDS:
                    raise RuntimeError(f"{len(answer.models)} of {answer.total} models were listed")
            later = costs[1:]
            return costs[0], _Cost(
                statistics.median(each.cpu_ms for each in later),
                statistics.median(each.wall_ms for each in later),
            )


async def _bare() -> _Cost:
    """Bare calls, one after the other: their mean processor's time, their median wall time."""
    async with (
        running(["-m", "bench.unary"], ready="unary listening", core=MEASURED_CORE) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ready_line.split()[-1]}") as channel,
    ):
        bare, pid = call(channel), server.process.pid
        request = inference_pb2.GenerateRequest(agent_id="bench-1", model="m", priority=5)
        for _ in range(BARE_CALLS):
            await bare(request)
        server_ms, client_s = _cpu_ms(pid), time.process_time()
        took = []
        for _ in range(BARE_CALLS):
            began = time.perf_counter()
            await bare(request)
            took.append((time.perf_counter() - began) * 1e3)
        cpu_ms = _cpu_ms(pid) - server_ms + (time.process_time() - client_s) * 1e3
        return _Cost(cpu_ms / BARE_CALLS, statistics.median(took))
