"""The level as messages: what decides it, and what the sensors of this host say."""

from __future__ import annotations

from typing import Final

from broker.core.level import Level
from broker.core.load import WAIT
from broker.core.sensing import GpuSample, HostSample
from broker.core.views import LevelView, LoadPart, SensorView
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2

LEVEL: Final = {
    each: common_pb2.DegradationLevel.Value(f"DEGRADATION_LEVEL_{each.word.upper()}")
    for each in Level
}
LEVEL_OF_NUMBER: Final = {number: level for level, number in LEVEL.items()}

_NS_PER_MS: Final = 1_000_000


def age_ms(at_ns: int, now_ns: int) -> int:
    """How long ago that was; never less than nothing."""
    return max(0, now_ns - at_ns) // _NS_PER_MS


def encode_level(view: LevelView, now_ns: int) -> pb.LevelStatus:
    """The level, and what decides it."""
    encoded = pb.LevelStatus(
        level=LEVEL[view.level],
        automatic=view.is_automatic,
        since_ms=age_ms(view.since_ns, now_ns),
        why=view.why,
        load=view.load,
        parts=[_encode_part(each, now_ns) for each in view.parts],
    )
    if view.before is not None:
        encoded.level_before = LEVEL[view.before]
    if view.until_ns is not None:
        encoded.until_ms = age_ms(now_ns, view.until_ns)
    return encoded


def _encode_part(part: LoadPart, now_ns: int) -> pb.LoadPart:
    """The wire's times are milliseconds; the other parts have units that it shares."""
    unit = _NS_PER_MS if part.name == WAIT else 1
    return pb.LoadPart(
        name=part.name,
        known=part.share is not None,
        value=part.value / unit,
        limit=part.limit / unit,
        share=part.share or 0.0,
        age_ms=age_ms(part.at_ns, now_ns),
        detail=part.detail,
    )


def encode_sensor(view: SensorView, now_ns: int) -> pb.SensorStatus:
    """A sensor; one that is silent is stale, whatever it said last."""
    return pb.SensorStatus(
        name=view.name,
        state="stale" if view.is_stale else view.state.value,
        detail=view.detail,
        age_ms=None if view.at_ns is None else age_ms(view.at_ns, now_ns),
    )


def encode_host(sample: HostSample) -> pb.HostStatus:
    """The host as it was last seen."""
    return pb.HostStatus(
        cpu_count=sample.cpu_count,
        cpu_share=sample.cpu_share,
        models_cpu_share=sample.models_cpu_share,
        memory_total_bytes=sample.memory_total_bytes,
        memory_available_bytes=sample.memory_available_bytes,
        models_memory_bytes=sample.models_memory_bytes,
        swap_total_bytes=sample.swap_total_bytes,
        swap_used_bytes=sample.swap_used_bytes,
        swap_in_bytes_per_s=sample.swap_in_bytes_per_s,
    )


def encode_gpu(sample: GpuSample) -> pb.GpuStatus:
    """A GPU as it was last seen."""
    return pb.GpuStatus(
        index=sample.index,
        uuid=sample.uuid,
        name=sample.name,
        memory_total_bytes=sample.memory_total_bytes,
        memory_used_bytes=sample.memory_used_bytes,
        utilization=sample.utilization,
        temperature_c=sample.temperature_c,
        power_w=sample.power_w,
        power_limit_w=sample.power_limit_w,
        throttle_reasons=sample.throttle_reasons,
        processes=[
            pb.GpuProcess(
                pid=each.pid, name=each.name, memory_bytes=each.memory_bytes, ours=each.is_ours
            )
            for each in sample.processes or ()
        ],
        mig=sample.is_mig,
        processes_told=sample.processes is not None,
    )
