"""Others take the memory of the GPU, and give it back: what agents and subscribers see of it.

A real `brokerd` before a simulated Ollama reads a stand-in for NVML through the real binding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client.pb.broker.v1 import common_pb2, pubsub_pb2, pubsub_pb2_grpc
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import PATIENCE_S, QUICK, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import Events, kinds, read_until, refused, text_of
from tests.integration.ollama_sim_process import Simulator, start_simulator
from tests.nvml_stub.stub import Device, NvmlStub

LARGE, SMALL = "qwen3:8b", "tinyllama:latest"
CARD_BYTES = 10**13  # what models hold of it does not count in percent
FOREIGN_PID = 2**22 + 1  # more than any process of this machine has
TOKENS_AT_LEVEL_1 = 8
DEFAULT_ANSWER = "Nobody can be asked at the moment."
CONFIG = f"""
[server]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
log_format = "json"
[monitors]
host = false
interval_ms = 50
settle_ms = 100
[degradation]
dwell_s = 1
max_tokens = {TOKENS_AT_LEVEL_1}
default_answer = "{DEFAULT_ANSWER}"
"""
NORMAL = common_pb2.DEGRADATION_LEVEL_NORMAL
LEVEL_1 = common_pb2.DEGRADATION_LEVEL_1
LEVEL_2 = common_pb2.DEGRADATION_LEVEL_2
CRITICAL = common_pb2.DEGRADATION_LEVEL_CRITICAL


class Card:
    """The GPU: somebody else uses this part of it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        device.total = CARD_BYTES
        self.fill(10)

    def fill(self, percent: int) -> None:
        self._device.run((FOREIGN_PID, CARD_BYTES * percent // 100))
        self._device.used = CARD_BYTES * percent // 100


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    process = start_simulator("--speed", "200", "--seed", "7")
    yield process
    process.stop()


@pytest.fixture
def stub(tmp_path: Path) -> NvmlStub:
    return NvmlStub(tmp_path / "nvml")


@pytest.fixture
def card(stub: NvmlStub) -> Card:
    return Card(stub.add_card())


@pytest_asyncio.fixture
async def broker(
    simulator: Simulator, stub: NvmlStub, card: Card, tmp_path: Path
) -> AsyncIterator[BrokerProcess]:
    config = CONFIG + QUICK + backend_table(simulator.port, "resident_max = 3\nslots = 1")
    async with brokerd(config, tmp_path, environment=stub.environment()) as running:
        yield running


class Levels:
    """What a subscriber hears of the level."""

    def __init__(self, broker: BrokerProcess) -> None:
        assert broker.channel is not None
        asked = pubsub_pb2.SubscribeRequest(agent_id="watcher", topics=["system:degradation:level"])
        self._call: Any = pubsub_pb2_grpc.PubSubStub(broker.channel).Subscribe(asked)
        self._events: list[pubsub_pb2.Event] = []

    async def next(self) -> pubsub_pb2.Event:
        while not self._events:
            message = await asyncio.wait_for(self._call.read(), PATIENCE_S)
            assert isinstance(message, pubsub_pb2.SubscribeResponse)
            assert not message.missed
            self._events += message.events
        return self._events.pop(0)

    async def until(self, level: common_pb2.DegradationLevel.ValueType) -> pubsub_pb2.Event:
        """The next event, which must be of this level."""
        event = await self.next()
        assert event.level.level == level, event
        return event


def request(request_id: str, **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=request_id,
        agent_id="sonnet-1",
        prompt=pb.Prompt(text="go on"),
        options=pb.Options(max_tokens=fields.pop("max_tokens", 4), seed=1),
        **{"model": LARGE, **fields},
    )


async def answered(broker: BrokerProcess, **fields: Any) -> Events:
    return await read_until(broker.inference.Generate(request("", **fields)), "done")


def started(events: Events) -> pb.Started:
    return next(each.started for each in events if each.WhichOneof("event") == "started")


async def at_level_1(broker: BrokerProcess) -> None:
    """Answers are short."""
    events = await answered(broker, max_tokens=100)
    begun = started(events)
    assert (begun.model, begun.level, begun.substituted_for) == (LARGE, LEVEL_1, "")
    assert len(begun.changes) == 1
    assert str(TOKENS_AT_LEVEL_1) in begun.changes[0]
    assert events[-1].done.usage.output_tokens == TOKENS_AT_LEVEL_1
    assert events[-1].done.finish_reason == pb.FINISH_REASON_LENGTH
    batch = await answered(broker, priority=9, criticality=common_pb2.CRITICALITY_BATCH)
    assert started(batch).model == LARGE  # nobody is refused yet


async def at_level_2(broker: BrokerProcess) -> None:
    """Small models answer, also cut short; what is not critical is to come again."""
    begun = started(await answered(broker, max_tokens=100))
    assert (begun.model, begun.level, begun.substituted_for) == (SMALL, LEVEL_2, LARGE)
    assert any(str(TOKENS_AT_LEVEL_1) in each for each in begun.changes)
    refusals = [
        (request("low", priority=8), "DEGRADED"),
        (request("batch", criticality=common_pb2.CRITICALITY_BATCH), "DEGRADED"),
        (request("strict", substitution=pb.SUBSTITUTION_NEVER), "SMALL_MODELS_ONLY"),
    ]
    for asked, reason in refusals:
        no = await refused(broker.inference.Generate(asked))
        assert (no.code, no.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
        assert no.retry_after_s
        assert no.about["outcome"] == "refused"


async def at_critical(broker: BrokerProcess) -> Any:
    """Priority work alone; who will take a default answer has it at once. The call that waits."""
    held = broker.inference.Generate(request("held", priority=4))
    (queued,) = await read_until(held, "queued")
    assert queued.queued.reason == common_pb2.WAIT_REASON_LEVEL
    urgent = await answered(broker, priority=3)
    assert (started(urgent).model, started(urgent).level) == (SMALL, CRITICAL)
    default = await answered(broker, priority=5, accept_default=True)
    assert text_of(default) == DEFAULT_ANSWER
    assert default[-1].done.cached
    assert started(default).level == CRITICAL
    assert started(default).changes
    status = await broker.until_status(lambda status: True)
    assert (status.queued, status.running) == (1, 0)  # though its slot idles: memory is the cause
    return held


async def test_a_card_that_others_fill_takes_the_broker_down_and_up_again(
    broker: BrokerProcess, card: Card
) -> None:
    levels = Levels(broker)
    first = await levels.until(NORMAL)
    assert first.is_state
    assert started(await answered(broker)).level == NORMAL

    card.fill(65)
    event = await levels.until(LEVEL_1)
    assert not event.is_state
    assert "gpu_memory" in event.level.why
    await at_level_1(broker)

    card.fill(85)
    await levels.until(LEVEL_2)
    await at_level_2(broker)

    card.fill(97)
    await levels.until(CRITICAL)
    held = await at_critical(broker)

    card.fill(92)  # below what critical is entered at, above what it is left at
    status = await broker.until_status(lambda status: 0.915 < status.level_status.load < 0.925)
    assert status.level == CRITICAL

    card.fill(10)
    for level in (LEVEL_2, LEVEL_1, NORMAL):  # one step at a time
        await levels.until(level)
    late = await read_until(held, "done")
    assert kinds(late)[-1] == "done"
    assert started(await answered(broker, max_tokens=40)).model == LARGE
    assert (await broker.outcomes())["refused"] == 3


async def test_a_card_that_vanishes_and_one_that_hangs_freeze_nothing(
    broker: BrokerProcess, card: Card, stub: NvmlStub
) -> None:
    levels = Levels(broker)
    await levels.until(NORMAL)
    card.fill(85)
    await levels.until(LEVEL_2)
    stub.take_out(card._device)
    for level in (LEVEL_1, NORMAL):  # what nobody can tell counts for nothing; /api/ps is well
        await levels.until(level)
    status = await broker.until_status(lambda status: True)
    (gpu,) = [each for each in status.sensors if each.name == "gpu"]
    assert gpu.state == "failing"
    assert gpu.detail
    (part,) = [each for each in status.level_status.parts if each.name == "gpu_memory"]
    assert not part.share
    assert part.detail
    stub.put_back(card._device)
    await levels.until(LEVEL_2)
