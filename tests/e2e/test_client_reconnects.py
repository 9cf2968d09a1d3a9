"""A broker that is killed and started again: clients come back by themselves and are answered."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from broker_client import (
    AsyncClient,
    Chunk,
    Client,
    ConnectionLost,
    Done,
    Event,
    Queued,
    Requeued,
    Retrying,
)
from broker_client.results import Answer
from tests.e2e.processes import PATIENCE_S, QUICK, SERVER, backend_table, brokerd
from tests.integration.ollama_sim_process import Simulator, start_simulator

ASK: dict[str, Any] = {"model": "tinyllama", "prompt": "go", "seed": 1}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    process = start_simulator("--speed", "1", "--seed", "7", "--num-parallel", "2")
    yield process
    process.stop()


class Reader:
    """An agent with one request: all its events, and how it ended."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None
        self.heard = asyncio.Condition()

    async def read(self, client: AsyncClient, **ask: Any) -> None:
        try:
            async for event in client.stream(**ASK, **ask):
                await self.take(event)
        except ConnectionLost as error:
            self.error = error

    async def take(self, event: Event) -> None:
        async with self.heard:
            self.events.append(event)
            self.heard.notify_all()

    async def until(self, kind: type[Event]) -> None:
        async with asyncio.timeout(PATIENCE_S), self.heard:
            await self.heard.wait_for(lambda: any(isinstance(each, kind) for each in self.events))

    def text(self) -> str:
        answer = Answer("r")
        for event in self.events:
            answer.add(event)
        return answer.result().text


def in_a_thread(address: str, reader: Reader, loop: asyncio.AbstractEventLoop) -> None:
    with Client(address, agent_id="system-2") as client:
        for event in client.stream(**ASK, max_tokens=4):
            asyncio.run_coroutine_threadsafe(reader.take(event), loop).result()


async def test_clients_come_back_to_a_broker_that_was_killed(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = SERVER + QUICK + backend_table(simulator.port, "slots = 2")
    runs, fails, waits, blocking = (Reader() for _ in range(4))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(brokerd(config, tmp_path))
        address = (await first.said("broker listening"))["grpc"]
        client = await stack.enter_async_context(AsyncClient(address, agent_id="system-1"))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(runs.read(client, max_tokens=300, on_interruption="restart"))
        group.create_task(fails.read(client, max_tokens=300))
        await runs.until(Chunk)
        await fails.until(Chunk)
        group.create_task(waits.read(client, max_tokens=4))
        loop = asyncio.get_running_loop()
        group.create_task(asyncio.to_thread(in_a_thread, address, blocking, loop))
        await waits.until(Queued)
        await blocking.until(Queued)
        first.tell(signal.SIGKILL)
        for reader in (runs, waits, blocking):
            await reader.until(Retrying)
        await first.ended()
        again = config.replace("127.0.0.1:0", address, 1)
        await stack.enter_async_context(brokerd(again, tmp_path))
        for reader in (runs, waits, blocking):
            await reader.until(Done)
    assert isinstance(fails.error, ConnectionLost)
    assert fails.error.sent_pieces > 0
    assert any(isinstance(each, Requeued) and each.discard_before_seq for each in runs.events)
    assert not any(isinstance(each, Requeued) for each in waits.events + blocking.events)
    for reader in (runs, waits, blocking):
        assert reader.error is None
        assert reader.text()
