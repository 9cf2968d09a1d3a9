"""Puts together what the broker feels of its machine: the sensors that are switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from broker.config.machine import MonitorsConfig
from broker.core.sensing import GpuReading, HostReading, SensorState
from broker.core.stimuli import GpusSensed, HostSensed, Stimulus
from broker.monitors.gpu import GpuReader
from broker.monitors.host import HostReader
from broker.monitors.processes import ModelProcesses
from broker.monitors.sampler import Sampler, SamplingPolicy, Sensor
from broker.runtime.clock import Clock

_MS = 1_000_000
GPU: Final = "gpu"
_OFF: Final = "it is switched off in [monitors]"


def sampling(
    config: MonitorsConfig,
    feed: Callable[[Stimulus], None],
    clock: Clock,
    on_tick: Iterable[Callable[[], None]] = (),
) -> Sampler:
    """What asks them, and tells of those that are off. `on_tick` are called once each interval,
    also where no sensor is on."""
    processes = ModelProcesses(clock.monotonic_ns)
    sensors: list[Sensor[Any]] = []
    off: list[Stimulus] = []
    absent = SensorState.ABSENT
    if config.host:
        sensors.append(_host(processes, clock))
    else:
        off.append(HostSensed(HostReading(state=absent, problem=_OFF)))
    if config.gpu:
        sensors.append(_gpus(processes, clock))
    else:
        at_ns = clock.monotonic_ns()
        off.append(GpusSensed(GpuReading(at_ns=at_ns, state=absent, problem=_OFF)))
    policy = SamplingPolicy(interval_ns=config.interval_ms * _MS, stale_ns=config.stale_ms * _MS)
    return Sampler(sensors, policy, feed, clock.monotonic_ns, clock.sleep, on_tick, off)


def _host(processes: ModelProcesses, clock: Clock) -> Sensor[HostReading]:
    return Sensor(
        name="host",
        read=HostReader(processes, clock.monotonic_ns).read,
        failed=lambda problem: HostReading(state=SensorState.FAILING, problem=problem),
        told=HostSensed,
    )


def _gpus(processes: ModelProcesses, clock: Clock) -> Sensor[GpuReading]:
    def failed(problem: str) -> GpuReading:
        at_ns = clock.monotonic_ns()
        return GpuReading(at_ns=at_ns, state=SensorState.FAILING, problem=problem)

    reader = GpuReader(processes.whose, clock.monotonic_ns)
    return Sensor(name=GPU, read=reader.read, failed=failed, told=GpusSensed, release=reader.close)
