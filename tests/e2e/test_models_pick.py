"""The picker on a terminal, before a real broker and a simulated Ollama whose models change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.ollama_sim_process import Simulator, start_simulator
from tests.integration.terminal import Terminal, brokerctl_on_terminal

pytestmark = pytest.mark.slow

UP = b"\x1b[A"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    started = start_simulator("--speed", "20", "--seed", "7")
    yield started
    started.stop()


@pytest_asyncio.fixture
async def broker(simulator: Simulator, tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    async with brokerd(SERVER + QUICK + backend_table(simulator.port), tmp_path) as running:
        yield running
    await simulator.reset()


async def changed(simulator: Simulator, method: str, path: str, **document: str) -> None:
    """What somebody else does to the models of the server."""
    url = f"http://127.0.0.1:{simulator.port}/api/{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, json=document) as r:
        assert r.status == 200, await r.text()


async def test_models_that_come_and_go_are_seen_while_one_chooses(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    address = (await broker.said("broker listening"))["grpc"]
    words = ("models", "pick", "--address", address)

    async def seen(terminal: Terminal, *texts: str) -> None:
        await asyncio.to_thread(terminal.until, *texts)

    with brokerctl_on_terminal(words, streams="ie") as terminal:
        await seen(terminal, "> [ ] llama3.2:1b", "tinyllama:latest", "Enter takes llama3.2:1b")
        await changed(simulator, "POST", "copy", source="tinyllama", destination="aaa")
        await seen(terminal, "aaa:latest")
        # The cursor has stayed with its model; the new one stands before it.
        terminal.press(b" " + UP)
        await seen(terminal, "Enter takes 1 marked: llama3.2:1b", "> [ ] aaa:latest")
        terminal.press(b" ")
        await seen(terminal, "Enter takes 2 marked: llama3.2:1b, aaa:latest")
        await changed(simulator, "DELETE", "delete", model="aaa")
        await seen(terminal, "Enter takes 1 marked: llama3.2:1b; marked but gone: aaa:latest")
        terminal.press(b"\r")
        assert await asyncio.to_thread(terminal.end) == (0, "llama3.2:1b\n")
