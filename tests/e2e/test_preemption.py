"""Real processes: urgent work has the only slot of a model, and who had it is told and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker_client import AsyncClient, Chunk, Event, GenerateResult, Requeued, Started
from broker_client.results import Answer
from tests.e2e.processes import PATIENCE_S, QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.ollama_sim_process import Simulator, start_simulator

# Many pieces: it runs for as long as the test needs, and has begun to answer early.
LOW: dict[str, Any] = {"model": "tiny-s", "prompt": "low", "seed": 1, "max_tokens": 400}
URGENT: dict[str, Any] = {"model": "tiny-s", "prompt": "now", "seed": 2, "max_tokens": 4}


# However fast the machine is, nothing is waited for as it is about to end.
AT_ONCE = "[preemption]\nsoon_ms = 0\n"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    process = start_simulator("--speed", "1", "--seed", "7", "--models", "recorded", "--cpu")
    yield process
    process.stop()


class Reader:
    """All that one request hears, and what it comes to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._heard = asyncio.Condition()

    async def read(self, client: AsyncClient, **ask: Any) -> GenerateResult:
        async with client.stream(**ask) as events:
            answer = Answer(events.request_id)
            async for event in events:
                answer.add(event)
                async with self._heard:
                    self.events.append(event)
                    self._heard.notify_all()
        return answer.result()

    def of(self, kind: type[Event]) -> list[Any]:
        return [each for each in self.events if isinstance(each, kind)]

    async def until(self, kind: type[Event], times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S), self._heard:
            await self._heard.wait_for(lambda: len(self.of(kind)) >= times)


@asynccontextmanager
async def one_slot(
    simulator: Simulator, folder: Path
) -> AsyncIterator[tuple[BrokerProcess, AsyncClient]]:
    config = SERVER + QUICK + AT_ONCE + backend_table(simulator.port)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(brokerd(config, folder))
        address = (await broker.said("broker listening"))["grpc"]
        client = await stack.enter_async_context(AsyncClient(address, agent_id="system-1"))
        await broker.until_status(lambda status: status.backends[0].up)
        yield broker, client


async def test_a_running_stream_makes_way_for_urgent_work_and_is_answered_whole_after_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with one_slot(simulator, tmp_path) as (broker, client):
        low = Reader()
        reading = asyncio.ensure_future(low.read(client, **LOW, priority=9, request_id="low"))
        await low.until(Chunk, times=2)
        urgent = await client.generate(**URGENT, priority=1)
        result = await reading

        [requeued] = low.of(Requeued)
        before = low.events[: low.events.index(requeued)]
        last = [each for each in before if isinstance(each, Chunk)][-1]
        assert requeued.discard_before_seq >= last.seq + 1
        assert requeued.reason == "urgent work takes its slot"
        assert [each.attempt for each in low.of(Started)] == [1, 2]
        alone = await client.generate(**LOW, priority=5)
        assert result.text == alone.text
        assert urgent.text

        story = await client.explain("low")
        assert story.preemptions == 1
        assert [each.reason for each in story.attempts] == ["PREEMPTED", ""]
        status = await client.status()
        assert status.preemptions.count == 1
        assert status.preemptions.wasted_s > 0
        assert (await broker.said("set aside for urgent work"))["request_id"] == "low"


async def test_a_stream_that_may_go_on_loses_no_text(simulator: Simulator, tmp_path: Path) -> None:
    async with one_slot(simulator, tmp_path) as (_, client):
        low = Reader()
        ask = {**LOW, "on_interruption": "continue", "preemptible": True, "priority": 6}
        reading = asyncio.ensure_future(low.read(client, **ask))
        await low.until(Chunk, times=2)
        await client.generate(**URGENT, priority=2)
        result = await reading
        [requeued] = low.of(Requeued)
        assert requeued.discard_before_seq == 0
        assert result.text == "".join(each.text for each in low.of(Chunk))
        assert result.usage.output_tokens == LOW["max_tokens"]


async def test_what_its_owner_does_not_let_be_set_aside_runs_to_its_end(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with one_slot(simulator, tmp_path) as (_, client):
        low = Reader()
        ask = {**LOW, "max_tokens": 60, "priority": 9, "preemptible": False}
        reading = asyncio.ensure_future(low.read(client, **ask))
        await low.until(Chunk)
        await client.generate(**URGENT, priority=1)
        await reading
        assert low.of(Requeued) == []
