"""Samples of a host and of its GPUs, and backends with models, as sensors and lists tell."""

from __future__ import annotations

from broker.core.placement import BackendPolicy, BackendState
from broker.core.residency import Residency, ResidencyState
from broker.core.sensing import (
    GpuProcess,
    GpuReading,
    GpuSample,
    HostReading,
    HostSample,
    SensorState,
)
from broker.core.stimuli import ModelSpec

GB = 1_000_000_000
STALE_NS = 10_000_000_000


def host(
    *,
    at_ns: int = 0,
    total_gb: float = 64,
    free_gb: float = 60,
    models_gb: float | None = 0,
    cpu: float = 0.1,
    models_cpu: float | None = 0.0,
) -> HostReading:
    """A host that answers; by default an idle one."""
    return HostReading(
        state=SensorState.OK,
        sample=HostSample(
            at_ns=at_ns,
            cpu_count=16,
            cpu_share=cpu,
            models_cpu_share=models_cpu,
            memory_total_bytes=int(total_gb * GB),
            memory_available_bytes=int(free_gb * GB),
            models_memory_bytes=None if models_gb is None else int(models_gb * GB),
        ),
    )


def card(
    used_gb: float,
    *,
    total_gb: float = 16,
    ours_gb: float | None = None,
    others_gb: float = 0,
    index: int = 0,
) -> GpuSample:
    """A GPU. Its processes are told where it is said what ours hold."""
    processes = None
    if ours_gb is not None:
        processes = tuple(
            GpuProcess(pid=pid, name=name, memory_bytes=int(held_gb * GB), is_ours=is_ours)
            for pid, name, held_gb, is_ours in (
                (1, "llama-server", ours_gb, True),
                (2, "a game", others_gb, False),
            )
            if held_gb
        )
    return GpuSample(
        index=index,
        uuid=f"GPU-{index}",
        name="a card",
        memory_total_bytes=int(total_gb * GB),
        memory_used_bytes=int(used_gb * GB),
        processes=processes,
    )


def gpus(*cards: GpuSample, at_ns: int = 0) -> GpuReading:
    return GpuReading(at_ns=at_ns, state=SensorState.OK, gpus=cards)


def resident(
    name: str,
    memory_gb: float,
    *,
    gpu_gb: float | None = None,
    state: ResidencyState = ResidencyState.RESIDENT,
    num_ctx: int = 4096,
    slots: int = 1,
) -> Residency:
    """A model on a backend; all of it on the GPU unless it is said how much."""
    return Residency(
        runner=f"blob-{name}",
        model=name,
        state=state,
        managed=True,
        slots=slots,
        num_ctx_sent=None,
        num_ctx=num_ctx,
        memory_bytes=int(memory_gb * GB),
        gpu_memory_bytes=int((memory_gb if gpu_gb is None else gpu_gb) * GB),
    )


def backend(
    *residents: Residency,
    name: str = "b1",
    is_local: bool = True,
    up: bool = True,
    is_listed: bool = True,
    slots: int = 1,
    models: tuple[str, ...] = ("m", "n"),
) -> BackendState:
    """A backend with models on its disk of 10 GB each, and some of them loaded."""
    specs = [
        ModelSpec(name=each, runner=f"blob-{each}", size_bytes=10 * GB, slots=slots)
        for each in models
    ]
    return BackendState(
        policy=BackendPolicy(name=name, is_local=is_local),
        up=up,
        is_listed=is_listed,
        by_runner={each.runner: each for each in specs},
        residents={each.runner: each for each in residents},
    )


def named(*backends: BackendState) -> dict[str, BackendState]:
    return {each.name: each for each in backends}
