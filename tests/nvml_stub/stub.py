"""Compiles the stand-in for NVML (`stub.c`) and drives it: what each call answers, or does not.

A program that is started with `environment()` finds it as the machine's own NVML. Within this
process `bind` gives it to the binding.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import time
from enum import IntEnum, auto
from pathlib import Path
from typing import Any, Final

import pynvml
import pytest

SOURCE: Final = Path(__file__).with_name("stub.c")
LIBRARY: Final = "libnvidia-ml.so.1"
CONTROL: Final = "NVML_STUB_CONTROL"
CARDS, INSTANCES, PROCESSES = 4, 7, 8
GIB: Final = 2**30
PATIENCE_S: Final = 30.0  # after which a wait is a failure; nothing is expected to come near it


class Call(IntEnum):
    """The calls of NVML, in the order of `enum call`."""

    INIT = auto()
    SHUTDOWN = auto()
    COUNT = auto()
    HANDLE = auto()
    UUID = auto()
    NAME = auto()
    MEMORY = auto()
    MEMORY_V2 = auto()
    UTILIZATION = auto()
    TEMPERATURE = auto()
    POWER = auto()
    POWER_LIMIT = auto()
    REASONS = auto()
    OLD_REASONS = auto()
    PROCESSES = auto()
    OLD_PROCESSES = auto()
    MIG_MODE = auto()
    MIG_COUNT = auto()
    MIG_HANDLE = auto()


_CALLS: Final = len(Call) + 1  # 0 is no call


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("memory", ctypes.c_uint64),
    )


class Device(ctypes.Structure):
    """A card or a MIG instance. Set what it answers; bytes, percent, degrees, milliwatts."""

    _fields_ = (
        ("exists", ctypes.c_uint32),
        ("is_mig_enabled", ctypes.c_uint32),
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("total", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("reasons", ctypes.c_uint64),
        ("utilization", ctypes.c_uint32),
        ("temperature", ctypes.c_uint32),
        ("power", ctypes.c_uint32),
        ("power_limit", ctypes.c_uint32),
        ("process_count", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("processes", _Process * PROCESSES),
        ("errors", ctypes.c_uint32 * _CALLS),
    )

    def run(self, *processes: tuple[int, int]) -> None:
        """These run on it: (process id, bytes)."""
        for row, (pid, memory) in zip(self.processes, processes, strict=False):
            row.pid, row.memory = pid, memory
        self.process_count = len(processes)

    def answer(self, error: int, *calls: Call) -> None:
        """It answers these calls (none: all) with this error; 0: well again."""
        for call in calls or tuple(Call):
            self.errors[call] = error


class _Control(ctypes.Structure):
    _fields_ = (
        ("blocked", ctypes.c_uint32),
        ("inside", ctypes.c_uint32),
        ("card_count", ctypes.c_uint32),
        ("is_open", ctypes.c_uint32),
        ("errors", ctypes.c_uint32 * _CALLS),
        ("calls", ctypes.c_uint32 * _CALLS),
        ("devices", Device * (CARDS * (1 + INSTANCES))),
    )


class NvmlStub:
    """A machine with a driver and no card yet. Each has a library and a file of its own in
    `folder`."""

    def __init__(self, folder: Path, *, is_old_driver: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.library = folder / LIBRARY
        self._control_file = folder / "control"
        _compile(self.library, is_old_driver=is_old_driver)
        self._control_file.write_bytes(bytes(ctypes.sizeof(_Control)))
        with self._control_file.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._control = _Control.from_buffer(self._memory)

    def environment(self) -> dict[str, str]:
        """What makes a new process take this for its NVML."""
        before = os.environ.get("LD_LIBRARY_PATH", "")
        return {
            "LD_LIBRARY_PATH": f"{self.library.parent}{':' if before else ''}{before}",
            CONTROL: str(self._control_file),
        }

    def bind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes it the NVML of this process until the test ends."""
        monkeypatch.setenv(CONTROL, str(self._control_file))
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(self.library)))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def add_card(self, *, total: int = 16 * GIB, used: int = 0, name: str = "Stub GPU") -> Device:
        """One more card: 300 MiB of it the driver's own, idle and cool."""
        index = self._control.card_count
        device = self._fill(index * (1 + INSTANCES), f"GPU-{index:08}", name, total)
        device.used, device.reserved = used, 300 * 2**20
        device.temperature, device.power, device.power_limit = 40, 60_000, 300_000
        device.errors[Call.MIG_MODE] = pynvml.NVML_ERROR_NOT_SUPPORTED
        self._control.card_count = index + 1
        return device

    def add_instance(self, card: int, instance: int, *, total: int, used: int = 0) -> Device:
        """A MIG instance of a card, which has MIG enabled from then on. It tells of its memory and
        its processes, and of nothing else."""
        whole = self._control.devices[card * (1 + INSTANCES)]
        whole.is_mig_enabled, whole.errors[Call.MIG_MODE] = 1, 0
        at = card * (1 + INSTANCES) + 1 + instance
        device = self._fill(at, f"MIG-{card:04}{instance:04}", "Stub GPU MIG 1g", total)
        device.used = used
        device.answer(
            pynvml.NVML_ERROR_NOT_SUPPORTED,
            *(Call.UTILIZATION, Call.TEMPERATURE, Call.POWER, Call.POWER_LIMIT, Call.REASONS),
        )
        return device

    def _fill(self, at: int, uuid: str, name: str, total: int) -> Device:
        device: Device = self._control.devices[at]
        device.uuid, device.name, device.total = uuid.encode(), name.encode(), total
        device.exists = 1
        return device

    def take_out(self, card: Device) -> None:
        """The card is not there any more; those after it move up."""
        card.exists = 0
        self._control.card_count -= 1

    def put_back(self, card: Device) -> None:
        card.exists = 1
        self._control.card_count += 1

    def claim_cards(self, count: int) -> None:
        """The driver says that there are so many."""
        self._control.card_count = count

    def answer(self, error: int, *calls: Call) -> None:
        """These calls (none: all) answer with this error, whatever they are asked of; 0: well."""
        for call in calls or tuple(Call):
            self._control.errors[call] = error

    def block(self, call: Call) -> None:
        """This call does not come back until `release`."""
        self._control.blocked = call

    def release(self) -> None:
        self._control.blocked = 0

    def calls(self, call: Call) -> int:
        """How often it was called."""
        return int(self._control.calls[call])

    @property
    def inside(self) -> int:
        """How many callers are in the call that is blocked."""
        return int(self._control.inside)

    def wait_inside(self) -> None:
        """Returns when somebody is in the call that is blocked."""
        self.wait_for(lambda: self.inside > 0)

    def wait_for(self, holds: Any) -> None:
        """Returns when this holds; looks again and again, bounded."""
        until = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > until:
                raise AssertionError("what the test waits for does not happen")
            time.sleep(0.001)


def _compile(library: Path, *, is_old_driver: bool) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise AssertionError("the stand-in for NVML needs a C compiler (gcc), and there is none")
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"),
            *(("-DOLD_DRIVER",) if is_old_driver else ()),
            *(f"-Wl,-soname,{LIBRARY}", "-o", str(library), str(SOURCE)),
        ],
        check=True,
        timeout=PATIENCE_S,
    )
