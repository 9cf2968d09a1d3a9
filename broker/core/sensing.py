"""What the sensors of this host say: samples, on the engine's clock.

Shares are parts of 1. What a sensor does not tell is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SensorState(Enum):
    """How a sensor is. Absence is a normal answer: no GPU, no driver, no permission."""

    OK = "ok"
    ABSENT = "absent"
    FAILING = "failing"  # it answers with errors, with garbage, or not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """The host at `at_ns`; shares of the processor are over the time since the sample before,
    smoothed.

    `models_cpu_share` and `models_memory_bytes` are of the processes of a local Ollama, its runners
    and the broker itself; the bytes are those that cannot be had back (what is mapped from files
    can). None where no such process is seen. `memory_available_bytes` counts the page cache.
    """

    at_ns: int
    cpu_count: int
    cpu_share: float
    models_cpu_share: float | None
    memory_total_bytes: int
    memory_available_bytes: int
    models_memory_bytes: int | None
    swap_total_bytes: int = 0
    swap_used_bytes: int = 0
    swap_in_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process on a GPU. `is_ours`: it belongs to a local backend."""

    pid: int
    name: str
    memory_bytes: int | None
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """A GPU, or a MIG instance. `processes` is None where nobody may ask. Memory that the driver
    itself reserves is not in `memory_used_bytes` where the driver tells it apart."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    is_mig: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """What reading the host came to; `problem` says in words why it is not OK."""

    state: SensorState
    sample: HostSample | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """What reading the GPUs came to, at `at_ns`. A GPU that was there and is not any more makes it
    FAILING, with those that are left. `is_whole`: each that is there has told its memory, or has
    not for so long that nobody waits for it; else what is told may be of others' cards alone."""

    at_ns: int
    state: SensorState
    gpus: tuple[GpuSample, ...] = ()
    problem: str = ""
    is_whole: bool = True
