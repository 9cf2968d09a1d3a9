"""A model that is usually asked for is there before it is: real processes, before a simulated
Ollama that holds one model at a time."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1.common_pb2 import DEGRADATION_LEVEL_1
from broker_client.pb.broker.v1.models_pb2 import MODEL_STATE_RESIDENT
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, brokerd
from tests.integration.daemon import read_until
from tests.integration.ollama_sim_process import Simulator, start_simulator

OFTEN, SELDOM = "tinyllama", "llama3.2:1b"
TIMES = 8
PRELOAD = """
[preload]
enabled = true
probability_min = 0.1
margin = 1.0
idle_s = 0.0
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    process = start_simulator("--speed", "20", "--seed", "7", "--max-loaded", "1")
    yield process
    process.stop()


def config_of(simulator: Simulator) -> str:
    return f"""{SERVER}{QUICK}{PRELOAD}
[[backends]]
url = "127.0.0.1:{simulator.port}"
exclusive = true
poll_interval_ms = 100
retry_interval_ms = 100
"""


async def ask(broker: BrokerProcess, number: int, model: str) -> None:
    """An agent of its own asks, and has its answer."""
    request = pb.GenerateRequest(
        agent_id=f"agent-{number}",
        request_id="r",
        model=model,
        prompt=pb.Prompt(text="go"),
        options=pb.Options(max_tokens=2, seed=1),
    )
    await read_until(broker.inference.Generate(request), "done")


def is_there(status: admin_pb2.GetStatusResponse, model: str) -> bool:
    return any(
        each.name.partition(":")[0] == model and each.place.state == MODEL_STATE_RESIDENT
        for each in status.backends[0].models
    )


def kept_in(folder: Path) -> list[Path]:
    return list(folder.rglob("learned-habits-*.json"))


async def test_it_is_there_again_before_it_is_asked_for(
    simulator: Simulator, tmp_path: Path
) -> None:
    await simulator.reset()
    async with brokerd(config_of(simulator), tmp_path) as broker:
        for number in range(TIMES):
            await ask(broker, number, OFTEN)
        await ask(broker, TIMES, SELDOM)
        status = await broker.until_status(lambda found: found.preloads.made == 1)
        assert status.preloads.enabled
        assert is_there(status, OFTEN), "it took the place of what is asked for seldom"
        loads = (await simulator.state())["loads"]
        await ask(broker, TIMES + 1, OFTEN)
        assert (await simulator.state())["loads"] == loads
        status = await broker.until_status(lambda found: found.preloads.used == 1)
        assert status.preloads.wasted == 0
        assert status.preloads.hit_percent == pytest.approx(100 / 3), "two were waited for"
        broker.tell(signal.SIGTERM)
        assert await broker.ended() == 0
    (kept,) = kept_in(tmp_path)
    learned = json.loads(kept.read_text())["learned"]
    assert {each["model"].partition(":")[0] for each in learned["models"]} == {
        OFTEN,
        SELDOM.partition(":")[0],
    }
    async with brokerd(config_of(simulator), tmp_path) as second:
        await ask(second, 0, OFTEN)
        assert kept_in(tmp_path) == [kept], "it was good"


async def test_above_the_normal_level_nothing_is(simulator: Simulator, tmp_path: Path) -> None:
    await simulator.reset()
    config = config_of(simulator) + "\n[degradation]\nautomatic = false\n"
    async with brokerd(config, tmp_path) as broker:
        for number in range(TIMES):
            await ask(broker, number, OFTEN)
        assert broker.channel is not None
        admin = admin_pb2_grpc.AdminStub(broker.channel)
        await admin.SetLevel(admin_pb2.SetLevelRequest(level=DEGRADATION_LEVEL_1))
        await ask(broker, TIMES, SELDOM)
        status = await broker.until_status(lambda found: not found.preloads.enabled)
        assert status.preloads.held_because == "the level is 1"
        assert status.preloads.made == 0
