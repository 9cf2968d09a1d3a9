"""The level and what decides it: the parts of the load, and what the sensors of the host say.

What is None was not told: nobody measures it, or nobody may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from broker_client.events import word_of
from broker_client.pb.broker.v1 import admin_pb2, common_pb2

LEVELS: Final = ("normal", "1", "2", "critical")  # as they rise
NORMAL: Final = LEVELS[0]

_LEVEL_PREFIX: Final = "DEGRADATION_LEVEL_"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPart:
    """One part of the load: "queue", "wait", "host_memory", "cpu" or "gpu_memory".

    `value` and `limit` are in one unit: requests, milliseconds, bytes, or a share of 1. Where it is
    not `known` it counts for nothing, and `detail` says why.
    """

    name: str
    known: bool
    value: float
    limit: float
    share: float
    age_ms: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStatus:
    """The level ("normal", "1", "2" or "critical"), and what decides it.

    `level_before` is empty where it has been the same since start. `automatic` False: the load does
    not decide it, but an operator who has set it, for another `until_ms`, None: until it is set
    again; or the broker's configuration, which leaves it to operators, normal until one sets it.
    `load` is the worst part that is known, 1 at its limit.
    """

    level: str
    level_before: str
    automatic: bool
    since_ms: int
    until_ms: int | None
    why: str
    load: float | None
    parts: tuple[LoadPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process on a GPU; `ours`: it is one of a backend of this broker."""

    pid: int
    name: str
    memory_bytes: int | None
    ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStatus:
    """A GPU, or a MIG instance of one. `utilization` is a part of 1; `processes` is None where
    nobody may ask for them, and empty where there are none."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization: float | None
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None
    throttle_reasons: tuple[str, ...]
    processes: tuple[GpuProcess, ...] | None
    mig: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """The host that the broker runs on. Shares are parts of all cores; `memory_available_bytes` can
    be had without swapping; `models_*` are of models and of the broker itself."""

    cpu_count: int
    cpu_share: float
    models_cpu_share: float | None
    memory_total_bytes: int
    memory_available_bytes: int
    models_memory_bytes: int | None
    swap_total_bytes: int
    swap_used_bytes: int
    swap_in_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorStatus:
    """A sensor: "host" or "gpu". `state` is "ok", "absent" (there is nothing to measure, or nobody
    may, which is no fault), "failing" or "stale"; `age_ms` is None where it never answered."""

    name: str
    state: str
    detail: str
    age_ms: int | None


def level_word(number: int) -> str:
    """A level in a word; "unspecified" where this version does not know it, or it is not said."""
    return word_of(common_pb2.DegradationLevel.DESCRIPTOR, number, _LEVEL_PREFIX)


def level_number(word: str) -> common_pb2.DegradationLevel.ValueType:
    """The wire's number for a level; ValueError for what is none."""
    if word not in LEVELS:
        raise ValueError(f"{word!r} is no level; there are {', '.join(LEVELS)}")
    return common_pb2.DegradationLevel.Value(f"{_LEVEL_PREFIX}{word.upper()}")


def level_status_of(message: admin_pb2.LevelStatus) -> LevelStatus:
    """The wire's level, typed."""
    return LevelStatus(
        level=level_word(message.level),
        level_before=level_word(message.level_before) if message.level_before else "",
        automatic=message.automatic,
        since_ms=message.since_ms,
        until_ms=_told(message, "until_ms"),
        why=message.why,
        load=_told(message, "load"),
        parts=tuple(load_part_of(each) for each in message.parts),
    )


def load_part_of(message: admin_pb2.LoadPart) -> LoadPart:
    """The wire's part of the load, typed."""
    return LoadPart(
        name=message.name,
        known=message.known,
        value=message.value,
        limit=message.limit,
        share=message.share,
        age_ms=message.age_ms,
        detail=message.detail,
    )


def gpu_of(message: admin_pb2.GpuStatus) -> GpuStatus:
    """The wire's GPU, typed."""
    return GpuStatus(
        index=message.index,
        uuid=message.uuid,
        name=message.name,
        memory_total_bytes=message.memory_total_bytes,
        memory_used_bytes=message.memory_used_bytes,
        utilization=_told(message, "utilization"),
        temperature_c=_told(message, "temperature_c"),
        power_w=_told(message, "power_w"),
        power_limit_w=_told(message, "power_limit_w"),
        throttle_reasons=tuple(message.throttle_reasons),
        processes=_processes_of(message),
        mig=message.mig,
    )


def _processes_of(message: admin_pb2.GpuStatus) -> tuple[GpuProcess, ...] | None:
    if not message.processes_told:
        return None
    return tuple(
        GpuProcess(
            pid=each.pid, name=each.name, memory_bytes=_told(each, "memory_bytes"), ours=each.ours
        )
        for each in message.processes
    )


def host_of(message: admin_pb2.HostStatus) -> HostStatus:
    """The wire's host, typed."""
    return HostStatus(
        cpu_count=message.cpu_count,
        cpu_share=message.cpu_share,
        models_cpu_share=_told(message, "models_cpu_share"),
        memory_total_bytes=message.memory_total_bytes,
        memory_available_bytes=message.memory_available_bytes,
        models_memory_bytes=_told(message, "models_memory_bytes"),
        swap_total_bytes=message.swap_total_bytes,
        swap_used_bytes=message.swap_used_bytes,
        swap_in_bytes_per_s=message.swap_in_bytes_per_s,
    )


def sensor_of(message: admin_pb2.SensorStatus) -> SensorStatus:
    """The wire's sensor, typed."""
    return SensorStatus(
        name=message.name,
        state=message.state,
        detail=message.detail,
        age_ms=_told(message, "age_ms"),
    )


def _told(message: Any, field: str) -> Any:
    """A field that may be unset; None where it is."""
    return getattr(message, field) if message.HasField(field) else None
