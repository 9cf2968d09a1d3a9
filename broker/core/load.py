"""The load: what is asked of the machine, part by part, each over its own limit.

Models and the work on them are the plan, not pressure: what they hold is taken out of both sides
before anything is judged. What is not known is None with the reason in words, and counts for
nothing; a sensor that is silent for too long is not believed. The parts of this host are in
`host_load.py` and `gpu_load.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from broker.core.backlog import Backlog
from broker.core.estimates import Estimates
from broker.core.placement import BackendState
from broker.core.residency import ResidencyState
from broker.core.views import LoadPart

QUEUE: Final = "queue"
WAIT: Final = "wait"
HOST_MEMORY: Final = "host_memory"
CPU: Final = "cpu"
GPU_MEMORY: Final = "gpu_memory"

# What no queue makes and no refusal cures: where one of these is the cause, an idle slot stays so.
MEMORY_PARTS: Final = frozenset({HOST_MEMORY, GPU_MEMORY})

NOTHING_LOCAL: Final = "no backend runs on this host, so its sensors say nothing of them"

_GB: Final = 1e9
_SERVES: Final = (ResidencyState.LOADING, ResidencyState.RESIDENT)


def unknown(name: str, detail: str, at_ns: int = 0) -> LoadPart:
    """A part that nobody can tell; `detail` says why."""
    return LoadPart(name=name, share=None, detail=detail, at_ns=at_ns)


def worst_of(parts: Iterable[LoadPart]) -> LoadPart | None:
    """The part that decides; None where none is known."""
    known = [each for each in parts if each.share is not None]
    return max(known, key=lambda each: each.share or 0.0, default=None)


def of_total(value_bytes: float, limit_bytes: float) -> str:
    """ "13.1 GB of 16.0 GB": in 10^9 bytes, as cards are sold."""
    return f"{value_bytes / _GB:.1f} GB of {limit_bytes / _GB:.1f} GB"


def local_of(backends: Mapping[str, BackendState]) -> list[BackendState]:
    """Those that this host's sensors speak of."""
    return [each for each in backends.values() if each.policy.is_local]


def unclear_what_is_ours(local: Iterable[BackendState]) -> str:
    """Why what these servers say does not tell now how much memory their models hold; "" where it
    does. For where no process of theirs is seen."""
    for backend in local:
        if not backend.is_listed:
            return f"backend {backend.name} has not told yet which models it holds"
        if backend.is_switching:
            return f"backend {backend.name} is changing models"
    return ""


# What waits


def queue_part(let_run: int, queued_max: int, now_ns: int) -> LoadPart:
    """What waits and may run, over what may wait."""
    return LoadPart(
        name=QUEUE,
        share=let_run / queued_max,
        value=let_run,
        limit=queued_max,
        at_ns=now_ns,
        detail=f"{let_run} of at most {queued_max} wait",
    )


def wait_part(
    backlog: Backlog,
    backends: Mapping[str, BackendState],
    estimates: Estimates,
    target_ns: int,
    now_ns: int,
) -> LoadPart:
    """How long what came last and may run would wait, by what was measured, over the target.

    Models that are there work side by side, so the longest counts; the others take turns after
    that, each with its load. Models that were not measured often enough make it a lower bound;
    where nothing was measured of any that waits it is unknown.
    """
    waiting: dict[str, int] = {}
    for (runner, _), line in backlog.lines.items():
        waiting[runner] = waiting.get(runner, 0) + backlog.let_run_in(line)
    side_by_side_ns = turns_ns = 0.0
    counted = unmeasured = 0
    for runner, count in waiting.items():
        slots, is_there = _slots(runner, backends.values())
        service_ns = estimates.service_ns(runner)
        if not count:
            continue
        if service_ns is None or not slots:
            unmeasured += 1
            continue
        counted += 1
        wait_ns = count * service_ns / slots
        if is_there:
            side_by_side_ns = max(side_by_side_ns, wait_ns)
        else:
            turns_ns += wait_ns + (estimates.load_ns(runner) or 0.0)
    if unmeasured and not counted:
        return unknown(WAIT, "too few requests were measured, or no backend is up for them", now_ns)
    wait_ns = side_by_side_ns + turns_ns
    at_least = "at least " if unmeasured else ""
    return LoadPart(
        name=WAIT,
        share=wait_ns / target_ns,
        value=wait_ns,
        limit=target_ns,
        at_ns=now_ns,
        detail=f"{at_least}{wait_ns / 1e9:.0f} s until all that waits has its turn, "
        f"of {target_ns / 1e9:.0f} s",
    )


def _slots(runner: str, backends: Iterable[BackendState]) -> tuple[int, bool]:
    """(slots that this runner has, or would have, where it can run; is it there now?)"""
    slots, is_there = 0, False
    for backend in backends:
        spec = backend.by_runner.get(runner)
        if spec is None or not backend.up:
            continue
        resident = backend.residents.get(runner)
        if resident is not None and resident.state in _SERVES:
            is_there = True
            slots += resident.slots
        else:
            slots += spec.slots
    return slots, is_there
