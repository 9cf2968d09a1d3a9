"""A broker that is killed under load, and the one after it: it finds the backend as it is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, brokerd
from tests.integration.daemon import PATIENCE_S, read_until
from tests.integration.ollama_sim_process import Simulator, start_simulator

OK = grpc.StatusCode.OK
MODEL, OTHER = "tinyllama", "llama3.2:1b"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    process = start_simulator("--speed", "2", "--seed", "7", "--max-loaded", "1")
    yield process
    process.stop()


def backend_table(simulator: Simulator) -> str:
    """Not exclusively the broker's: it may unload only what it knows to be its own."""
    return f"""
[[backends]]
url = "127.0.0.1:{simulator.port}"
poll_interval_ms = 100
retry_interval_ms = 100
"""


def request(request_id: str, model: str = MODEL, max_tokens: int = 200) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        agent_id="opus-1",
        request_id=request_id,
        model=model,
        prompt=pb.Prompt(text="go"),
        options=pb.Options(max_tokens=max_tokens, seed=1),
    )


async def ending(stream: Any) -> grpc.StatusCode:
    """How this call ends."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while isinstance(await stream.read(), pb.GenerateEvent):
                pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return OK


async def until_kept(folder: Path) -> None:
    """The broker has written down what it has loaded."""
    async with asyncio.timeout(PATIENCE_S):
        while not _is_kept(folder):  # noqa: ASYNC110 - it is another process's
            await asyncio.sleep(0.02)


def _is_kept(folder: Path) -> bool:
    return any('["' in each.read_text() for each in folder.rglob("owned-models-*.json"))


async def test_what_the_killed_broker_had_loaded_is_used_and_may_leave(
    simulator: Simulator, tmp_path: Path
) -> None:
    await simulator.reset()
    config = SERVER + QUICK + backend_table(simulator)
    async with brokerd(config, tmp_path) as first:
        ids = [f"r{number}" for number in range(4)]
        streams = [first.inference.Generate(request(ids[0]))]
        await read_until(streams[0], "chunk")
        streams += [first.inference.Generate(request(each)) for each in ids[1:]]
        await read_until(streams[-1], "queued")
        await until_kept(tmp_path)
        first.tell(signal.SIGKILL)
        endings = await asyncio.gather(*(ending(each) for each in streams))
        lost = [each for each, code in zip(ids, endings, strict=True) if code is not OK]
        assert lost
    loads = (await simulator.state())["loads"]
    async with brokerd(config, tmp_path) as second:
        status = await second.until_status(lambda status: bool(status.backends[0].models))
        (model,) = status.backends[0].models
        assert (model.name.partition(":")[0], model.place.managed) == (MODEL, True)
        await answered(second, lost)
        assert (await simulator.state())["loads"] == loads
        other = second.inference.Generate(request("other", OTHER, max_tokens=2))
        assert (await read_until(other, "done"))[-1].done.usage.output_tokens == 2


async def answered(broker: BrokerProcess, ids: list[str]) -> None:
    """Each of these, sent again under its own id, is answered in full."""
    streams = [broker.inference.Generate(request(each)) for each in ids]
    for stream in streams:
        assert (await read_until(stream, "done"))[-1].done.usage.output_tokens > 0
