"""The daemon as a process: how it starts, what it refuses to start with, and how it leaves."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import kinds, read_until, refused, text_of
from tests.integration.ollama_sim_process import Simulator, start_simulator

MODEL = "tinyllama"


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    simulator = start_simulator("--speed", "200", "--seed", "7")
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def simulator(process: Simulator) -> AsyncIterator[Simulator]:
    await process.reset()
    yield process
    await process.wait_until("active", 0)


@pytest_asyncio.fixture
async def broker(simulator: Simulator, tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    config = SERVER + QUICK + backend_table(simulator.port, "slots = 2")
    async with brokerd(config, tmp_path) as running:
        assert running.events() == ["backend answers", "broker listening"]
        yield running


def request(tokens: int = 8, agent_id: str = "opus-1", model: str = MODEL) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        agent_id=agent_id,
        model=model,
        prompt=pb.Prompt(text="go"),
        options=pb.Options(max_tokens=tokens, seed=1),
    )


async def warm_up(broker: BrokerProcess) -> None:
    """The model is loaded then: a fault meets the next request, not the load."""
    await read_until(broker.inference.Generate(request()), "done")


async def test_a_generation_streams_through_to_the_backend(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    events = await read_until(broker.inference.Generate(request()), "done")
    named = kinds(events)
    assert named[0] == "queued"
    assert [each for each in named if each not in ("queued", "chunk")] == ["started", "done"]
    done = events[-1].done
    assert (done.model, done.finish_reason) == ("tinyllama:latest", pb.FINISH_REASON_LENGTH)
    assert (done.usage.output_tokens, sum(each.chunk.tokens for each in events)) == (8, 8)
    assert text_of(events)
    assert 0 < done.timings.load_ms <= done.timings.queue_wait_ms < done.timings.total_ms
    assert done.timings.backend_output_ms > 0
    embed = pb.EmbedRequest(agent_id="a", model="nomic-embed-text", inputs=["one", "two"])
    answer = await broker.inference.Embed(embed)
    assert [len(each.values) for each in answer.embeddings] == [768, 768]
    assert (await simulator.state())["loads"] == {
        "nomic-embed-text:latest": 1,
        "tinyllama:latest": 1,
    }


async def test_the_first_sigterm_drains(broker: BrokerProcess, simulator: Simulator) -> None:
    assert broker.channel is not None
    await warm_up(broker)
    await simulator.set_fault(kind="freeze", after=3)
    stream = broker.inference.Generate(request())
    await read_until(stream, "chunk")
    health = health_pb2_grpc.HealthStub(broker.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    broker.tell()
    left = await broker.said("broker leaves")
    assert (left["running"], left["queued"]) == (1, 0)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    refusal = await refused(broker.inference.Generate(request(agent_id="opus-2")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert refusal.retry_after_s is not None
    await simulator.set_fault(kind="thaw")
    events = await read_until(stream, "done")
    assert events[-1].done.usage.output_tokens == 8
    assert await stream.code() is grpc.StatusCode.OK
    assert await broker.ended() == 0
    assert broker.events()[-1] == "broker stopped"
    assert broker.plain == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_stops_at_once(
    broker: BrokerProcess, simulator: Simulator, number: signal.Signals
) -> None:
    await warm_up(broker)
    await simulator.set_fault(kind="freeze", after=3)
    stream = broker.inference.Generate(request())
    await read_until(stream, "chunk")
    broker.tell(number)
    await broker.said("broker leaves")
    broker.tell(number)
    refusal = await refused(stream)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert await broker.ended() == 0
    assert broker.plain == []
    await simulator.wait_until("active", 0)


async def test_a_drain_that_takes_too_long_ends_what_is_left(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    assert broker.channel is not None
    admin = admin_pb2_grpc.AdminStub(broker.channel)
    await warm_up(broker)
    await simulator.set_fault(kind="freeze", after=3)
    stream = broker.inference.Generate(request())
    await read_until(stream, "chunk")
    answer = await admin.Drain(admin_pb2.DrainRequest(timeout_ms=60_000))
    assert (answer.running, answer.timeout_ms) == (1, 60_000)
    await broker.said("broker leaves")
    answer = await admin.Drain(admin_pb2.DrainRequest(timeout_ms=1))  # the last word counts
    assert answer.timeout_ms == 1
    refusal = await refused(stream)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert refusal.about["outcome"] == "cancelled"
    assert await broker.ended() == 0


async def test_a_signal_cuts_a_longer_drain_and_half_sent_http_holds_nothing_up(
    simulator: Simulator, tmp_path: Path
) -> None:
    server = SERVER + "drain_timeout_s = 0\n"
    async with brokerd(server + backend_table(simulator.port), tmp_path) as broker:
        assert broker.channel is not None
        await warm_up(broker)
        await simulator.set_fault(kind="freeze", after=3)
        stream = broker.inference.Generate(request())
        await read_until(stream, "chunk")
        host, _, port = (await broker.said("broker listening"))["http"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await admin_pb2_grpc.AdminStub(broker.channel).Drain(
            admin_pb2.DrainRequest(timeout_ms=3_600_000)
        )
        await broker.said("broker leaves")
        broker.tell()
        refusal = await refused(stream)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert await broker.ended() == 0
        writer.close()


async def test_without_a_file_it_starts_and_reads_where_ollama_is(
    simulator: Simulator, tmp_path: Path
) -> None:
    environment = {"OLLAMA_HOST": f"127.0.0.1:{simulator.port}", "OLLAMA_NUM_PARALLEL": "3"}
    async with brokerd(SERVER, tmp_path, environment=environment) as broker:
        await broker.said("backend answers")
        status = await broker.until_status(lambda status: status.backends[0].up)
        assert status.backends[0].url == f"http://127.0.0.1:{simulator.port}"
        await read_until(broker.inference.Generate(request()), "started")
        status = await broker.until_status(lambda status: bool(status.backends[0].models))
        assert status.backends[0].models[0].place.slots == 3


@pytest.mark.parametrize("which", ["grpc", "http"])
async def test_a_taken_address_is_told_in_one_plain_line(
    broker: BrokerProcess, tmp_path: Path, which: str
) -> None:
    taken = (await broker.said("broker listening"))[which]
    config = SERVER.replace(f'{which}_address = "127.0.0.1:0"', f'{which}_address = "{taken}"')
    (tmp_path / "second").mkdir()
    async with brokerd(config, tmp_path / "second", connects=False) as second:
        assert await second.ended() == 1
        said = f"cannot listen on {taken}: Address already in use; is another broker running?"
        assert second.plain == [f"brokerd: {said}"]
        assert second.log == []
    await read_until(broker.inference.Generate(request()), "done")


async def test_an_address_of_another_machine_is_told_in_one_plain_line(tmp_path: Path) -> None:
    config = SERVER.replace('grpc_address = "127.0.0.1:0"', 'grpc_address = "192.0.2.1:50434"')
    async with brokerd(config, tmp_path, connects=False) as broker:
        assert await broker.ended() == 1
    assert broker.plain == [
        "brokerd: cannot listen on 192.0.2.1:50434: Cannot assign requested address"
    ]


async def test_everything_wrong_with_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    config = """
    [server]
    grpc_addres = "127.0.0.1:0"
    drain_timeout_s = -1
    [queue]
    handicap_ms_per_priority = "5"
    [[backends]]
    url = "ftp://somewhere"
    """
    environment = {"OLLAMA_NUM_PARALLEL": "many"}
    async with brokerd(config, tmp_path, environment=environment, connects=False) as broker:
        assert await broker.ended() == 2
    told = "\n".join(broker.plain)
    for path in (
        "server.grpc_addres",
        "server.drain_timeout_s",
        "queue.handicap_ms_per_priority",
        "backends[0].url",
        "OLLAMA_NUM_PARALLEL",
    ):
        assert path in told
    assert broker.plain[-1] == "brokerd: the configuration cannot be used; nothing was started"
    assert len(broker.plain) == 6


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with brokerd(
        None, tmp_path, arguments=("--config", "none.toml"), connects=False
    ) as broker:
        assert await broker.ended() == 2
    assert broker.plain[0] == "none.toml: cannot be read: No such file or directory"


async def test_python_without_assertions_is_refused(tmp_path: Path) -> None:
    async with brokerd(SERVER, tmp_path, flags=("-O",), connects=False) as broker:
        assert await broker.ended() == 1
    assert len(broker.plain) == 1
    assert "refuses to run under python -O" in broker.plain[0]


async def test_an_address_open_to_others_is_warned_of(tmp_path: Path) -> None:
    config = SERVER.replace('grpc_address = "127.0.0.1:0"', 'grpc_address = "0.0.0.0:0"')
    async with brokerd(config + backend_table(1), tmp_path, connects=False) as broker:
        await broker.said("broker listening")
        warned = [each for each in broker.log if each["level"] == "warning" and "address" in each]
        assert [each["address"] for each in warned] == ["0.0.0.0:0"]
        assert "open to other machines" in warned[0]["event"]


async def test_a_client_killed_in_the_middle_frees_the_backend(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    assert broker.channel is not None
    await warm_up(broker)
    await simulator.set_fault(kind="freeze", after=3)
    streams = [broker.inference.Generate(request(agent_id=f"opus-{n}")) for n in range(2)]
    for stream in streams:
        await read_until(stream, "started")
    await asyncio.wait_for(broker.channel.close(None), 10)
    await simulator.wait_until("active", 0)
    await simulator.set_fault(kind="thaw")
    await broker.connect()
    assert await broker.outcomes() == {"completed": 1, "cancelled": 2}
