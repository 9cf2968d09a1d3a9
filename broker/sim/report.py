"""The figures of a played workload, for people and for programs.

Rules: waits are from asking until the last try was started; who left without having been started
waited until then; who was refused did not wait. Percentiles are the nearest rank, of those that
have the figure; None where nobody has. Times are seconds, rounded to the millisecond.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from broker.core.requests import Outcome
from broker.sim.fleet import Job
from broker.sim.recording import Stretch, StretchKind
from broker.sim.sessions import SECOND_NS
from broker.sim.simulation import Played
from broker.sim.workload_sites import Backend

IN_TIME: Final = "in time"
GAVE_UP: Final = "gave up"
REFUSED: Final = "refused"
FAILED: Final = "failed"
_HOW: Final = {
    Outcome.COMPLETED: IN_TIME,
    Outcome.CANCELLED: GAVE_UP,
    Outcome.EXPIRED: GAVE_UP,
    Outcome.REFUSED: REFUSED,
    Outcome.DISPLACED: REFUSED,
    Outcome.SHED: REFUSED,
    Outcome.FAILED: FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some of the requests. `in_time`: answered before the deadline. `gave_up`: their agents left,
    or the deadline passed. `refused`: at the door, or given up for others."""

    name: str
    requests: int
    in_time: int
    gave_up: int
    refused: int
    failed: int
    wait: Spread
    first_token: Spread  # from asking, of those that got one
    service: Spread  # from the start until the answer was complete


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFigures:
    """`residents`: the most models that it held at once. `loading_share`: of the time.
    `busy_share`: of the slots that loaded models had, while they were loaded."""

    name: str
    slots: int
    residents: int
    loads: int
    loading_share: float
    busy_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`span_s`: from the first request until all had ended. `stretched_by`: what arrivals were
    moved apart by, to come to the wanted rho."""

    name: str
    seed: int
    span_s: float
    stretched_by: float
    all: Group
    by_priority: tuple[Group, ...]
    by_model: tuple[Group, ...]
    by_agents: tuple[Group, ...]
    backends: tuple[BackendFigures, ...]
    loads: int
    loads_failed: int
    assumed: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def report_of(played: Played, name: str) -> Report:
    jobs = played.jobs
    begun_ns = min((each.asked_ns for each in jobs), default=0)
    span_ns = max(1, played.ended_ns - begun_ns)
    backends = tuple(_backend(each, played, begun_ns, span_ns) for each in played.backends)
    return Report(
        name=name,
        seed=played.seed,
        span_s=_seconds(span_ns),
        stretched_by=round(played.factor, 6),
        all=group_of("all", jobs),
        by_priority=_groups(jobs, lambda job: job.session.priority),
        by_model=_groups(jobs, lambda job: job.model),
        by_agents=_groups(jobs, lambda job: job.session.agents.name),
        backends=backends,
        loads=sum(each.loads for each in backends),
        loads_failed=played.loads_failed,
        assumed=played.assumed,
    )


def how(job: Job) -> str:
    """How a request ended, in one of four words."""
    outcome = job.last.outcome
    if outcome is None:
        raise ValueError(f"{job.last.task.key} has not ended")
    return _HOW[outcome]


def wait_ns(job: Job) -> int | None:
    """See the module; None for who was refused."""
    if how(job) == REFUSED:
        return None
    return (job.last.started_ns or job.last.ended_ns) - job.asked_ns


def group_of(name: str, jobs: Sequence[Job]) -> Group:
    ways = [how(each) for each in jobs]
    last = [each.last for each in jobs]
    return Group(
        name=name,
        requests=len(jobs),
        in_time=ways.count(IN_TIME),
        gave_up=ways.count(GAVE_UP),
        refused=ways.count(REFUSED),
        failed=ways.count(FAILED),
        wait=spread_of(each for job in jobs if (each := wait_ns(job)) is not None),
        first_token=spread_of(
            job.last.first_token_ns - job.asked_ns for job in jobs if job.last.first_token_ns
        ),
        service=spread_of(
            each.ended_ns - each.started_ns
            for each in last
            if each.outcome is Outcome.COMPLETED and each.started_ns
        ),
    )


def spread_of(times_ns: Iterable[int]) -> Spread:
    ordered = sorted(times_ns)
    if not ordered:
        return Spread(p50_s=None, p90_s=None, p99_s=None)

    def rank(share: float) -> float:
        return _seconds(ordered[max(0, math.ceil(share * len(ordered)) - 1)])

    return Spread(p50_s=rank(0.5), p90_s=rank(0.9), p99_s=rank(0.99))


def _groups(jobs: Sequence[Job], key: Callable[[Job], Hashable]) -> tuple[Group, ...]:
    found: dict[Any, list[Job]] = defaultdict(list)
    for each in jobs:
        found[key(each)].append(each)
    return tuple(group_of(str(name), found[name]) for name in sorted(found))


def _backend(backend: Backend, played: Played, begun_ns: int, span_ns: int) -> BackendFigures:
    mine = [each for each in played.stretches if each.backend == backend.name]
    loads = [each for each in mine if each.kind is StretchKind.LOADING]
    runs = [each for each in mine if each.kind is StretchKind.RUNNING]
    held = [each for each in mine if each.kind is StretchKind.RESIDENT]
    slots_ns = sum(each.length_ns() * backend.slots_for(each.model) for each in held)
    return BackendFigures(
        name=backend.name,
        slots=backend.slots,
        residents=max((each.lane + 1 for each in held), default=0),
        loads=len(loads),
        loading_share=round(_sum_ns(loads, begun_ns) / span_ns, 4),
        busy_share=round(_sum_ns(runs, begun_ns) / max(1, slots_ns), 4),
    )


def _sum_ns(stretches: Iterable[Stretch], begun_ns: int) -> int:
    return sum(each.length_ns() for each in stretches if each.begin_ns >= begun_ns)


def _seconds(time_ns: int) -> float:
    return round(time_ns / SECOND_NS, 3)
