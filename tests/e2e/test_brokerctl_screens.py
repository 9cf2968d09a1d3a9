"""brokerctl as a process before a real broker and a simulated Ollama: what an operator sees."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import read_until
from tests.integration.ollama_sim_process import Simulator, start_simulator
from tests.integration.terminal import brokerctl_on_terminal

pytestmark = pytest.mark.slow

MODEL = "tinyllama"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    started = start_simulator("--speed", "20", "--seed", "7", "--num-parallel", "2")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def unhurried() -> Iterator[Simulator]:
    """Answers that last much longer than a busy machine is late in telling of them: which of them
    ran at once is read from the client's clock."""
    started = start_simulator("--speed", "2", "--seed", "7", "--num-parallel", "2")
    yield started
    started.stop()


@pytest_asyncio.fixture
async def broker(simulator: Simulator, tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    async with brokerd(
        SERVER + QUICK + backend_table(simulator.port, "slots = 2"), tmp_path
    ) as running:
        yield running
    await simulator.reset()


async def brokerctl(broker: BrokerProcess, *arguments: str) -> tuple[int, str]:
    """Its exit status, and all it said."""
    address = (await broker.said("broker listening"))["grpc"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "brokerctl.main", *arguments, "--address", address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def document(broker: BrokerProcess, *arguments: str) -> Any:
    """What it says to programs."""
    status, said = await brokerctl(broker, *arguments, "--json")
    assert status == 0, said
    return json.loads(said)


def request(number: int, tokens: int = 20_000) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        agent_id=f"opus-{number}",
        request_id=f"r{number}",
        model=MODEL,
        prompt=pb.Prompt(text=f"go {number}"),
        options=pb.Options(max_tokens=tokens, seed=1),
    )


async def test_who_waits_and_why_is_found_in_a_minute(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    # The model is loaded then: the fault meets an answer, not the load.
    await read_until(broker.inference.Generate(request(9, tokens=8)), "done")
    await simulator.set_fault(kind="freeze", after=3)
    calls = [broker.inference.Generate(request(i)) for i in range(3)]
    first_two = [asyncio.ensure_future(call.read()) for call in calls]
    await asyncio.wait(first_two)
    await broker.until_status(lambda status: status.running == 2 and status.queued == 1)
    _, screen = await brokerctl(broker, "status", "--requests", "10")
    assert "level normal" in screen
    assert re.search(r"tinyllama:latest +resident +2 of 2 +1 ", screen)
    assert "waits for a free slot of tinyllama:latest" in screen
    _, screen = await brokerctl(broker, "queue")
    assert "1 request of at most 1000 waits" in screen
    assert "a slot of its model, which is resident" in screen
    queue = await document(broker, "queue")
    [waiting] = [each["request_id"] for each in queue["requests"]]
    assert queue["positions"] == [1]
    _, story = await brokerctl(broker, "explain", waiting)
    assert "waits at position 1" in story
    for call in calls:
        call.cancel()
    await simulator.set_fault(kind="thaw")


async def test_the_level_is_set_told_and_left_to_the_load(broker: BrokerProcess) -> None:
    events = asyncio.create_task(brokerctl(broker, "events", "level", "--count", "1", "--json"))
    # Set again and again, as the subscription may come after the first; each is a change.
    for level in ("1", "2", "critical") * 10:
        status, said = await brokerctl(broker, "level", level, "--for", "10m")
        assert (status, said.split(":")[0]) == (0, f"level {level} for 10 min 0 s")
        if events.done():
            break
    told = [json.loads(each) for each in (await events)[1].splitlines()]
    assert told[0]["is_state"]
    assert told[-1]["what"]["level"] in ("1", "2", "critical")
    shown = await document(broker, "level")
    assert (shown["level"], shown["automatic"]) == (level, False)
    status, said = await brokerctl(broker, "doctor")
    assert f"level {level} is held for another" in said
    _, said = await brokerctl(broker, "level", "auto")
    assert said.startswith("the level follows the load again; it is normal")


async def test_the_probe_finds_slots_that_the_server_has(
    unhurried: Simulator, tmp_path: Path
) -> None:
    config = SERVER + QUICK + backend_table(unhurried.port, "slots = 2")
    async with brokerd(config, tmp_path) as running:
        status, said = await brokerctl(running, "doctor", "--probe", "--model", MODEL)
    assert status == 0, said
    assert "tinyllama:latest runs 2 requests at once" in " ".join(said.split())
    assert "the probe took 4 requests" in " ".join(said.split())


async def test_the_probe_finds_slots_that_the_server_lacks(
    unhurried: Simulator, tmp_path: Path
) -> None:
    config = SERVER + QUICK + backend_table(unhurried.port, "slots = 4")
    async with brokerd(config, tmp_path) as running:
        _, said = await brokerctl(running, "doctor", "--probe", "--model", MODEL)
    words = " ".join(said.split())
    assert "tinyllama:latest has 4 slots, but at most 2 requests ran at once" in words
    assert "OLLAMA_NUM_PARALLEL=4" in words


@pytest.mark.parametrize("columns", [80, 160])
async def test_top_on_a_real_terminal(broker: BrokerProcess, columns: int) -> None:
    address = (await broker.said("broker listening"))["grpc"]
    said = await asyncio.to_thread(play_top, address, columns)
    assert "1 requests" in said
    assert "level normal" in said
    assert "3 models" in said


def play_top(address: str, columns: int) -> str:
    """Starts it on a terminal of this size, waits until its state is drawn, leaves it with q."""
    with brokerctl_on_terminal(("top", "--address", address), size=(columns, 24)) as terminal:
        terminal.until("level normal")
        terminal.press(b"q")
        status, _ = terminal.end()
        assert status == 0, terminal.drawn
        return terminal.drawn
