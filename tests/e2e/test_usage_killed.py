"""Use over a broker's lives: what it says is what its log says, and a kill loses little of it."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker_client.pb.broker.v1 import inference_pb2, models_pb2, models_pb2_grpc
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, brokerd
from tests.integration.daemon import PATIENCE_S, read_until
from tests.integration.ollama_sim_process import Simulator, start_simulator

MODELS = ("tinyllama:latest", "llama3.2:1b")
AGENTS = ("opus-1", "sonnet-2", "other")
REQUESTS = [(agent, MODELS[number % 2]) for number in range(4) for agent in AGENTS]
BROKEN = "the file of use is broken: it is set aside, and use is counted from now on"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    process = start_simulator("--speed", "50", "--seed", "7")
    yield process
    process.stop()


def config(simulator: Simulator) -> str:
    return f"""{SERVER}{QUICK}
[usage]
flush_interval_s = 0.1
[[backends]]
url = "127.0.0.1:{simulator.port}"
exclusive = true
poll_interval_ms = 100
"""


async def ask(broker: BrokerProcess, life: int) -> None:
    """All requests, and one for what is no model."""

    async def one(number: int, agent: str, model: str) -> None:
        request = inference_pb2.GenerateRequest(
            agent_id=agent,
            request_id=f"{life}-{number}",
            model=model,
            prompt=inference_pb2.Prompt(text="go on " * (number + 1)),
            options=inference_pb2.Options(max_tokens=3 + number, seed=number),
        )
        stream = broker.inference.Generate(request)
        if model in MODELS:
            await read_until(stream, "done")
        else:
            assert await stream.code() is grpc.StatusCode.NOT_FOUND

    asked = [*REQUESTS, ("opus-1", "nonsense")]
    await asyncio.gather(*(one(number, *each) for number, each in enumerate(asked)))


async def used(broker: BrokerProcess) -> list[models_pb2.ModelUsage]:
    assert broker.channel is not None
    stub = models_pb2_grpc.ModelsStub(broker.channel)
    answer = await stub.GetUsage(models_pb2.GetUsageRequest(group=models_pb2.USAGE_GROUP_ALL))
    return [each for each in answer.rows if each.requests]


def sums(rows: list[models_pb2.ModelUsage]) -> Counter[str]:
    """Over all rows, and requests by agent and model."""
    found: Counter[str] = Counter()
    for each in rows:
        found["requests"] += each.requests
        found["prompt_tokens"] += each.prompt_tokens
        found["output_tokens"] += each.output_tokens
        found[f"{each.agent_id} {each.model}"] += each.requests
        found["queue_wait_us"] += round(each.queue_wait_s * 1e6)
        found.update(each.outcomes)
    return found


def logged(lines: list[dict[str, Any]]) -> Counter[str]:
    """The same of the log's lines."""
    found: Counter[str] = Counter()
    for each in lines:
        if each["event"] == "request ended":
            model = each["model"] if each["model"] in MODELS else "(unknown)"
            found["requests"] += 1
            found["prompt_tokens"] += each.get("prompt_tokens", 0)
            found["output_tokens"] += each.get("output_tokens", 0)
            found[f"{each['agent']} {model}"] += 1
            found["queue_wait_us"] += round(each.get("queue_wait_ms", 0) * 1e3)
            found[each["outcome"]] += 1
    return found


def file_of(folder: Path) -> Path:
    (found,) = folder.rglob("usage-*.sqlite")
    return found


async def until_kept(folder: Path, requests: int) -> None:
    """So many are in the file."""
    async with asyncio.timeout(PATIENCE_S):
        while _kept(folder) < requests:  # noqa: ASYNC110 - it is another process's
            await asyncio.sleep(0.02)


def _kept(folder: Path) -> int:
    database = sqlite3.connect(f"file:{file_of(folder)}?mode=ro", uri=True)
    try:
        (found,) = database.execute("SELECT SUM(completed + refused) FROM used").fetchone()
    finally:
        database.close()
    return found or 0


async def test_use_is_what_the_log_says_and_outlives_the_broker(
    simulator: Simulator, tmp_path: Path
) -> None:
    await simulator.reset()
    async with brokerd(config(simulator), tmp_path) as first:
        await ask(first, 1)
        await first.said("request ended", times=len(REQUESTS) + 1)
        rows = await used(first)
        before = sums(rows)
        expected = logged(first.log)
        # Each wait is told rounded, in thousandths of a millisecond.
        assert abs(before.pop("queue_wait_us") - expected.pop("queue_wait_us")) <= len(rows) * 10
        assert before == expected
        assert before["completed"] == len(REQUESTS)
        assert before["opus-1 (unknown)"] == 1
        assert all(0 < each.busy_s < PATIENCE_S for each in rows if each.completed)
        first.tell(signal.SIGTERM)
        assert await first.ended() == 0
    assert not file_of(tmp_path).with_name(f"{file_of(tmp_path).name}-wal").exists()
    async with brokerd(config(simulator), tmp_path) as second:
        again = sums(await used(second))
        again.pop("queue_wait_us")
        assert again == before


async def test_a_kill_loses_no_more_than_was_not_kept_yet(
    simulator: Simulator, tmp_path: Path
) -> None:
    await simulator.reset()
    told = len(REQUESTS) + 1
    async with brokerd(config(simulator), tmp_path) as first:
        await ask(first, 1)
        await until_kept(tmp_path, told)
        first.tell(signal.SIGKILL)
        await first.ended()
    for life in range(2, 5):  # killed with something waiting, or being written, or neither
        async with brokerd(config(simulator), tmp_path) as broker:
            assert sums(await used(broker))["requests"] >= told
            await ask(broker, life)
            await asyncio.sleep(0.03 * (life - 2))
            broker.tell(signal.SIGKILL)
            await broker.ended()
            assert BROKEN not in broker.events()
        told = max(told, _kept(tmp_path))
    async with brokerd(config(simulator), tmp_path) as last:
        found = sums(await used(last))
        assert told <= found["requests"] <= 4 * (len(REQUESTS) + 1)
        assert BROKEN not in last.events()
