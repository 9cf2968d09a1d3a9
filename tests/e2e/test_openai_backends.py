"""Real processes: one broker before an Ollama and servers of OpenAI's dialect, and what agents and
operators see of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.demonstration import ROOT
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import read_until, refused, text_of
from tests.integration.ollama_sim_process import PATIENCE_S, Simulator, start_simulator
from tests.integration.openai_sim_process import start_openai_simulator

pytestmark = pytest.mark.slow

SWIFT = "acme/Swift-7B"
KEY = {"SWIFT_KEY": "s3cret"}
EXAMPLE = ROOT / "clients" / "python" / "examples" / "ten_lines.py"


def openai_table(name: str, port: int, more: str = "") -> str:
    """One server of OpenAI's dialect on this port, asked often."""
    return f"""
[[backends]]
name = "{name}"
kind = "openai"
url = "http://127.0.0.1:{port}/v1"
poll_interval_ms = 100
retry_interval_ms = 100
{more}
"""


def start_swift(*arguments: str, port: int = 0, model: str = SWIFT) -> Simulator:
    flags = ("--speed", "20", "--model", f"{model}@8192", "--api-key", KEY["SWIFT_KEY"])
    return start_openai_simulator(*flags, *arguments, "--port", str(port))


@pytest.fixture(scope="module")
def ollama() -> Iterator[Simulator]:
    simulator = start_simulator("--speed", "200", "--seed", "7")
    yield simulator
    simulator.stop()


@pytest.fixture
def swift() -> Iterator[Simulator]:
    simulator = start_swift("--slots", "4")
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def broker(
    ollama: Simulator, swift: Simulator, tmp_path: Path
) -> AsyncIterator[BrokerProcess]:
    keyed = openai_table("vllm", swift.port, 'slots = 4\napi_key_env = "SWIFT_KEY"')
    config = SERVER + QUICK + backend_table(ollama.port) + keyed
    async with brokerd(config, tmp_path, environment=KEY) as running:
        await running.until_status(lambda status: all(each.up for each in status.backends))
        yield running
        assert running.plain == []  # no traceback, no word of a library
        assert KEY["SWIFT_KEY"] not in json.dumps(running.log)


def request(model: str, number: int = 1, tokens: int = 8) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        agent_id=f"agent-{number}",
        model=model,
        prompt=pb.Prompt(text=f"go {number}"),
        options=pb.Options(max_tokens=tokens, seed=1),
    )


async def brokerctl(broker: BrokerProcess, *arguments: str) -> str:
    address = (await broker.said("broker listening"))["grpc"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "brokerctl.main", *arguments, "--address", address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        said, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    return said.decode()


async def test_one_call_is_served_by_either(broker: BrokerProcess) -> None:
    for model, backend in (("tinyllama", "ollama"), (SWIFT, "vllm")):
        events = await read_until(broker.inference.Generate(request(model)), "done")
        (started,) = [each.started for each in events if each.HasField("started")]
        assert started.backend == backend
        assert text_of(events)
        done = events[-1].done
        assert done.usage.output_tokens == 8
        assert done.finish_reason == pb.FINISH_REASON_LENGTH
    status = await broker.until_status(lambda status: not status.running)
    kinds = {each.name: (each.kind, each.loads, each.version) for each in status.backends}
    assert kinds["ollama"][:2] == ("ollama", 1)
    assert kinds["vllm"] == ("openai", 0, "0.19.0"), "nothing was ever loaded there"


async def test_the_first_steps_work_before_such_servers_alone(
    swift: Simulator, tmp_path: Path
) -> None:
    """They tell of a model nothing but its name."""
    config = SERVER + QUICK + openai_table("vllm", swift.port, 'api_key_env = "SWIFT_KEY"')
    async with brokerd(config, tmp_path, environment=KEY) as running:
        await running.until_status(lambda status: status.backends[0].up)
        assert "good  1 model; of 1 no backend tells" in await brokerctl(running, "doctor")
        (row,) = [
            each for each in (await brokerctl(running, "models")).splitlines() if SWIFT in each
        ]
        assert row.split() == [SWIFT, "?", "8192", "?", "vllm", "(resident)"]
        assert await brokerctl(running, "generate", "why?", "--max-tokens", "4")
        address = (await running.said("broker listening"))["grpc"]
        example = await asyncio.create_subprocess_exec(
            *(sys.executable, str(EXAMPLE)),
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": ":".join(filter(None, sys.path)), "BROKER_ADDRESS": address},
        )
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await example.communicate()
        assert (example.returncode, bool(said.strip())) == (0, True)


async def test_what_an_operator_sees(broker: BrokerProcess) -> None:
    said = await brokerctl(broker, "generate", "--model", SWIFT, "--max-tokens", "5", "hello")
    assert said.strip()
    screen = await brokerctl(broker, "status")
    assert "vllm" in screen
    assert "ollama" in screen
    assert SWIFT in await brokerctl(broker, "models")


async def test_as_many_run_at_once_as_it_has_slots(broker: BrokerProcess, swift: Simulator) -> None:
    long = [broker.inference.Generate(request(SWIFT, number, 3_000)) for number in range(5)]
    reading = [asyncio.create_task(read_until(call, "chunk")) for call in long[:4]]
    await asyncio.gather(*reading)
    status = await broker.until_status(lambda status: status.running == 4 and status.queued == 1)
    assert (await swift.state())["waiting"] == 0, "the broker keeps the queue"
    assert status.running == 4
    for call in long:
        call.cancel()
    await broker.until_status(lambda status: not status.running + status.queued)
    await swift.wait_until("active", 0)


async def test_a_bad_request_says_why(broker: BrokerProcess) -> None:
    asked = request(SWIFT)
    asked.prompt.text = "word " * 20_000
    refusal = await refused(broker.inference.Generate(asked))
    assert refusal.reason == "BACKEND_REFUSED"
    assert "maximum context length" in refusal.message
    asked = request(SWIFT)
    asked.options.num_ctx = 100_000
    refusal = await refused(broker.inference.Generate(asked))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_model_comes_and_goes_with_its_server(tmp_path: Path) -> None:
    """What the server no longer lists is unknown at the next look, and what is new is there."""
    first = start_swift()
    port = first.port
    config = SERVER + QUICK + openai_table("vllm", port, 'api_key_env = "SWIFT_KEY"')
    async with brokerd(config, tmp_path, environment=KEY) as broker:
        await read_until(broker.inference.Generate(request(SWIFT)), "done")
        first.stop()
        second = start_swift(port=port, model="acme/Slow")
        try:
            await broker.until_status(
                lambda status: [each.name for each in status.backends[0].models] == ["acme/Slow"]
            )
            await read_until(broker.inference.Generate(request("acme/Slow")), "done")
            refusal = await refused(broker.inference.Generate(request(SWIFT)))
            assert refusal.reason == "MODEL_UNKNOWN"
        finally:
            second.stop()


async def test_a_call_that_is_closed_takes_nobody_else_with_it(tmp_path: Path) -> None:
    """A server that closes the connection of what it cannot bear, before it answers, is there."""
    poison = "acme/Poison"
    server = start_swift("--slots", "4", "--model", f"{poison}@8192")
    more = 'slots = 4\napi_key_env = "SWIFT_KEY"'
    config = SERVER + QUICK + openai_table("vllm", server.port, more)
    try:
        async with brokerd(config, tmp_path, environment=KEY) as broker:
            await read_until(broker.inference.Generate(request(SWIFT)), "done")
            await server.set_fault(kind="refuse", model=poison, count=0)
            poisoned = asyncio.create_task(refused(broker.inference.Generate(request(poison))))
            served = 0
            while not poisoned.done():
                asked = request(SWIFT, 10 + served)
                await read_until(broker.inference.Generate(asked), "done")
                served += 1
            refusal = await poisoned
            assert refusal.reason == "BACKEND_FAILED"
            assert "closed before it answered" in refusal.message
            assert served
            assert "backend does not answer" not in broker.events()
    finally:
        server.stop()


async def test_a_key_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    server = start_swift()
    config = SERVER + QUICK + openai_table("vllm", server.port, 'api_key_env = "SWIFT_KEY"')
    try:
        async with brokerd(config, tmp_path, environment={"SWIFT_KEY": ""}) as broker:
            warned = await broker.said("the key of a backend is not set")
            assert warned["variable"] == "SWIFT_KEY"
            await broker.until_status(lambda status: status.backends[0].up)
            refusal = await refused(broker.inference.Generate(request(SWIFT)))
            assert refusal.reason == "BACKEND_FAILED"
            assert "SWIFT_KEY" in refusal.message
    finally:
        server.stop()


async def test_an_answer_goes_on_at_another_server_when_its_own_dies(tmp_path: Path) -> None:
    """Both say the same to the same prompt, so that what is put together is known."""
    servers = [start_swift("--slots", "2") for _ in range(2)]
    more = 'slots = 2\napi_key_env = "SWIFT_KEY"'
    tables = [openai_table(f"v{i}", each.port, more) for i, each in enumerate(servers)]
    quick = "[retries]\nbackoff_s = 0\nbudget_percent = 100\n"
    asked = request(SWIFT, tokens=400)
    asked.on_interruption = pb.ON_INTERRUPTION_CONTINUE
    try:
        config = SERVER + QUICK + quick + "".join(tables)
        async with brokerd(config, tmp_path, environment=KEY) as broker:
            await broker.until_status(lambda status: all(each.up for each in status.backends))
            whole = text_of(await read_until(broker.inference.Generate(asked), "done"))
            for server in servers:
                await server.set_fault(kind="cut", after=30)
            calls = [broker.inference.Generate(asked) for _ in range(2)]
            answers = await asyncio.gather(*(read_until(call, "done") for call in calls))
            assert [text_of(events) for events in answers] == [whole, whole]
            left = [(await server.state())["faults"] for server in servers]
            assert [] in left, "an answer was cut"
    finally:
        for server in servers:
            server.stop()
