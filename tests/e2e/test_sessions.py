"""Real processes: what belongs together meets on one of two servers; explain says the credit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import read_until
from tests.integration.ollama_sim_process import Simulator, start_simulator

MODEL = "tinyllama"
RULES, DOCUMENT = "rules " * 400, "document " * 400  # 2 KiB and more: told apart by 1 KiB


@pytest.fixture(scope="module")
def simulators() -> Iterator[tuple[Simulator, Simulator]]:
    both = tuple(start_simulator("--seed", seed, "--max-loaded", "1") for seed in "78")
    yield both[0], both[1]
    for each in both:
        each.stop()


def table(name: str, simulator: Simulator) -> str:
    return backend_table(simulator.port, f'name = "{name}"\nslots = 4')


def asks(name: str, begins: str = "", *, session: str = "", tokens: int = 2) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        agent_id=f"system-{name}" if not session else "system-1",
        request_id=name,
        model=MODEL,
        session_id=session,
        expected_calls=4 if session else 0,
        prompt=pb.Prompt(text=f"{begins}{name}"),
    )
    request.options.max_tokens = tokens
    return request


async def server_of(broker: BrokerProcess, request: pb.GenerateRequest) -> str:
    """Where it is answered."""
    events = await read_until(broker.inference.Generate(request), "done")
    return next(each.started.backend for each in events if each.HasField("started"))


async def test_what_belongs_together_meets(
    simulators: tuple[Simulator, Simulator], tmp_path: Path
) -> None:
    first, second = simulators
    for each in simulators:
        loaded = await each.ask("POST", "/api/generate", {"model": MODEL, "keep_alive": "10m"})
        assert loaded.status == 200
    config = SERVER + QUICK + table("first", first) + table("second", second)
    async with brokerd(config, tmp_path) as broker:
        await broker.until_status(
            lambda status: [len(each.models) for each in status.backends] == [1, 1]
        )
        assert broker.channel is not None
        long = broker.inference.Generate(asks("long", RULES, tokens=4_000))
        started = (await read_until(long, "started"))[-1].started
        assert started.backend == "first"
        # The less busy one.
        assert await server_of(broker, asks("reader", DOCUMENT)) == "second"
        assert await server_of(broker, asks("step-1", session="task")) == "second"
        long.cancel()
        await broker.until_status(lambda status: not status.running)
        admin = admin_pb2_grpc.AdminStub(broker.channel)
        # Among equals the first would be next.
        assert await server_of(broker, asks("anybody")) == "first"
        assert await server_of(broker, asks("other-reader", DOCUMENT)) == "second"
        assert await server_of(broker, asks("other-ruled", RULES)) == "first"
        assert await server_of(broker, asks("step-2", session="task")) == "second"
        told = await admin.Explain(admin_pb2.ExplainRequest(request_id="step-2"))
        assert told.session_credit_ms == 30_000 / 4
        told = await admin.Explain(admin_pb2.ExplainRequest(request_id="anybody"))
        assert told.session_credit_ms == 0
        told = await admin.Explain(admin_pb2.ExplainRequest(request_id="other-reader"))
        assert told.known_prompt_bytes == 1_024
