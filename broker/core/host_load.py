"""The parts of the load that are this host's memory and processor, as far as others use them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from broker.core.lasting import Lasting, Use
from broker.core.load import (
    CPU,
    HOST_MEMORY,
    NOTHING_LOCAL,
    local_of,
    of_total,
    unclear_what_is_ours,
    unknown,
)
from broker.core.placement import BackendState
from broker.core.sensing import HostReading, HostSample, SensorState
from broker.core.views import LoadPart


class HostLoad:
    """What was heard of the host. `heard_ns`: when, last."""

    __slots__ = ("_not_known", "_others", "heard_ns", "reading")

    def __init__(self) -> None:
        self.reading: HostReading | None = None
        self.heard_ns: int | None = None
        self._others = Lasting()
        self._not_known = ""  # why not, where the memory that others use is not known

    def sensed(
        self,
        reading: HostReading,
        backends: Mapping[str, BackendState],
        settle_ns: int,
        now_ns: int,
    ) -> None:
        """A sample came. What of it is ours is told now, by what the backends hold now."""
        self.reading, self.heard_ns = reading, now_ns
        if reading.state is not SensorState.OK or reading.sample is None:
            return
        sample, local = reading.sample, local_of(backends)
        total_bytes, free_bytes = sample.memory_total_bytes, sample.memory_available_bytes
        models_bytes = sample.models_memory_bytes
        unclear = ""
        if models_bytes is None:
            models_bytes, unclear = _held_by_models(local), unclear_what_is_ours(local)
        limit_bytes = total_bytes - models_bytes
        if limit_bytes <= 0 or not 0 <= free_bytes <= total_bytes:
            figures = f"{of_total(free_bytes, total_bytes)} free, and models hold {models_bytes}"
            self._not_known = f"the figures cannot be right: {figures} bytes"
            self._others = Lasting()
            return
        use = Use(max(0, limit_bytes - free_bytes), limit_bytes)
        self._not_known = unclear or f"not watched for {settle_ns / 1e9:.0f} s yet"
        if unclear:
            self._others.pause()
        else:
            self._others.add(use, sample.at_ns, settle_ns)

    def problem(self, stale_ns: int, now_ns: int) -> str:
        """Why the host's sensor cannot be believed; "" where it can."""
        reading = self.reading
        if reading is None:
            return "the host's sensor has not answered yet"
        if reading.state is not SensorState.OK or reading.sample is None:
            return reading.problem or f"the host's sensor is {reading.state.value}"
        age_ns = now_ns - reading.sample.at_ns
        if age_ns > stale_ns:
            return f"the host's sensor has been silent for {age_ns / 1e9:.0f} s"
        return ""

    def parts(
        self, backends: Mapping[str, BackendState], stale_ns: int, now_ns: int
    ) -> tuple[LoadPart, LoadPart]:
        """Memory and processor of this host, as far as models do not use them."""
        has_local = any(each.policy.is_local for each in backends.values())
        problem = self.problem(stale_ns, now_ns) if has_local else NOTHING_LOCAL
        sample = self.reading.sample if self.reading else None
        if problem or sample is None:
            at_ns = sample.at_ns if sample else 0
            return unknown(HOST_MEMORY, problem, at_ns), unknown(CPU, problem, at_ns)
        return self._memory(sample.at_ns), _cpu(sample)

    def _memory(self, at_ns: int) -> LoadPart:
        """What others hold, over what models leave. The page cache counts as available. Where no
        process of a local server is seen, all that it says to hold in host memory is taken for
        held: some of that may be mapped from files, so that this is a lower bound."""
        others = self._others.least
        if others is None:
            return unknown(HOST_MEMORY, self._not_known, at_ns)
        return LoadPart(
            name=HOST_MEMORY,
            share=others.share,
            value=others.used_bytes,
            limit=others.limit_bytes,
            at_ns=at_ns,
            detail=f"others use {of_total(*others)} that no model holds",
        )


def _held_by_models(local: Collection[BackendState]) -> int:
    return sum(
        max(0, each.memory_bytes - each.gpu_memory_bytes)
        for backend in local
        for each in backend.residents.values()
    )


def _cpu(sample: HostSample) -> LoadPart:
    """The share of the processor that others use: tokens are what it is there for."""
    if sample.models_cpu_share is None:
        detail = "no process of a local server is seen, so that its share cannot be told apart"
        return unknown(CPU, detail, sample.at_ns)
    others = max(0.0, sample.cpu_share - sample.models_cpu_share)
    return LoadPart(
        name=CPU,
        share=others,
        value=others,
        limit=1.0,
        at_ns=sample.at_ns,
        detail=f"{others:.0%} of {sample.cpu_count} processors are used by others, "
        f"{sample.models_cpu_share:.0%} by models",
    )
