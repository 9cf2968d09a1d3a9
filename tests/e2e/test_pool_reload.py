"""Backends that come and go by a reload of the file, while requests wait and run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, backend_table, brokerd
from tests.integration.daemon import read_until
from tests.integration.ollama_sim_process import Simulator, start_simulator


@pytest.fixture(scope="module")
def simulators() -> Iterator[tuple[Simulator, Simulator]]:
    both = tuple(
        start_simulator("--speed", "20", "--seed", seed, "--max-loaded", "1") for seed in "78"
    )
    yield both[0], both[1]
    for each in both:
        each.stop()


def table(name: str, simulator: Simulator) -> str:
    return backend_table(simulator.port, f'name = "{name}"')


def request(number: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        agent_id=f"system-{number}",
        request_id=f"r{number}",
        model="tinyllama",
        prompt=pb.Prompt(text="go"),
        options=pb.Options(max_tokens=40, seed=1),
    )


async def test_one_takes_the_place_of_another_and_no_request_is_lost(
    simulators: tuple[Simulator, Simulator], tmp_path: Path
) -> None:
    first, second = simulators
    base, file = SERVER + QUICK, tmp_path / "broker.toml"
    async with brokerd(base + table("first", first), tmp_path) as broker:
        streams = [broker.inference.Generate(request(0))]
        await read_until(streams[0], "started")
        streams += [broker.inference.Generate(request(number)) for number in range(1, 12)]
        await read_until(streams[-1], "queued")
        file.write_text(base + table("second", second))
        broker.tell(signal.SIGHUP)
        said = await broker.said("configuration reloaded")
        assert said["changed"] == ["backends.first: removed", "backends.second: added"]
        assert said["needs_restart"] == []
        ends = await asyncio.gather(*(read_until(each, "done") for each in streams))
        assert all(each[-1].done.usage.output_tokens for each in ends)
        await broker.until_status(lambda status: [x.name for x in status.backends] == ["second"])
        assert await broker.outcomes() == {"completed": 12}
        assert (await second.state())["loads"] == {"tinyllama:latest": 1}
        assert broker.plain == []
