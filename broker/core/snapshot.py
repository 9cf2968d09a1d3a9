"""A frozen picture of the engine, for status, metrics and views. Reading changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from broker.core.announcements import wait_reason
from broker.core.effects import WaitReason
from broker.core.engine import Engine
from broker.core.healing import Health
from broker.core.lifecycle import WAITS, State
from broker.core.placement import BackendState
from broker.core.preloads import PreloadsView
from broker.core.requests import Outcome, RequestKey
from broker.core.residency import ResidencyState
from broker.core.tally import BoundTally, PriorityTally
from broker.core.vanishings import losses_lately
from broker.core.views import BreakerView, EstimatesView, PreemptionView


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyView:
    """A model that occupies a backend."""

    model: str
    runner: str
    state: ResidencyState
    managed: bool
    slots: int
    running: int
    queued: int
    num_ctx: int
    memory_bytes: int
    gpu_memory_bytes: int
    expires_unix_s: float | None = None  # when the backend lets it go, as it last said


@dataclass(frozen=True, slots=True, kw_only=True)
class SickView:
    """A model that could not be loaded, and when that is tried again."""

    model: str
    retry_ns: int  # of the engine's clock
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendView:
    """A backend, whether it answers, and what it holds."""

    name: str
    up: bool
    problem: str
    residents: tuple[ResidencyView, ...]
    loads: int
    loads_failed: int
    load_ns_sum: int
    weight: float = 1.0
    tags: tuple[str, ...] = ()
    is_draining: bool = False  # told so by an operator, or taken out of the configuration
    health: Health = Health.WELL
    evidence: str = ""  # why it is not well, in words
    running: int = 0  # slots held
    sick: tuple[SickView, ...] = ()
    breakers: tuple[BreakerView, ...] = ()
    retries: int = 0  # attempts that were repeated, since start
    retries_left: float = 0.0
    restarts: int = 0  # by the operator's command, since start
    loads_ahead: int = 0  # beside one that left after them, since start
    drains_given_up: int = 0  # since start
    memory_held: int = 0  # unloads whose memory was not seen to come back, since start
    vanished: int = 0  # models of ours that nobody here told to leave, since start
    vanished_lately: int = 0  # how often that was within the last five minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """A request under way. `started_ns` is 0 while it waits."""

    key: RequestKey
    model: str
    priority: int
    compartment: str  # "" where no bulkhead limits it
    state: State
    arrived_ns: int
    started_ns: int
    backend: str
    wait_reason: WaitReason | None
    wait_detail: str
    substitute: str = ""  # the model that answers, where another one does


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadView:
    """A compartment with a limit."""

    name: str
    running: int
    running_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment of the engine's clock."""

    at_ns: int
    draining: bool
    queued: int
    queued_max: int
    running: int
    standing: int  # in the waiting room
    standing_max: int
    agents: int  # remembered
    paused: tuple[str, ...]  # whom operators have paused, in words
    bulkheads: tuple[BulkheadView, ...]
    outcomes: Mapping[Outcome, int]
    refusals: Mapping[str, int]  # by reason
    slow_downs: int  # requests that were taken, with the word to send less
    soft_deadlines: Mapping[bool, int]  # by whether they were met
    priorities: Mapping[int, PriorityTally]
    estimates: EstimatesView
    bounds: BoundTally
    preemptions: PreemptionView
    preloads: PreloadsView
    backends: tuple[BackendView, ...]
    requests: tuple[RequestView, ...]


def take_snapshot(engine: Engine, now_ns: int, *, requests_max: int = 0) -> Snapshot:
    """The present state, with the oldest `requests_max` requests that are under way."""
    return Snapshot(
        at_ns=now_ns,
        draining=engine.draining,
        queued=engine.tally.queued,
        queued_max=engine.policy.queue.queued_max,
        running=engine.tally.running,
        standing=len(engine.room),
        standing_max=engine.policy.queue.room_max,
        agents=len(engine.agents),
        paused=engine.agents.paused(),
        bulkheads=tuple(
            BulkheadView(name=name, running=running, running_max=limit)
            for name, running, limit in engine.bulkheads.limited()
        ),
        outcomes=dict(engine.tally.outcomes),
        refusals=dict(engine.tally.refusals),
        slow_downs=engine.tally.slow_downs,
        soft_deadlines=dict(engine.tally.soft_deadlines),
        priorities={
            priority: replace(row) for priority, row in sorted(engine.tally.priorities.items())
        },
        estimates=_estimates_view(engine),
        bounds=replace(engine.tally.bounds),
        preemptions=_preemption_view(engine, now_ns),
        preloads=engine.preloads.view(),
        backends=tuple(_backend_views(engine, now_ns)),
        requests=tuple(_request_views(engine, requests_max, now_ns)),
    )


def _estimates_view(engine: Engine) -> EstimatesView:
    waits = engine.waits
    judged, inside = waits.lately
    return EstimatesView(
        judged=judged,
        inside=inside,
        inside_ever=waits.inside,
        outside_ever=waits.judged - waits.inside,
        left_before_ever=waits.left_before,
    )


def _preemption_view(engine: Engine, now_ns: int) -> PreemptionView:
    preemptions = engine.preemptions
    return PreemptionView(
        count=preemptions.count,
        wasted_ns=preemptions.wasted_ns,
        left_ns=max(0.0, preemptions.left_ns(now_ns)),
    )


def _backend_views(engine: Engine, now_ns: int) -> list[BackendView]:
    queued: dict[str, int] = {}
    for (runner, _), line in engine.lines.items():
        queued[runner] = queued.get(runner, 0) + line.size
    return [
        BackendView(
            name=backend.name,
            up=backend.up,
            problem=backend.problem,
            residents=tuple(
                ResidencyView(
                    model=each.model,
                    runner=each.runner,
                    state=each.state,
                    managed=each.managed,
                    slots=each.slots,
                    running=each.running,
                    queued=queued.get(each.runner, 0),
                    num_ctx=each.num_ctx,
                    memory_bytes=each.memory_bytes,
                    gpu_memory_bytes=each.gpu_memory_bytes,
                    expires_unix_s=each.expires_unix_s,
                )
                for each in backend.residents.values()
            ),
            loads=backend.loads,
            loads_failed=backend.loads_failed,
            load_ns_sum=backend.load_ns_sum,
            weight=backend.policy.weight,
            tags=tuple(sorted(backend.policy.tags)),
            is_draining=backend.is_draining or backend.is_leaving,
            health=backend.health,
            evidence=backend.evidence,
            running=sum(each.running for each in backend.residents.values()),
            sick=tuple(_sick_views(backend)),
            breakers=engine.breakers.views(backend),
            retries=backend.retries,
            retries_left=engine.retries.left(backend.name),
            restarts=backend.restarts_made,
            loads_ahead=backend.loads_ahead,
            drains_given_up=backend.drains_given_up,
            memory_held=backend.memory_held,
            vanished=backend.vanished,
            vanished_lately=losses_lately(backend, now_ns),
        )
        for backend in engine.backends.values()
    ]


def _sick_views(backend: BackendState) -> Iterator[SickView]:
    for runner, until_ns in backend.held_until_ns.items():
        spec = backend.by_runner.get(runner)
        why = backend.held_because.get(runner, "")
        yield SickView(model=spec.name if spec else runner, retry_ns=until_ns, why=why)


def _request_views(engine: Engine, requests_max: int, now_ns: int) -> list[RequestView]:
    views = []
    for record in islice(engine.records.values(), requests_max):
        reason: WaitReason | None = None
        detail = ""
        if record.state in WAITS:
            reason, detail = wait_reason(record, engine.backends, engine.backlog, now_ns)
        attempt = record.attempt
        views.append(
            RequestView(
                key=record.spec.key,
                model=record.spec.model,
                priority=record.priority,
                compartment=engine.bulkheads.name(record.compartment),
                state=record.state,
                arrived_ns=record.arrived_ns,
                started_ns=attempt.started_ns if attempt else 0,
                backend=attempt.backend if attempt else "",
                wait_reason=reason,
                wait_detail=detail,
                substitute=record.model if record.substituted_for else "",
            )
        )
    return views
