"""ollama-sim as a process: faults, leaving clients, its control endpoint, its clock, its end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.ollama_sim_process import (
    ROOT,
    SHORT,
    Answer,
    Simulator,
    counted,
    generate,
    start_simulator,
)

LONG = {"model": "tiny-s", "prompt": "x", "options": {"num_predict": 5_000}}
DIED = "an error was encountered while running the model: unexpected EOF"


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


async def test_a_runner_that_dies_mid_stream_ends_with_an_error_line(simulator: Simulator) -> None:
    await simulator.set_fault(kind="die_mid_stream", model="tiny-s", after=5)
    answer = await generate(simulator)
    assert (answer.status, counted(answer), answer.terminated) == (200, 5, True)
    assert answer.lines[-1] == {"error": DIED}
    assert (await generate(simulator)).lines[-1]["done"] is True  # loaded again by the next


async def test_a_runner_that_dies_before_the_first_token_is_a_500(simulator: Simulator) -> None:
    await simulator.set_fault(kind="die_before_first")
    answer = await generate(simulator)
    assert answer.status == 500
    assert "error" in answer.document


async def test_a_frozen_runner_says_nothing_until_it_thaws(simulator: Simulator) -> None:
    await simulator.set_fault(kind="freeze", model="tiny-s", after=3)
    async with simulator.connected() as connection:
        await connection.send("POST", "/api/generate", b'{"model":"tiny-s","prompt":"x"}')
        await connection.read_head()
        for _ in range(3):
            await connection.read_chunk()
        more = asyncio.create_task(connection.read_chunk())
        begun = (await simulator.state())["now_ns"]
        while (await simulator.state())["now_ns"] < begun + 5_000_000_000:
            assert not more.done()
        assert (await simulator.ask("GET", "/api/tags")).status == 200
        await simulator.set_fault(kind="thaw", model="tiny-s")
        assert await more is not None


async def test_a_connection_cut_mid_stream_has_no_last_chunk(simulator: Simulator) -> None:
    await simulator.set_fault(kind="cut", after=2)
    answer = await generate(simulator)
    assert (counted(answer), answer.terminated, answer.closed) == (2, False, True)


async def test_a_refused_connection_and_a_refusing_status(simulator: Simulator) -> None:
    await simulator.set_fault(kind="refuse")
    assert (await generate(simulator)).status is None
    await simulator.set_fault(kind="refuse", status=503, text="server busy")
    answer = await generate(simulator)
    assert (answer.status, answer.document) == (503, {"error": "server busy"})
    await simulator.set_fault(kind="forbidden")
    forbidden = await generate(simulator)
    assert (forbidden.status, forbidden.text) == (403, "")
    assert (await generate(simulator)).status == 200


async def test_a_broken_line_and_an_end_without_done(simulator: Simulator) -> None:
    await simulator.set_fault(kind="garbage", after=2)
    broken = await generate(simulator)
    assert broken.chunks[2] == '{"model":"tiny-s","crea\n'
    assert '"done":true' in broken.chunks[-1]
    await simulator.set_fault(kind="end_without_done", after=2)
    ended = await generate(simulator)
    assert (counted(ended), len(ended.chunks), ended.terminated) == (2, 2, True)
    await simulator.set_fault(kind="end_without_done", after=2)
    whole = await generate(simulator, stream=False)
    assert (whole.status, whole.document["done"]) == (200, False)


async def test_a_slow_model_takes_its_factor(simulator: Simulator) -> None:
    def per_token(answer: Answer) -> float:
        last = answer.lines[-1]
        return int(str(last["eval_duration"])) / int(str(last["eval_count"]))

    usual = per_token(await generate(simulator))
    await simulator.set_fault(kind="slow", model="tiny-s", factor=10)
    await generate(simulator, prompt="", keep_alive=0)
    await simulator.wait_until("resident", [])
    assert per_token(await generate(simulator)) == pytest.approx(10 * usual, rel=0.2)


async def test_a_load_that_fails_and_one_that_hangs(simulator: Simulator) -> None:
    await simulator.set_fault(kind="fail_load", model="tiny-s", text="invalid file magic")
    failed = await generate(simulator)
    assert (failed.status, failed.document) == (500, {"error": "invalid file magic"})
    await simulator.set_fault(kind="die_mid_load", model="tiny-s")
    died = await generate(simulator)
    assert died.document == {"error": "llama-server process has terminated: signal: killed"}
    await simulator.set_fault(kind="hang_load", model="tiny-s")
    async with simulator.connected() as connection:
        await connection.send("POST", "/api/generate", b'{"model":"tiny-s","prompt":"x"}')
        await simulator.wait_until("active", 1)
        assert (await simulator.ask("GET", "/api/ps")).document == {"models": []}
    await simulator.wait_until("active", 0)
    assert (await generate(simulator)).status == 200


async def test_a_fault_meets_only_its_model_and_only_so_often(simulator: Simulator) -> None:
    await simulator.set_fault(kind="cut", model="plain", after=1, count=2)
    assert (await generate(simulator)).terminated
    ends = [(await generate(simulator, model="plain")).terminated for _ in range(3)]
    assert ends == [False, False, True]


async def test_a_fault_that_cannot_be_set_is_refused_and_nothing_is_set(
    simulator: Simulator,
) -> None:
    faults = [{"kind": "cut"}, {"kind": "explode"}]
    answer = await simulator.ask("POST", "/sim/faults", faults)
    assert answer.status == 400
    assert (await simulator.ask("GET", "/sim/faults")).document == {"faults": []}
    await simulator.set_fault(kind="cut", count=0)
    assert len((await simulator.state())["faults"]) == 1
    assert (await simulator.ask("DELETE", "/sim/faults")).document == {"faults": []}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_gives_its_slot_back(simulator: Simulator, stream: bool) -> None:
    await generate(simulator)
    async with simulator.connected() as connection:
        body = b'{"model":"tiny-s","prompt":"x","stream":%s}' % str(stream).lower().encode()
        await connection.send("POST", "/api/generate", body)
        await simulator.wait_until("active", 1)
        if stream:
            await connection.read_head()
    await simulator.wait_until("active", 0)
    assert (await generate(simulator)).lines[-1]["done"] is True


async def test_a_client_that_does_not_read_keeps_its_slot_and_loses_nothing(
    simulator: Simulator,
) -> None:
    async with simulator.connected(receives_bytes=8192) as connection:
        options = {"num_predict": 4_000, "seed": 1}
        body = {**SHORT, "options": options, "raw": True, "logprobs": True, "top_logprobs": 20}
        await connection.send("POST", "/api/generate", json.dumps(body).encode())
        await connection.read_head()
        await simulator.wait_until("stalled", 1)
        while await connection.read_chunk() is not None:
            pass
        assert counted(connection.answer) == 4_000
        assert connection.answer.terminated


async def test_an_http_1_0_client_gets_lines_without_chunks(simulator: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    body = json.dumps(SHORT).encode()
    head = f"POST /api/generate HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    first, _, lines = answer.partition("\r\n\r\n")
    assert "Transfer-Encoding" not in first
    assert len(lines.splitlines()) == 9
    assert json.loads(lines.splitlines()[-1])["done"] is True


async def test_reset_breaks_what_runs_and_empties_the_machine(simulator: Simulator) -> None:
    async with simulator.connected() as connection:
        await connection.send("POST", "/api/generate", b'{"model":"tiny-s","prompt":"x"}')
        await connection.read_head()
        await simulator.reset()
        while await connection.read_chunk() is not None:
            pass
        assert connection.answer.closed
    state = await simulator.state()
    assert (state["resident"], state["runner_starts"], state["active"]) == ([], 0, 0)


async def test_state_counts_loads_and_shows_who_is_resident(simulator: Simulator) -> None:
    await generate(simulator)
    await generate(simulator, model="plain")
    state = await simulator.state()
    assert state["runner_starts"] == 2
    assert state["loads"] == {"plain:latest": 1, "tiny-s:latest": 1}
    assert sorted(state["resident"]) == ["plain:latest", "tiny-s:latest"]


async def test_the_same_seed_says_the_same_in_another_process(simulator: Simulator) -> None:
    words = [line.get("response") for line in (await generate(simulator)).lines]
    other = start_simulator("--models", "recorded", "--cpu", "--speed", "40", "--seed", "7")
    try:
        assert [line.get("response") for line in (await generate(other)).lines] == words
    finally:
        other.stop()


async def test_durations_are_those_of_the_servers_own_clock(simulator: Simulator) -> None:
    begun = (await simulator.state())["now_ns"]
    last = (await generate(simulator)).lines[-1]
    passed = (await simulator.state())["now_ns"] - begun
    assert 0 < int(str(last["load_duration"])) < int(str(last["total_duration"])) <= passed


async def test_many_streams_at_once_all_come_whole(simulator: Simulator) -> None:
    answers = await asyncio.gather(
        *(generate(simulator, raw=True, options={"num_predict": 40, "seed": n}) for n in range(24))
    )
    assert [counted(answer) for answer in answers] == [40] * 24
    assert all(answer.terminated for answer in answers)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/api/version", [("Host", "models.example.com")], 403),
        ("GET", "/api/version", [("Host", "box.local")], 200),
        ("GET", "/api/version", [("Host", "10.1.2.3:11434")], 200),
        ("GET", "/api/version", [("Host", "8.8.8.8")], 403),
        ("GET", "/api/version", [("Origin", "https://example.com")], 403),
        ("GET", "/api/version", [("Origin", "null")], 403),
        ("GET", "/api/version", [("Origin", "http://localhost:9999")], 200),
        ("HEAD", "/api/ps", [], 405),
        ("HEAD", "/api/tags", [], 200),
        ("GET", "/api/tags/", [], 301),
        ("GET", "//api/tags", [], 307),
        ("POST", "/api/generate/", [], 307),
        ("GET", "/API/tags", [], 404),
        ("GET", "/api/ps?x=1", [], 200),
        ("GET", "/api/status", [], 200),
    ],
)
async def test_small_facts_of_the_transport(
    simulator: Simulator, method: str, path: str, headers: list[tuple[str, str]], status: int
) -> None:
    """As the recording 17_transport has them."""
    answer = await simulator.ask(method, path, None, headers)
    assert answer.status == status
    if status == 403:
        assert [name for name, _ in answer.headers] == ["Date", "Content-Length"]


async def test_a_connection_is_used_again_after_an_error_inside_a_stream(
    simulator: Simulator,
) -> None:
    await simulator.set_fault(kind="die_mid_stream", after=2)
    async with simulator.connected() as connection:
        await connection.send("POST", "/api/generate", b'{"model":"tiny-s","prompt":"x"}')
        assert (await connection.read_all()).lines[-1] == {"error": DIED}
        connection.answer = Answer()
        await connection.send("GET", "/api/version")
        assert (await connection.read_all()).status == 200


async def test_sigterm_breaks_every_stream_without_a_last_chunk() -> None:
    """As the recording 80_server_terminated has it."""
    simulator = start_simulator("--models", "recorded", "--cpu", "--speed", "40")
    try:
        async with simulator.connected() as streaming, simulator.connected() as waiting:
            await streaming.send("POST", "/api/generate", b'{"model":"tiny-s","prompt":"x"}')
            await streaming.read_head()
            await simulator.set_fault(kind="hang_load", model="tiny-l")
            await waiting.send("POST", "/api/generate", b'{"model":"tiny-l","prompt":"x"}')
            await simulator.wait_until("active", 2)
            simulator.process.terminate()
            while await streaming.read_chunk() is not None:
                pass
            assert (streaming.answer.closed, streaming.answer.terminated) == (True, False)
            assert (await waiting.read_head()).status is None
        assert simulator.wait_for_end() == 0
    finally:
        simulator.stop()


async def test_faults_and_models_from_the_command_line(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(
        '[[model]]\nname = "tiny"\nsize_bytes = 1_000_000\n'
        "[model.says]\noutput_tokens_min = 4\noutput_tokens_max = 4\n"
        "[model.speed]\ndecode_tokens_per_s = 500.0\n",
        encoding="utf-8",
    )
    simulator = start_simulator(
        "--models",
        str(catalogue),
        "--speed",
        "40",
        "--fault",
        "refuse:model=tiny,status=503,text=no",
    )
    try:
        first = await generate(simulator, model="tiny")
        assert (first.status, first.document) == (503, {"error": "no"})
        assert counted(await generate(simulator, model="tiny")) == 4
    finally:
        simulator.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fault", "explode"], "kind 'explode': must be one of"),
        (["--models", "/nonexistent.toml"], "No such file"),
        (["--keep-alive", "soon"], 'time: invalid duration "soon"'),
        (["--port", "70000"], "is not in the range"),
    ],
)
def test_a_command_line_that_cannot_be_used_says_why(arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "broker.sim.ollama_sim", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert words in ran.stderr
