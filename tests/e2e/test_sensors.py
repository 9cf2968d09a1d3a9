"""The sensors of a real `brokerd`, which finds the stand-in for NVML as it would find the driver's.

What the levels make of them is in `test_degradation.py`.
"""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from broker_client.pb.broker.v1 import admin_pb2
from tests.e2e.processes import brokerd
from tests.nvml_stub.stub import GIB, Call, NvmlStub

pytestmark = pytest.mark.slow

CONFIG = """
[server]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
log_format = "json"
[monitors]
interval_ms = 50
stale_ms = 500
"""


def state_of(status: admin_pb2.GetStatusResponse, sensor: str) -> str:
    return next((each.state for each in status.sensors if each.name == sensor), "")


async def test_cards_come_to_the_status_and_a_lost_one_to_the_log(tmp_path: Path) -> None:
    stub = NvmlStub(tmp_path / "nvml")
    stub.add_card(total=24 * GIB, used=6 * GIB)
    lost = stub.add_card(total=8 * GIB)
    async with brokerd(CONFIG, tmp_path, environment=stub.environment()) as broker:
        status = await broker.until_status(lambda status: len(status.gpus) == 2)
        assert [each.memory_used_bytes for each in status.gpus] == [6 * GIB, 0]
        status = await broker.until_status(lambda status: status.HasField("host"))
        assert (state_of(status, "gpu"), state_of(status, "host")) == ("ok", "ok")
        lost.answer(pynvml.NVML_ERROR_GPU_IS_LOST)
        said = await broker.said("sensor fails")
        assert (said["sensor"], said["problem"]) == ("gpu", "GPU 1: GPU is lost")
        status = await broker.until_status(lambda status: len(status.gpus) == 1)
        assert state_of(status, "gpu") == "failing"


async def test_a_call_that_hangs_holds_up_neither_service_nor_end(tmp_path: Path) -> None:
    stub = NvmlStub(tmp_path / "nvml")
    stub.add_card(used=GIB)
    async with brokerd(CONFIG, tmp_path, environment=stub.environment()) as broker:
        await broker.until_status(lambda status: state_of(status, "gpu") == "ok")
        stub.block(Call.TEMPERATURE)
        said = await broker.said("sensor does not answer")
        assert said["sensor"] == "gpu"
        status = await broker.until_status(lambda status: state_of(status, "gpu") == "stale")
        assert state_of(status, "host") == "ok"
        stub.release()
        await broker.said("sensor answers again")
        await broker.until_status(lambda status: state_of(status, "gpu") == "ok")
        stub.block(Call.TEMPERATURE)
        await broker.said("sensor does not answer", times=2)
        assert stub.inside == 1
        broker.tell()
        assert await broker.ended() == 0
        assert stub.inside == 1


async def test_a_first_call_that_hangs_is_a_fault_and_a_sensor_that_is_off_is_none(
    tmp_path: Path,
) -> None:
    stub = NvmlStub(tmp_path / "nvml")
    stub.block(Call.INIT)
    config = CONFIG.replace("[monitors]", "[monitors]\nhost = false")
    async with brokerd(config, tmp_path, environment=stub.environment()) as broker:
        status = await broker.until_status(lambda status: state_of(status, "gpu") == "stale")
        (host,) = [each for each in status.sensors if each.name == "host"]
        assert (host.state, host.detail) == ("absent", "it is switched off in [monitors]")
        stub.release()


async def test_a_machine_without_a_driver_is_told_once(tmp_path: Path) -> None:
    stub = NvmlStub(tmp_path / "nvml")
    stub.answer(pynvml.NVML_ERROR_DRIVER_NOT_LOADED, Call.INIT)
    async with brokerd(CONFIG, tmp_path, environment=stub.environment()) as broker:
        status = await broker.until_status(lambda status: state_of(status, "gpu") == "absent")
        assert not status.gpus
        await broker.said("sensor is absent")
        await broker.until_status(lambda status: state_of(status, "host") == "ok")
        assert broker.events().count("sensor is absent") == 1
        assert stub.calls(Call.INIT) == 1
