"""Real processes: whatever goes wrong behind the broker ends in exactly one clean outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc, models_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import read_until, refusal_of, refused
from tests.integration.ollama_sim_process import Simulator, start_simulator

_Code = grpc.StatusCode


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    simulator = start_simulator("--speed", "200", "--seed", "7", "--max-loaded", "1")
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def simulator(process: Simulator) -> AsyncIterator[Simulator]:
    await process.reset()
    yield process
    await process.wait_until("active", 0)


@pytest_asyncio.fixture
async def broker(simulator: Simulator, tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    config = SERVER + QUICK + backend_table(simulator.port)
    async with brokerd(config, tmp_path) as running:
        await running.until_status(lambda status: status.backends[0].up)
        yield running
        assert running.plain == []  # no traceback, no word of a library


def request(agent_id: str = "opus-1", model: str = "tinyllama") -> pb.GenerateRequest:
    return pb.GenerateRequest(
        agent_id=agent_id,
        model=model,
        prompt=pb.Prompt(text="go"),
        options=pb.Options(max_tokens=8, seed=1),
    )


async def warm_up(broker: BrokerProcess) -> None:
    """The model is loaded then: a fault meets the next request, not the load."""
    await read_until(broker.inference.Generate(request()), "done")


async def serves_again(broker: BrokerProcess) -> None:
    """A request that comes after the fault is served, as soon as one is taken."""
    await broker.until_status(lambda status: status.backends[0].up)
    for _ in range(50):
        stream = broker.inference.Generate(request("opus-2"))
        try:
            assert (await read_until(stream, "done"))[-1].done.usage.output_tokens == 8
        except grpc.aio.AioRpcError as error:
            if error.code() is not _Code.UNAVAILABLE:
                raise
            await asyncio.sleep(refusal_of(error).retry_after_s or 0.05)
        else:
            return
    raise AssertionError("it never served again")


@pytest.mark.parametrize(
    ("fault", "code", "sent"),
    [
        ({"kind": "die_mid_stream", "after": 3}, _Code.INTERNAL, 3),
        ({"kind": "garbage", "after": 3}, _Code.INTERNAL, 3),
        ({"kind": "end_without_done", "after": 3}, _Code.INTERNAL, 3),
        ({"kind": "cut", "after": 3}, _Code.INTERNAL, 3),
    ],
    ids=lambda each: each["kind"] if isinstance(each, dict) else None,
)
async def test_a_fault_is_one_failure_and_the_next_is_served(
    broker: BrokerProcess,
    simulator: Simulator,
    fault: dict[str, Any],
    code: grpc.StatusCode,
    sent: int,
) -> None:
    await warm_up(broker)
    await simulator.set_fault(**fault)
    refusal = await refused(broker.inference.Generate(request()))
    assert (refusal.code, refusal.reason) == (code, "BACKEND_FAILED"), refusal
    assert refusal.about == {"outcome": "failed", "sent_pieces": str(sent)}
    await serves_again(broker)
    assert (await broker.outcomes())["failed"] == 1


async def test_a_model_that_fails_to_load_is_refused_for_a_while(
    simulator: Simulator, tmp_path: Path
) -> None:
    """Those whose time is over before the load is tried again. The others wait for it."""
    patient = QUICK.replace("failed_load_hold_s = 1", "failed_load_hold_s = 5")
    async with brokerd(SERVER + patient + backend_table(simulator.port), tmp_path) as broker:
        await broker.until_status(lambda status: status.backends[0].up)
        await simulator.set_fault(kind="fail_load", text="invalid file magic")
        first = await refused(broker.inference.Generate(request(), timeout=4.5))
        assert (first.code, first.reason) == (_Code.UNAVAILABLE, "LOAD_FAILED")
        assert "invalid file magic" in first.message
        second = await refused(broker.inference.Generate(request(), timeout=0.5))
        assert (second.reason, second.about["outcome"]) == ("LOAD_FAILED", "refused")
        assert second.retry_after_s is not None
        assert 0 < second.retry_after_s <= 5
        await serves_again(broker)


async def test_a_load_that_failed_once_is_waited_for(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    await simulator.set_fault(kind="fail_load", text="invalid file magic")
    events = await read_until(broker.inference.Generate(request()), "done")
    assert any("invalid file magic" in each.queued.detail for each in events), events
    assert await broker.outcomes() == {"completed": 1}


async def test_a_frozen_runner_costs_the_request_its_deadline_only(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    await warm_up(broker)
    await simulator.set_fault(kind="freeze", after=3)
    refusal = await refused(broker.inference.Generate(request(), timeout=1.0))
    assert (refusal.code, refusal.reason) == (_Code.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")
    assert refusal.about == {"outcome": "expired", "sent_pieces": "3"}
    await simulator.wait_until("active", 0)
    await simulator.set_fault(kind="thaw")
    await serves_again(broker)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("refuse", 2), ("die_before_first", 1)],  # what an idle connection meets is no attempt
    ids=["refuse", "die_before_first"],
)
async def test_a_request_that_fails_before_its_first_word_is_sent_again(
    broker: BrokerProcess, simulator: Simulator, kind: str, count: int
) -> None:
    await warm_up(broker)
    await simulator.set_fault(kind=kind, model="tinyllama", count=count)
    events = await read_until(broker.inference.Generate(request()), "done")
    assert [each.requeued.reason != "" for each in events if each.HasField("requeued")] == [True]
    assert await broker.outcomes() == {"completed": 2}


async def test_a_backend_that_is_not_there_is_told_and_found_by_itself(tmp_path: Path) -> None:
    seeker = start_simulator()
    port = seeker.port
    seeker.stop()  # a port that is free now, and that nothing answers on
    async with brokerd(SERVER + QUICK + backend_table(port), tmp_path) as broker:
        warning = await broker.said("backend does not answer")
        assert "Connection refused" in warning["problem"]
        status = await broker.until_status(lambda status: bool(status.backends[0].problem))
        assert not status.backends[0].up
        assert "Connection refused" in status.backends[0].problem
        refusal = await refused(broker.inference.Generate(request()))
        assert (refusal.code, refusal.reason) == (_Code.UNAVAILABLE, "NO_BACKEND")
        assert refusal.retry_after_s is not None
        assert f"127.0.0.1:{port}" in refusal.message
        simulator = start_simulator("--speed", "200", "--port", str(port))
        try:
            await broker.said("backend answers")
            await serves_again(broker)
            assert broker.events().count("backend does not answer") == 1
        finally:
            simulator.stop()


async def test_a_backend_killed_in_the_middle_fails_its_request_and_is_found_again(
    tmp_path: Path,
) -> None:
    simulator = start_simulator("--speed", "200")
    try:
        config = SERVER + QUICK + backend_table(simulator.port)
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            await warm_up(broker)
            await simulator.set_fault(kind="freeze", after=3)
            stream = broker.inference.Generate(request())
            await read_until(stream, "chunk")
            simulator.process.kill()
            refusal = await refused(stream)
            assert refusal.reason == "BACKEND_FAILED"
            assert refusal.about == {"outcome": "failed", "sent_pieces": "3"}
            await broker.said("backend does not answer")
            simulator.stop()
            simulator = start_simulator("--speed", "200", "--port", str(simulator.port))
            await serves_again(broker)
            status = await broker.until_status(lambda status: status.backends[0].loads >= 2)
            assert status.backends[0].loads_failed == 0
    finally:
        simulator.stop()


async def test_two_models_under_load_are_loaded_one_after_the_other(
    broker: BrokerProcess, simulator: Simulator
) -> None:
    """All complete, each model is loaded once: the resident one's queue is exhausted first."""
    models = ("qwen3:8b", "llama3.2:3b")
    seen: Counter[tuple[str, ...]] = Counter()

    def changing(status: admin_pb2.GetStatusResponse) -> bool:
        found = {each.name: each.place.state for each in status.backends[0].models}
        moving = (models_pb2.MODEL_STATE_LOADING, models_pb2.MODEL_STATE_UNLOADING)
        seen[tuple(sorted(name for name, state in found.items() if state in moving))] += 1
        assert len(found) <= 1, found  # never two at once, in whatever state
        return status.outcomes[0].count == 24

    assert broker.channel is not None
    admin = admin_pb2_grpc.AdminStub(broker.channel)
    await admin.Pause(admin_pb2.PauseRequest())  # until all of them are there
    streams = [
        broker.inference.Generate(request(f"opus-{number}", models[number % 2]))
        for number in range(24)
    ]
    await broker.until_status(lambda status: status.queued == 24)
    await admin.Resume(admin_pb2.ResumeRequest())
    reads = asyncio.gather(*(read_until(each, "done") for each in streams))
    status = await broker.until_status(changing)
    assert all(events[-1].done.usage.output_tokens == 8 for events in await reads)
    assert seen[("qwen3:8b",)] or seen[("llama3.2:3b",)]
    assert (status.backends[0].loads, status.backends[0].loads_failed) == (2, 0)
    assert (await simulator.state())["loads"] == {"llama3.2:3b": 1, "qwen3:8b": 1}
