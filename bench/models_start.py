"""The first List after a start, from the kept list alone, in a real `brokerd`; and one bare call.

The backend does not answer, so that all there is comes from the file. Client and daemon have a core
each. Each start is a new process; before its first List the client has connected and asked for the
broker's health, no more. The bare call (`bench/unary.py`) is the usual one of its process: the
median of many, after as many that are not counted.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
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


async def figures(models: int, variants: int, starts: int) -> dict[str, float]:
    """In milliseconds, medians over the starts: the first List, those after it, a bare call."""
    first: list[float] = []
    later: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = await _prepare(Path(folder), models, variants)
        for _ in range(starts):
            bare.append(await _bare_ms())
            one, others = await _lists_ms(config)
            first.append(one)
            later.append(others)
    ratios = [one / call_ms for one, call_ms in zip(first, bare, strict=True)]
    return {
        "list_at_start_vs_rpc": statistics.median(ratios),
        "list_at_start_ms": statistics.median(first),
        "list_later_ms": statistics.median(later),
        "rpc_ms": statistics.median(bare),
    }


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


async def _lists_ms(config: Path) -> tuple[float, float]:
    """(the first List of a broker, the median of those after it)."""
    arguments = ["-m", "broker.daemon.main", "--config", str(config)]
    async with running(arguments, ready="broker listening", core=MEASURED_CORE) as measured:
        address = json.loads(measured.ready_line)["grpc"]
        async with grpc.aio.insecure_channel(address) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            stub = models_pb2_grpc.ModelsStub(channel)
            request = models_pb2.ListRequest(page_size=PAGE)
            took = []
            for _ in range(1 + LATER_CALLS):
                began = time.perf_counter()
                answer = await stub.List(request)
                took.append((time.perf_counter() - began) * 1e3)
                if len(answer.models) != PAGE or answer.total < ON_BACKENDS:
                    raise RuntimeError(f"{len(answer.models)} of {answer.total} models were listed")
            return took[0], statistics.median(took[1:])


async def _bare_ms() -> float:
    """The median of bare calls, one after the other."""
    async with (
        running(["-m", "bench.unary"], ready="unary listening", core=MEASURED_CORE) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ready_line.split()[-1]}") as channel,
    ):
        bare = call(channel)
        request = inference_pb2.GenerateRequest(agent_id="bench-1", model="m", priority=5)
        took = []
        for _ in range(2 * BARE_CALLS):
            began = time.perf_counter()
            await bare(request)
            took.append((time.perf_counter() - began) * 1e3)
        return statistics.median(took[BARE_CALLS:])
