"""The level, the load and the sensors as Prometheus metrics. What is not known is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from broker.core.sensing import GpuSample, HostSample, SensorState
from broker.core.views import LevelView


def machine_metrics(view: LevelView) -> Iterator[Metric]:
    """All of them."""
    yield from _level(view)
    yield from _sensors(view)
    if view.host is not None:
        yield from _host(view.host)
    if view.gpus:
        yield from _gpus(view.gpus)


def _level(view: LevelView) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "broker_level",
        "Degradation level: 0 normal, 1, 2, 3 critical",
        value=int(view.level),
    )
    yield GaugeMetricFamily(
        "broker_level_automatic",
        "Does the load decide the level, and not an operator or the configuration",
        value=float(view.is_automatic),
    )
    if view.load is not None:
        yield GaugeMetricFamily(
            "broker_load_ratio", "The worst part of the load over its limit", value=view.load
        )
    parts = GaugeMetricFamily(
        "broker_load_part_ratio",
        "A part of the load over its limit; absent while it is not known",
        labels=["part"],
    )
    for part in view.parts:
        if part.share is not None:
            parts.add_metric([part.name], part.share)
    yield parts


def _sensors(view: LevelView) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "broker_sensor_up",
        "Does the sensor answer; absent where this host has none",
        labels=["sensor"],
    )
    for each in view.sensors:
        if each.state is not SensorState.ABSENT:
            answers = each.state is SensorState.OK and not each.is_stale
            up.add_metric([each.name], float(answers))
    yield up


def _host(host: HostSample) -> Iterator[Metric]:
    for name, words, value in (
        ("broker_host_cpu_ratio", "Use of all processors", host.cpu_share),
        (
            "broker_host_models_cpu_ratio",
            "The part of it that is the models' and the broker's",
            host.models_cpu_share,
        ),
        ("broker_host_memory_total_bytes", "Memory of this host", host.memory_total_bytes),
        (
            "broker_host_memory_available_bytes",
            "Memory that can be had, page cache included",
            host.memory_available_bytes,
        ),
        (
            "broker_host_models_memory_bytes",
            "Memory of the models and the broker that cannot be had back",
            host.models_memory_bytes,
        ),
        ("broker_host_swap_used_bytes", "Swap in use", host.swap_used_bytes),
        (
            "broker_host_swap_in_bytes_per_second",
            "Read back from swap, smoothed",
            host.swap_in_bytes_per_s,
        ),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, words, value=value)


_GPU_VALUES: tuple[tuple[str, str, Callable[[GpuSample], float | None]], ...] = (
    (
        "broker_gpu_memory_total_bytes",
        "Memory of the GPU",
        lambda gpu: gpu.memory_total_bytes,
    ),
    (
        "broker_gpu_memory_used_bytes",
        "Memory of the GPU in use by anybody",
        lambda gpu: gpu.memory_used_bytes,
    ),
    ("broker_gpu_utilization_ratio", "How busy the GPU is", lambda gpu: gpu.utilization),
    ("broker_gpu_temperature_celsius", "How warm the GPU is", lambda gpu: gpu.temperature_c),
    ("broker_gpu_power_watts", "What the GPU draws", lambda gpu: gpu.power_w),
    ("broker_gpu_power_limit_watts", "What the GPU may draw", lambda gpu: gpu.power_limit_w),
    (
        "broker_gpu_throttled",
        "Does the GPU hold its clocks down",
        lambda gpu: float(bool(gpu.throttle_reasons)),
    ),
)


def _gpus(gpus: tuple[GpuSample, ...]) -> Iterator[Metric]:
    for name, words, value_of in _GPU_VALUES:
        family = GaugeMetricFamily(name, words, labels=["gpu", "uuid"])
        for gpu in gpus:
            value = value_of(gpu)
            if value is not None:
                family.add_metric([str(gpu.index), gpu.uuid], value)
        yield family
