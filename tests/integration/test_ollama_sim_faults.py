"""ollama-sim as a process: dead wires, lines that no client can read, what others do to models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.ollama_sim_process import (
    SHORT,
    Simulator,
    counted,
    generate,
    start_simulator,
)


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    simulator = start_simulator("--models", "recorded", "--cpu", "--speed", "40", "--seed", "7")
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def simulator(process: Simulator) -> AsyncIterator[Simulator]:
    await process.reset()
    yield process
    await process.wait_until("active", 0)


async def test_lines_that_no_client_can_read(simulator: Simulator) -> None:
    await simulator.set_fault(kind="oversize", after=2)
    oversize = await raw(simulator)
    assert max(len(line) for line in oversize.split(b"\n")) > 8_000_000
    await simulator.set_fault(kind="bad_utf8", after=2)
    with pytest.raises(UnicodeDecodeError):
        (await raw(simulator)).decode()
    await simulator.set_fault(kind="error_line", after=2, text="it broke")
    broken = await generate(simulator)
    assert (counted(broken), broken.terminated) == (2, True)
    assert broken.lines[-1] == {"error": "it broke"}
    await simulator.set_fault(kind="error_line", after=0)
    first = await generate(simulator)
    assert (first.status, first.lines) == (200, [{"error": "an error in the stream"}])


async def test_a_load_uses_up_no_fault_of_an_answer(simulator: Simulator) -> None:
    """As a broker loads a model before it asks anything of it."""
    await simulator.set_fault(kind="end_without_done", after=2)
    load = await simulator.ask("POST", "/api/generate", {"model": "tiny-s"})
    assert load.lines[-1]["done_reason"] == "load"
    assert counted(await generate(simulator)) == 2


async def raw(simulator: Simulator) -> bytes:
    """Every byte of an answer whose connection ends with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    body = json.dumps(SHORT).encode()
    writer.write(
        b"POST /api/generate HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("after", [0, 2])
async def test_a_reset_is_told_as_one(simulator: Simulator, after: int) -> None:
    await simulator.set_fault(kind="reset", after=after)
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    body = json.dumps(SHORT).encode()
    head = b"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_what_is_half_open_says_nothing_and_closes_nothing(simulator: Simulator) -> None:
    await simulator.set_fault(kind="go_silent", after=2)
    async with simulator.connected() as connection:
        await connection.send("POST", "/api/generate", json.dumps(SHORT).encode())
        await connection.read_head()
        assert [await connection.read_chunk() is not None for _ in range(2)] == [True, True]
        more = asyncio.create_task(connection.read_chunk())
        assert (await generate(simulator)).status == 200  # the machine itself goes on
        assert not more.done()
        await simulator.set_fault(kind="half_open", count=0)
        async with simulator.connected() as other:
            await other.send("GET", "/api/version")
            head = asyncio.create_task(other.read_head())
            assert len((await simulator.state())["faults"]) == 1
            assert not head.done()
            await simulator.ask("DELETE", "/sim/faults")
            assert (await simulator.ask("GET", "/api/version")).status == 200
            assert not head.done()
            head.cancel()
        more.cancel()


async def test_a_busy_server_refuses_all_but_unloads(simulator: Simulator) -> None:
    await simulator.set_fault(kind="busy", count=0)
    busy = await generate(simulator)
    assert (busy.status, busy.document["error"]) == (
        503,
        "server busy, please try again.  maximum pending requests exceeded",
    )
    assert (await generate(simulator, prompt="", keep_alive=0)).status == 200


async def test_what_somebody_else_does_to_a_model(simulator: Simulator) -> None:
    async def digests(path: str) -> dict[str, str]:
        found: Any = (await simulator.ask("GET", path)).document["models"]
        return {each["name"]: each["digest"] for each in found}

    await generate(simulator)
    before = (await digests("/api/ps"))["tiny-s:latest"]
    await simulator.set_fault(kind="wrong_digest", model="tiny-s")
    assert (await digests("/api/tags"))["tiny-s:latest"] != before
    assert (await digests("/api/ps"))["tiny-s:latest"] == before
    await simulator.set_fault(kind="delete", model="tiny-s")
    assert "tiny-s:latest" not in await digests("/api/tags")
    assert (await generate(simulator)).status == 404
    await simulator.reset()
    assert (await generate(simulator)).status == 200
    await simulator.set_fault(kind="evict", model="tiny-s")
    await simulator.wait_until("resident", [])
