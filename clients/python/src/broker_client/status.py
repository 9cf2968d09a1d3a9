"""The broker's present state, for whoever runs the box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker_client.backend_status import BackendStatus, backend_of
from broker_client.events import word_of
from broker_client.machine import (
    GpuStatus,
    HostStatus,
    LevelStatus,
    SensorStatus,
    gpu_of,
    host_of,
    level_status_of,
    level_word,
    sensor_of,
)
from broker_client.models_status import (
    ModelListStatus,
    PreloadStatus,
    model_list_status_of,
    preload_status_of,
)
from broker_client.pb.broker.v1 import admin_pb2, common_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStatus:
    """Some waits in milliseconds: how many, what half and what 99 of 100 of them did not pass."""

    count: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionStatus:
    """Calls set aside for urgent work since start, and seconds of slots: lost, and left to lose."""

    count: int
    wasted_s: float
    left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateStatus:
    """Of how many requests it is known lately whether they started within the interval that they
    were told first, and how many did; four of five are to."""

    judged: int
    inside: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityStatus:
    """The work of one priority; mean and longest wait in milliseconds are over those started since
    start, `queue_wait` over the last ones."""

    priority: int
    queued: int
    running: int
    ended: int
    queue_wait_ms_mean: float
    queue_wait_ms_max: float
    queue_wait: WaitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStatus:
    """One request; `state` is "admitted" (in the room before the full queue), "queued",
    "dispatched", "streaming" or "cancelling". `tokens_per_s` counts from its first token,
    `substitute` is the model that answers where another one does."""

    request_id: str
    agent_id: str
    model: str
    priority: int
    state: str
    age_ms: float
    tokens: int
    backend: str
    wait_reason: str
    wait_detail: str
    compartment: str
    tokens_per_s: float
    substitute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadStatus:
    """A compartment that has a limit, and how many of its requests run."""

    compartment: str
    running: int
    running_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWork:
    """An agent that has requests under way."""

    agent_id: str
    agent_type: str
    queued: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert that fires since `since_ms` milliseconds; `severity` is "warning" or "critical",
    `runbook` says what to do."""

    name: str
    severity: str
    summary: str
    runbook: str
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The present state.

    `outcomes` counts ended requests since start by how they ended, `refusals` those refused by
    reason. `standing` are in the waiting room before the full queue, `agents` are remembered,
    `paused` says in words whom operators have paused. `level_status` says why the level is what it
    is; `gpus`, `host` and `sensors` are of the broker's host. `queue_wait` and `first_token` are of
    the last requests over all priorities; `agents_working` has those with most work first.
    """

    version: str
    uptime_s: float
    draining: bool
    level: str
    queued: int
    queued_max: int
    running: int
    standing: int
    standing_max: int
    agents: int
    paused: tuple[str, ...]
    bulkheads: tuple[BulkheadStatus, ...]
    outcomes: Mapping[str, int]
    refusals: Mapping[str, int]
    priorities: tuple[PriorityStatus, ...]
    backends: tuple[BackendStatus, ...]
    requests: tuple[RequestStatus, ...]
    level_status: LevelStatus
    gpus: tuple[GpuStatus, ...]
    host: HostStatus | None
    sensors: tuple[SensorStatus, ...]
    alerts: tuple[Alert, ...]
    queue_wait: WaitStatus
    first_token: WaitStatus
    agents_working: tuple[AgentWork, ...]
    tokens_per_s: float
    wait_estimates: EstimateStatus
    preemptions: PreemptionStatus
    preloads: PreloadStatus
    model_list: ModelListStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Leaving has begun: what still waits and runs, and the milliseconds it has. Of one backend:
    what waits that no other backend could do, and 0 for as long as it takes."""

    queued: int
    running: int
    timeout_ms: int


def status_of(message: admin_pb2.GetStatusResponse) -> Status:
    """The wire's answer, typed."""
    lost = message.preemptions
    return Status(
        version=message.version,
        uptime_s=message.uptime_s,
        draining=message.draining,
        level=level_word(message.level),
        queued=message.queued,
        queued_max=message.queued_max,
        running=message.running,
        standing=message.standing,
        standing_max=message.standing_max,
        agents=message.agents,
        paused=tuple(message.paused),
        bulkheads=tuple(bulkhead_of(each) for each in message.bulkheads),
        outcomes={each.outcome: each.count for each in message.outcomes},
        refusals={each.reason: each.count for each in message.refusals},
        priorities=tuple(priority_of(each) for each in message.priorities),
        backends=tuple(backend_of(each) for each in message.backends),
        requests=tuple(request_of(each) for each in message.requests),
        level_status=level_status_of(message.level_status),
        gpus=tuple(gpu_of(each) for each in message.gpus),
        host=host_of(message.host) if message.HasField("host") else None,
        sensors=tuple(sensor_of(each) for each in message.sensors),
        alerts=tuple(alert_of(each) for each in message.alerts),
        queue_wait=wait_of(message.queue_wait),
        first_token=wait_of(message.first_token),
        agents_working=tuple(work_of(each) for each in message.agents_working),
        tokens_per_s=message.tokens_per_s,
        wait_estimates=EstimateStatus(
            judged=message.wait_estimates.judged, inside=message.wait_estimates.inside
        ),
        preemptions=PreemptionStatus(count=lost.count, wasted_s=lost.wasted_s, left_s=lost.left_s),
        preloads=preload_status_of(message.preloads),
        model_list=model_list_status_of(message.model_list),
    )


def wait_of(message: admin_pb2.WaitStatus) -> WaitStatus:
    """The wire's waits, typed."""
    return WaitStatus(count=message.count, p50_ms=message.p50_ms, p99_ms=message.p99_ms)


def work_of(message: admin_pb2.AgentWork) -> AgentWork:
    """The wire's agent, typed."""
    return AgentWork(
        agent_id=message.agent_id,
        agent_type=message.agent_type,
        queued=message.queued,
        running=message.running,
    )


def alert_of(message: admin_pb2.Alert) -> Alert:
    """The wire's alert, typed."""
    return Alert(
        name=message.name,
        severity=message.severity,
        summary=message.summary,
        runbook=message.runbook,
        since_ms=message.since_ms,
    )


def priority_of(message: admin_pb2.PriorityStatus) -> PriorityStatus:
    """The wire's priority, typed."""
    return PriorityStatus(
        priority=message.priority,
        queued=message.queued,
        running=message.running,
        ended=message.ended,
        queue_wait_ms_mean=message.queue_wait_ms_mean,
        queue_wait_ms_max=message.queue_wait_ms_max,
        queue_wait=wait_of(message.queue_wait),
    )


def bulkhead_of(message: admin_pb2.BulkheadStatus) -> BulkheadStatus:
    """The wire's bulkhead, typed."""
    return BulkheadStatus(
        compartment=message.compartment,
        running=message.running,
        running_max=message.running_max,
    )


def request_of(message: admin_pb2.RequestStatus) -> RequestStatus:
    """The wire's request, typed."""
    return RequestStatus(
        request_id=message.request_id,
        agent_id=message.agent_id,
        model=message.model,
        priority=message.priority,
        state=message.state,
        age_ms=message.age_ms,
        tokens=message.tokens,
        backend=message.backend,
        wait_reason=word_of(common_pb2.WaitReason.DESCRIPTOR, message.wait_reason, "WAIT_REASON_"),
        wait_detail=message.wait_detail,
        compartment=message.compartment,
        tokens_per_s=message.tokens_per_s,
        substitute=message.substitute,
    )


def drain_of(message: admin_pb2.DrainResponse) -> Drain:
    """The wire's answer, typed."""
    return Drain(queued=message.queued, running=message.running, timeout_ms=message.timeout_ms)
