"""The GPUs' sensor through the real binding, before a driver that a test leads."""

from __future__ import annotations

import os
from pathlib import Path

import pynvml
import pytest

from broker.core.sensing import GpuReading, SensorState
from broker.monitors.gpu import (
    ABSENT_RETRY_NS,
    FAILING_RETRY_NS,
    FORGOTTEN_NS,
    GPUS_MAX,
    GpuReader,
)
from tests.nvml_stub.stub import GIB, Call, NvmlStub

OLLAMA_PID, FOREIGN_PID = 20, 30
RESERVED = 300 * 2**20


class Machine:
    """A driver, the sensor before it, and a clock."""

    def __init__(self, stub: NvmlStub) -> None:
        self.stub = stub
        self.now_ns = 0
        self.reader = GpuReader(self.whose, lambda: self.now_ns)

    def whose(self, pid: int) -> tuple[str, bool]:
        return ("ollama", True) if pid == OLLAMA_PID else ("python", False)

    def read(self, after_ns: int = 1_000_000_000) -> GpuReading:
        self.now_ns += after_ns
        reading = self.reader.read()
        assert reading.at_ns == self.now_ns
        return reading


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    stub = NvmlStub(tmp_path)
    stub.bind(monkeypatch)
    return Machine(stub)


def test_a_card_tells_all_that_it_knows(machine: Machine) -> None:
    card = machine.stub.add_card(total=24 * GIB, used=6 * GIB, name="Karte Ä")
    card.utilization, card.temperature, card.power, card.power_limit = 73, 64, 215_500, 450_000
    card.reasons = 0x1 | 0x4 | 0x40 | 0x1000
    card.run((OLLAMA_PID, 5 * GIB), (FOREIGN_PID, pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value))
    reading = machine.read()
    assert (reading.state, reading.problem) == (SensorState.OK, "")
    (gpu,) = reading.gpus
    assert (gpu.index, gpu.uuid, gpu.name, gpu.is_mig) == (0, "GPU-00000000", "Karte Ä", False)
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (24 * GIB, 6 * GIB)
    assert (gpu.utilization, gpu.temperature_c) == (0.73, 64.0)
    assert (gpu.power_w, gpu.power_limit_w) == (215.5, 450.0)
    assert gpu.throttle_reasons == (
        "power cap",
        "heat, slowed by the hardware",
        "another reason (0x1000)",
    )
    assert gpu.processes is not None
    assert [(each.pid, each.name, each.memory_bytes, each.is_ours) for each in gpu.processes] == [
        (OLLAMA_PID, "ollama", 5 * GIB, True),
        (FOREIGN_PID, "python", None, False),
    ]


def test_memory_that_climbs_is_seen_at_each_look(machine: Machine) -> None:
    card = machine.stub.add_card(total=16 * GIB)
    seen = []
    for used in range(0, 16, 3):
        card.used = used * GIB
        seen.append(machine.read().gpus[0].memory_used_bytes // GIB)
    assert seen == list(range(0, 16, 3))


def test_an_old_driver_tells_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = NvmlStub(tmp_path, is_old_driver=True)
    stub.bind(monkeypatch)
    card = stub.add_card(total=16 * GIB, used=GIB)
    card.reasons = 0x80
    card.run((OLLAMA_PID, GIB))
    reading = Machine(stub).read()
    assert reading.state is SensorState.OK
    (gpu,) = reading.gpus
    assert gpu.memory_used_bytes == GIB + RESERVED  # what is reserved is not told apart
    assert gpu.throttle_reasons == ("power brake",)
    assert gpu.processes is not None
    assert gpu.processes[0].is_ours


@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
    ],
)
def test_what_a_card_does_not_tell_is_none_and_no_error(machine: Machine, error: int) -> None:
    card = machine.stub.add_card(used=GIB)
    card.run((OLLAMA_PID, GIB))
    told = {Call.HANDLE, Call.UUID, Call.NAME, Call.MEMORY}
    card.answer(error, *(set(Call) - told))
    reading = machine.read()
    assert (reading.state, reading.problem) == (SensorState.OK, "")
    (gpu,) = reading.gpus
    assert gpu.memory_used_bytes == GIB + RESERVED  # by the older call
    unknown = (gpu.utilization, gpu.temperature_c, gpu.power_w, gpu.power_limit_w, gpu.processes)
    assert unknown == (None,) * 5
    assert gpu.throttle_reasons == ()


def test_a_card_that_does_not_tell_its_memory_is_as_none(machine: Machine) -> None:
    card = machine.stub.add_card()
    card.answer(pynvml.NVML_ERROR_NOT_SUPPORTED, Call.MEMORY, Call.MEMORY_V2)
    reading = machine.read()
    assert (reading.state, reading.gpus) == (SensorState.ABSENT, ())
    assert "memory" in reading.problem


def test_several_cards_are_told_in_their_order(machine: Machine) -> None:
    for used in (1, 2, 3):
        machine.stub.add_card(used=used * GIB)
    gpus = machine.read().gpus
    assert [(each.index, each.memory_used_bytes // GIB) for each in gpus] == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def test_each_mig_instance_stands_for_itself(machine: Machine) -> None:
    card = machine.stub.add_card(total=40 * GIB, used=30 * GIB)
    card.temperature, card.reasons = 55, 0x4
    machine.stub.add_instance(0, 0, total=5 * GIB, used=GIB).run((OLLAMA_PID, GIB))
    machine.stub.add_instance(0, 3, total=10 * GIB)
    reading = machine.read()
    assert (reading.state, reading.problem) == (SensorState.OK, "")
    one, other = reading.gpus
    assert (one.uuid, one.is_mig, one.memory_total_bytes) == ("MIG-00000000", True, 5 * GIB)
    assert (other.uuid, other.memory_total_bytes, other.processes) == ("MIG-00000003", 10 * GIB, ())
    assert one.processes is not None
    assert one.processes[0].is_ours
    # These are the whole card's; of the others nobody can tell an instance's part.
    assert (one.temperature_c, one.throttle_reasons) == (55.0, ("power cap",))
    assert (one.utilization, one.power_w) == (None, None)
    card.is_mig_enabled = 0
    assert [each.is_mig for each in machine.read().gpus] == [False]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not ask"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was replaced"),
    ],
)
def test_without_a_driver_the_sensor_is_absent_and_asks_seldom(
    machine: Machine, error: int, words: str
) -> None:
    machine.stub.answer(error, Call.INIT)
    for _ in range(10):
        reading = machine.read()
        assert (reading.state, reading.gpus) == (SensorState.ABSENT, ())
        assert words in reading.problem
    assert machine.stub.calls(Call.INIT) == 1
    machine.stub.answer(0, Call.INIT)
    machine.stub.add_card()
    assert machine.read(ABSENT_RETRY_NS).state is SensorState.OK


def test_without_the_library_the_sensor_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", no_library)
    reading = GpuReader(lambda pid: ("", False), lambda: 5).read()
    assert (reading.state, reading.at_ns) == (SensorState.ABSENT, 5)
    assert "libnvidia-ml.so.1" in reading.problem


def test_a_driver_without_a_card_is_absent_until_there_is_one(machine: Machine) -> None:
    reading = machine.read()
    assert (reading.state, reading.problem) == (SensorState.ABSENT, "there is a driver, but no GPU")
    machine.stub.add_card()
    assert machine.read(ABSENT_RETRY_NS).state is SensorState.OK


def test_an_error_nobody_foresaw_fails_and_is_tried_again(machine: Machine) -> None:
    machine.stub.answer(pynvml.NVML_ERROR_UNKNOWN, Call.INIT)
    reading = machine.read()
    assert (reading.state, reading.problem) == (
        SensorState.FAILING,
        "the NVIDIA driver answers: Unknown Error",
    )
    machine.stub.answer(0)
    machine.stub.add_card()
    assert machine.read(FAILING_RETRY_NS).state is SensorState.OK


def test_a_card_that_vanishes_fails_with_the_rest_and_comes_back(machine: Machine) -> None:
    machine.stub.add_card(used=GIB)
    lost = machine.stub.add_card(used=2 * GIB, name="Lost")
    assert machine.read().state is SensorState.OK
    machine.stub.take_out(lost)
    for _ in range(3):
        reading = machine.read()
        assert reading.state is SensorState.FAILING
        assert reading.problem == "GPU 1 (Lost) is not there any more"
        assert [each.memory_used_bytes for each in reading.gpus] == [GIB]
    machine.stub.put_back(lost)
    reading = machine.read()
    assert (reading.state, len(reading.gpus)) == (SensorState.OK, 2)


def test_a_card_that_is_lost_fails_with_the_rest_and_a_new_session_is_opened(
    machine: Machine,
) -> None:
    machine.stub.add_card(used=GIB)
    lost = machine.stub.add_card()
    machine.read()
    lost.answer(pynvml.NVML_ERROR_GPU_IS_LOST)
    for _ in range(FAILING_RETRY_NS // 1_000_000_000 + 2):
        reading = machine.read()
        assert reading.state is SensorState.FAILING
        assert reading.problem == "GPU 1: GPU is lost"
        assert [each.index for each in reading.gpus] == [0]
    assert machine.stub.calls(Call.INIT) == 2
    lost.answer(0)
    lost.answer(pynvml.NVML_ERROR_NOT_SUPPORTED, Call.MIG_MODE)
    assert machine.read().state is SensorState.OK


def test_a_card_that_is_gone_for_good_is_forgotten(machine: Machine) -> None:
    machine.stub.add_card(used=GIB)
    taken = machine.stub.add_card(used=2 * GIB)
    machine.read()
    machine.stub.take_out(taken)
    reading = machine.read()
    assert (reading.state, reading.is_whole) == (SensorState.FAILING, True)
    reading = machine.read(FORGOTTEN_NS)
    assert (reading.state, reading.problem) == (SensorState.OK, "")
    machine.stub.put_back(taken)
    assert len(machine.read().gpus) == 2


def test_the_only_card_gone_for_good_is_as_none(machine: Machine) -> None:
    taken = machine.stub.add_card()
    machine.read()
    machine.stub.take_out(taken)
    assert machine.read().state is SensorState.FAILING
    assert machine.read(FORGOTTEN_NS).state is SensorState.ABSENT


def test_a_card_that_is_lost_is_waited_for_for_a_while(machine: Machine) -> None:
    """It still counts as there: what it holds is missing, until nobody expects it any more."""
    machine.stub.add_card(used=GIB)
    lost = machine.stub.add_card()
    machine.read()
    lost.answer(pynvml.NVML_ERROR_GPU_IS_LOST)
    for _ in range(3):
        assert not machine.read().is_whole
    reading = machine.read(FORGOTTEN_NS)
    assert (reading.state, reading.is_whole) == (SensorState.FAILING, True)
    lost.answer(0)
    lost.answer(pynvml.NVML_ERROR_NOT_SUPPORTED, Call.MIG_MODE)
    assert machine.read().state is SensorState.OK
    lost.answer(pynvml.NVML_ERROR_GPU_IS_LOST)
    assert not machine.read().is_whole


def test_a_driver_that_goes_fails_until_it_is_back(machine: Machine) -> None:
    machine.stub.add_card(name="Card")
    machine.read()
    machine.stub.answer(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    for _ in range(5):
        reading = machine.read()
        assert (reading.state, reading.gpus) == (SensorState.FAILING, ())
        assert reading.problem.startswith("GPU 0 (Card) cannot be read: ")
    assert machine.stub.calls(Call.INIT) == 1
    machine.stub.answer(0)
    assert machine.read(FAILING_RETRY_NS).state is SensorState.OK


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("used", 17 * GIB, "more of its memory is used than it has"),
        ("used", 2**64 - 1, "more of its memory is used than it has"),
        ("total", 2**60, "a size of memory that no GPU has"),
        ("total", 0, "a size of memory that no GPU has"),
    ],
)
def test_memory_that_cannot_be_is_not_passed_on(
    machine: Machine, field: str, value: int, words: str
) -> None:
    machine.stub.add_card(used=GIB)
    liar = machine.stub.add_card(total=16 * GIB)
    setattr(liar, field, value)
    reading = machine.read()
    assert (reading.state, reading.is_whole) == (SensorState.FAILING, False)
    assert words in reading.problem
    assert [each.index for each in reading.gpus] == [0]


@pytest.mark.parametrize(
    ("field", "value", "sampled", "words"),
    [
        ("utilization", 4_000, "utilization", "its utilisation cannot be what it says"),
        ("temperature", 2**32 - 1, "temperature_c", "its temperature cannot be what it says"),
        ("power", 2**32 - 1, "power_w", "its power cannot be what it says"),
    ],
)
def test_a_figure_that_cannot_be_is_unknown_and_the_rest_holds(
    machine: Machine, field: str, value: int, sampled: str, words: str
) -> None:
    setattr(machine.stub.add_card(used=GIB), field, value)
    reading = machine.read()
    assert (reading.state, reading.problem) == (SensorState.FAILING, f"GPU 0: {words}")
    assert reading.is_whole
    (gpu,) = reading.gpus
    assert getattr(gpu, sampled) is None
    assert gpu.memory_used_bytes == GIB


def test_a_name_that_nobody_can_read_is_none(machine: Machine) -> None:
    card = machine.stub.add_card(used=GIB)
    card.name = b"\xff\xfe garbage"
    card.run((OLLAMA_PID, 2**60))
    reading = machine.read()
    assert reading.state is SensorState.FAILING
    assert "its name cannot be read" in reading.problem
    assert "its memory of a process cannot be what it says" in reading.problem
    (gpu,) = reading.gpus
    assert gpu.name == ""
    assert gpu.processes is not None
    assert gpu.processes[0].memory_bytes is None


def test_more_cards_than_there_can_be_are_not_asked(machine: Machine) -> None:
    machine.stub.claim_cards(GPUS_MAX + 1)
    reading = machine.read()
    assert reading.state is SensorState.FAILING
    assert machine.stub.calls(Call.HANDLE) == 0


def test_one_question_in_error_leaves_the_others(machine: Machine) -> None:
    card = machine.stub.add_card(used=GIB)
    card.answer(pynvml.NVML_ERROR_TIMEOUT, Call.TEMPERATURE)
    reading = machine.read()
    assert (reading.state, reading.problem) == (SensorState.FAILING, "GPU 0: Timeout")
    assert reading.is_whole
    assert [each.memory_used_bytes for each in reading.gpus] == [GIB]


def test_processes_that_may_not_be_told_are_none(machine: Machine) -> None:
    card = machine.stub.add_card()
    card.run((os.getpid(), GIB))
    card.answer(pynvml.NVML_ERROR_NO_PERMISSION, Call.PROCESSES, Call.OLD_PROCESSES)
    (gpu,) = machine.read().gpus
    assert gpu.processes is None


def test_closing_ends_the_session(machine: Machine) -> None:
    machine.stub.add_card()
    machine.read()
    machine.reader.close()
    machine.reader.close()
    assert machine.stub.calls(Call.SHUTDOWN) == 1
