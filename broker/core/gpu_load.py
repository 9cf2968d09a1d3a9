"""The part of the load that is GPU memory which is not ours to plan with.

Three signs, of which the worst counts: what others use of our cards (NVML), a model with a smaller
share in VRAM than it has had before, a load refused for lack of memory of what was loaded there
before (both as the backend tells).
NVML speaks for all backends on this host together, the other two for one backend each. With several
backends the best of theirs is the load: work can go there.

Our cards are those that processes of ours are on. Where models are on cards and nobody tells on
which, it is all; where there are none, the one with most room: the next can go there, and then it
is told where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from broker.core.lasting import Lasting, Use
from broker.core.load import GPU_MEMORY, local_of, of_total, unclear_what_is_ours, unknown
from broker.core.placement import BackendState
from broker.core.residency import Residency, ResidencyState
from broker.core.sensing import GpuReading, GpuSample, SensorState
from broker.core.views import LoadPart

# What a model takes on a card beyond what /api/ps counts: the context of CUDA and the workspaces of
# its libraries, 0.3 to 0.5 GB on each card it uses, and buffers that the log of its runner does not
# name. Counted as ours only where nobody tells which process holds what.
CONTEXT_OVERHEAD_BYTES: Final = 512 * 1024 * 1024
UNTOLD_SHARE: Final = 0.05

# Sizes of buffers differ a little from load to load; only more than this of its share is a loss.
SPILL_TOLERANCE: Final = 0.05
# A model that has just lost some of its share is a load of this, one that lost all is a load of 1:
# with the seeds' thresholds the one asks for shorter answers, the other for priority work alone.
SPILLED_LOAD_MIN: Final = 0.6

# A model that could not be loaded asks for small models: between the seeds' 80 and 95 %.
REFUSED_LOAD: Final = 0.85

# How Ollama itself tells that memory was what lacked (llm/status.go), and how the servers before
# 0.25 and the runner of MLX say it.
_OUT_OF_MEMORY: Final = (
    "out of memory",
    "out-of-memory",
    "out of device memory",
    "cudamalloc failed",
    "hipmalloc failed",
    "failed to allocate",
    "allocation failed",
    "not enough memory",
    "insufficient memory",
    "vk_error_out_of_device_memory",
    "erroroutofmemory",
    "requires more system memory",
    "gib are available",
)

_THERE: Final = (ResidencyState.RESIDENT, ResidencyState.DRAINING)

# One runner at one context size: a larger context may rightly have less of it in VRAM.
_Loaded = tuple[str, str, int]  # (backend, runner, num_ctx)


class _Sign(NamedTuple):
    """What speaks for pressure, if known: the load it stands for, and the figures behind it."""

    share: float
    detail: str
    value: float = 0.0
    limit: float = 0.0


def lacks_memory(problem: str) -> bool:
    """Do these words of a server say that there was not enough memory?"""
    lowered = problem.lower()
    return any(each in lowered for each in _OUT_OF_MEMORY)


def gpu_problem(reading: GpuReading | None, stale_ns: int, now_ns: int) -> str:
    """Why the sensor of the GPUs cannot be believed; "" where it can."""
    if reading is None:
        return "the GPUs' sensor has not answered yet"
    if problem := _memory_problem(reading):
        return problem
    age_ns = now_ns - reading.at_ns
    if age_ns > stale_ns:
        return f"the GPUs' sensor has been silent for {age_ns / 1e9:.0f} s"
    return ""


def _memory_problem(reading: GpuReading) -> str:
    """Why its figures of memory cannot be believed. A sensor may fail in other things."""
    is_told = reading.state is SensorState.FAILING and reading.gpus and reading.is_whole
    if reading.state is not SensorState.OK and not is_told:
        return reading.problem or f"the GPUs' sensor is {reading.state.value}"
    if not reading.gpus:
        return "there is no GPU"
    for each in reading.gpus:
        if each.memory_total_bytes <= 0 or each.memory_used_bytes < 0:
            return f"the figures of GPU {each.index} cannot be right"
        if each.memory_used_bytes > each.memory_total_bytes:
            return f"GPU {each.index} uses more memory than it has: that cannot be right"
    return ""


class GpuMemory:
    """What was heard of the GPUs, and what the backends' models have had of them at best."""

    __slots__ = ("_best", "_not_known", "_others", "_room_bytes", "reading")

    def __init__(self) -> None:
        self.reading: GpuReading | None = None
        self._others = Lasting()
        self._not_known = ""  # why not, where what others use is not known
        self._room_bytes = 0  # of our cards, at the last sample
        self._best: dict[_Loaded, float] = {}

    def sensed(
        self, reading: GpuReading, backends: Mapping[str, BackendState], settle_ns: int
    ) -> None:
        """A sample came. What of it is ours is told now, by what the backends hold now."""
        self.reading = reading
        if _memory_problem(reading):
            return
        local = local_of(backends)
        listed = _held_by_models(local)
        cards = _our_cards(reading.gpus, has_models=bool(listed))
        total_bytes = sum(each.memory_total_bytes for each in cards)
        used_bytes = sum(each.memory_used_bytes for each in cards)
        self._room_bytes = total_bytes - used_bytes
        told_bytes, unclear = held_by_processes(cards), ""
        if told_bytes:  # some of ours may be out of sight: the larger figure counts
            ours_bytes = max(told_bytes, sum(listed))
        else:  # nobody may ask, or the processes are in another world
            overhead_bytes = CONTEXT_OVERHEAD_BYTES * len(cards) * len(listed)
            ours_bytes = int(sum(listed) * (1 + UNTOLD_SHARE)) + overhead_bytes
            unclear = unclear_what_is_ours(local)
        use = Use(max(0, used_bytes - ours_bytes), total_bytes)
        self._not_known = unclear or f"not watched for {settle_ns / 1e9:.0f} s yet"
        if unclear:
            self._others.pause()
        else:
            self._others.add(use, reading.at_ns, settle_ns)

    def remember(self, backends: Mapping[str, BackendState]) -> None:
        """Keeps the best share in VRAM that each model has had; forgets what is gone, be it the
        model or the whole backend."""
        for backend in backends.values():
            for each in backend.residents.values():
                if each.state in _THERE and each.memory_bytes > 0:
                    loaded = (backend.name, each.runner, each.num_ctx)
                    self._best[loaded] = max(self._best.get(loaded, 0.0), _share(each))
        for name, runner, num_ctx in list(self._best):
            there = backends.get(name)
            if there is None or not (runner in there.by_runner or runner in there.residents):
                del self._best[name, runner, num_ctx]

    def part(self, backends: Mapping[str, BackendState], stale_ns: int, now_ns: int) -> LoadPart:
        """The best of the backends that are up; where none is, of all, so that a server which
        restarts changes nothing."""
        at_ns = self.reading.at_ns if self.reading else 0
        problem = gpu_problem(self.reading, stale_ns, now_ns)
        judged = [each for each in backends.values() if each.up] or list(backends.values())
        known = [
            (sign, backend.name)
            for backend in judged
            if (sign := self._worst(backend, problem, now_ns)) is not None
        ]
        if not known:
            has_local = any(each.policy.is_local for each in judged)
            problem = problem or self._not_known
            why = f"{problem}, and " if has_local and problem else ""
            return unknown(GPU_MEMORY, f"{why}no backend had a model on a GPU yet", at_ns)
        sign, name = min(known, key=lambda each: each[0].share)
        return LoadPart(
            name=GPU_MEMORY,
            share=sign.share,
            value=sign.value,
            limit=sign.limit,
            at_ns=at_ns if not problem else now_ns,
            detail=sign.detail if len(backends) == 1 else f"{sign.detail} (backend {name})",
        )

    def _worst(self, backend: BackendState, problem: str, now_ns: int) -> _Sign | None:
        """The worst sign of one backend; None where nothing speaks for or against it."""
        is_seen = backend.policy.is_local and not problem
        signs = [
            _used_by_others(self._others.least if is_seen else None),
            self._spilled(backend, self._room_bytes if is_seen else 0),
            _refused(backend, now_ns),
        ]
        return max((each for each in signs if each is not None), default=None)

    def _spilled(self, backend: BackendState, room_bytes: int) -> _Sign | None:
        """The model that has lost most of its share. Where the cards now have room for what it
        lost, it was short of memory once and is not any more."""
        best = {each: share for each, share in self._best.items() if each[0] == backend.name}
        if not any(best.values()):
            return None  # on no GPU, ever
        sign = _Sign(0.0, "every model has as much of itself on the GPU as ever")
        for each in backend.residents.values():
            had = best.get((backend.name, each.runner, each.num_ctx), 0.0)
            if each.state not in _THERE or not had or not each.memory_bytes:
                continue
            lost = 1.0 - _share(each) / had
            lost_bytes = lost * had * each.memory_bytes
            if lost <= SPILL_TOLERANCE or room_bytes >= lost_bytes:
                continue
            load = SPILLED_LOAD_MIN + (1.0 - SPILLED_LOAD_MIN) * lost
            detail = f"{each.model} has {_share(each):.0%} of itself on the GPU and had {had:.0%}"
            sign = max(sign, _Sign(load, detail, each.gpu_memory_bytes, had * each.memory_bytes))
        return sign


def _share(residency: Residency) -> float:
    return min(1.0, residency.gpu_memory_bytes / residency.memory_bytes)


def _used_by_others(others: Use | None) -> _Sign | None:
    if others is None:
        return None
    return _Sign(others.share, f"{of_total(*others)} are used by others", *others)


def _refused(backend: BackendState, now_ns: int) -> _Sign | None:
    """Only of what has been there before: memory is short of what it was then. What never was may
    be too large for this server whatever is free: that is no load, and no reason to stop others."""
    for runner, why in backend.held_because.items():
        is_held = runner in backend.ever_loaded and backend.holds_off(runner, now_ns)
        if is_held and lacks_memory(why):
            spec = backend.by_runner.get(runner)
            name = spec.name if spec else runner
            return _Sign(REFUSED_LOAD, f"{name} was not loaded for lack of memory", 1.0, 1.0)
    return None


def _our_cards(gpus: Sequence[GpuSample], *, has_models: bool) -> Sequence[GpuSample]:
    """See the module."""
    ours = [gpu for gpu in gpus if any(each.is_ours for each in gpu.processes or ())]
    if ours or has_models:
        return ours or gpus
    return [max(gpus, key=lambda each: each.memory_total_bytes - each.memory_used_bytes)]


def held_by_processes(gpus: Collection[GpuSample]) -> int | None:
    """What processes of ours hold; None where a card does not tell, or not of all of them."""
    held_bytes = 0
    for gpu in gpus:
        if gpu.processes is None:
            return None
        for process in gpu.processes:
            if process.is_ours and process.memory_bytes is None:
                return None
            held_bytes += (process.memory_bytes or 0) if process.is_ours else 0
    return held_bytes


def _held_by_models(local: Collection[BackendState]) -> list[int]:
    """What each model of these servers holds on cards, as they say."""
    return [
        each.gpu_memory_bytes
        for backend in local
        for each in backend.residents.values()
        if each.gpu_memory_bytes
    ]
