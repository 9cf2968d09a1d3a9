"""The host as psutil tells of it: processor, memory, swap, and what of them is the models'.

In a container whose memory is limited, its own limit and use are told where there is less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from broker.core.sensing import HostReading, HostSample, SensorState
from broker.monitors.container import ROOT, container_memory
from broker.monitors.processes import ModelProcess, ModelProcesses

# Shares and rates are averages in which what is this old counts a third of what is now: longer than
# a burst of a moment, shorter than an operator's patience.
SMOOTHING_S: Final = 5.0

# Until so much time has been seen, the rest of it counts as quiet: one burst at the start is no
# average.
WEIGHED_S_MIN: Final = 2.0

# The first sample needs two looks at the counters; a processor's tick is 10 ms.
FIRST_LOOK_S: Final = 0.1

# Where the system does not let these be read, there is nothing to fix and nothing to alert of.
_ABSENT: Final = (PermissionError, FileNotFoundError, NotImplementedError, psutil.AccessDenied)


class Smoothed:
    """An average over time that forgets: each value counts by how long it held. It begins with
    `quiet_s` of nothing, as far as no more has been seen."""

    def __init__(
        self, time_constant_s: float = SMOOTHING_S, quiet_s: float = WEIGHED_S_MIN
    ) -> None:
        self._time_constant_s = time_constant_s
        self._sum = 0.0
        self._weight = 0.0
        self._weight_min = 1 - math.exp(-quiet_s / time_constant_s)

    def add(self, value: float, duration_s: float) -> float:
        """The average, with this value for the last `duration_s`."""
        kept = math.exp(-duration_s / self._time_constant_s)
        self._sum = self._sum * kept + value * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)
        return self._sum / max(self._weight, self._weight_min)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counters:
    """What only grows. `models_s` is processor time by process id."""

    at_ns: int
    busy_s: float
    total_s: float
    swapped_in_bytes: int
    models_s: Mapping[int, tuple[ModelProcess, float]]


class HostReader:
    """Reads the host; `read` is for one thread. `platform` is psutil, or what stands in for it in
    a test; `cgroup` the folder of the container's own group."""

    def __init__(
        self,
        processes: ModelProcesses,
        monotonic_ns: Callable[[], int],
        pause_s: Callable[[float], None] = time.sleep,
        platform: Any = psutil,
        cgroup: Path = ROOT,
    ) -> None:
        self._processes = processes
        self._monotonic_ns = monotonic_ns
        self._pause_s = pause_s
        self._platform = platform
        self._cgroup = cgroup
        self._before: _Counters | None = None
        self._cpu, self._models_cpu, self._swap_in = Smoothed(), Smoothed(), Smoothed()

    def read(self) -> HostReading:
        """The host now. An error that is not foreseen here is a failing sensor, and raised."""
        try:
            if self._before is None:
                self._before = self._counters(self._processes.look(), self._platform.swap_memory())
                self._pause_s(FIRST_LOOK_S)
            return self._read(self._before)
        except _ABSENT as error:
            return HostReading(state=SensorState.ABSENT, problem=f"not readable: {error}")
        except (OSError, psutil.Error) as error:
            return HostReading(state=SensorState.FAILING, problem=f"cannot be read: {error}")

    def _read(self, before: _Counters) -> HostReading:
        models = self._processes.look()
        memory, swap = self._platform.virtual_memory(), self._platform.swap_memory()
        now = self._before = self._counters(models, swap)
        cpu_share, models_share, swap_in = self._smoothed(before, now)
        total_bytes, available_bytes = int(memory.total), int(memory.available)
        container = container_memory(self._cgroup)
        if container is not None:
            total_bytes = min(total_bytes, container.limit_bytes)
            available_bytes = min(available_bytes, container.available_bytes)
        if total_bytes <= 0:
            problem = f"the memory of this host cannot be {total_bytes} bytes"
            return HostReading(state=SensorState.FAILING, problem=problem)
        sample = HostSample(
            at_ns=now.at_ns,
            cpu_count=max(1, self._platform.cpu_count() or 1),
            cpu_share=cpu_share,
            models_cpu_share=models_share if models else None,
            memory_total_bytes=total_bytes,
            # Within a container the two may come from different books.
            memory_available_bytes=min(max(0, available_bytes), total_bytes),
            models_memory_bytes=self._held_bytes(models),
            swap_total_bytes=max(0, int(swap.total)),
            swap_used_bytes=max(0, int(swap.used)),
            swap_in_bytes_per_s=swap_in,
        )
        return HostReading(state=SensorState.OK, sample=sample)

    def _counters(self, models: Iterable[ModelProcess], swap: Any) -> _Counters:
        times = self._platform.cpu_times()
        # Time of guests is in that of their users already.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        models_s = {}
        for each in (*models, self._processes.own):
            try:
                spent = each.process.cpu_times()
            except (psutil.Error, OSError):
                continue
            models_s[each.pid] = each, float(spent.user + spent.system)
        return _Counters(
            at_ns=self._monotonic_ns(),
            busy_s=total_s - times.idle - getattr(times, "iowait", 0.0),
            total_s=total_s,
            swapped_in_bytes=int(swap.sin),
            models_s=models_s,
        )

    def _smoothed(self, before: _Counters, now: _Counters) -> tuple[float, float, float]:
        """Shares of the processor, all and the models', and bytes per second from swap."""
        duration_s = max(0.0, (now.at_ns - before.at_ns) / 1e9)
        total_s = now.total_s - before.total_s
        share = models_share = swap_in = 0.0
        if total_s > 0:
            share = min(max((now.busy_s - before.busy_s) / total_s, 0.0), 1.0)
            models_share = min(_spent_s(before, now) / total_s, share)
        if duration_s > 0:
            swap_in = max(0, now.swapped_in_bytes - before.swapped_in_bytes) / duration_s
        # A window in which no counter moved says nothing of the processor.
        counted_s = duration_s if total_s > 0 else 0.0
        return (
            self._cpu.add(share, counted_s),
            self._models_cpu.add(models_share, counted_s),
            self._swap_in.add(swap_in, duration_s),
        )

    def _held_bytes(self, models: Iterable[ModelProcess]) -> int | None:
        """What they hold that cannot be had back, the broker's own included. None of none."""
        held_bytes, is_any = self._private_bytes(self._processes.own) or 0, False
        for each in models:
            private = self._private_bytes(each)
            if private is not None:
                held_bytes, is_any = held_bytes + private, True
        return held_bytes if is_any else None

    def _private_bytes(self, each: ModelProcess) -> int | None:
        """Resident and not shared. Linux counts as shared what is mapped from files, weights above
        all; where the system does not tell, it is all that is resident."""
        try:
            memory = each.process.memory_info()
        except (psutil.Error, OSError):
            return None
        return max(0, int(memory.rss) - int(getattr(memory, "shared", 0)))


def _spent_s(before: _Counters, now: _Counters) -> float:
    """Processor seconds of the models' processes between two looks. Of one that was found late, it
    is not known how much of its time is of this window."""
    spent_s = 0.0
    for pid, (each, now_s) in now.models_s.items():
        known, before_s = before.models_s.get(pid, (None, 0.0))
        if known is each:
            spent_s += max(0.0, now_s - before_s)
        elif each.is_newborn:
            spent_s += now_s
    return spent_s
