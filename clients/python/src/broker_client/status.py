"""The broker's present state, for whoever runs the box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker_client.catalogue import ModelPlace, place_of
from broker_client.events import word_of
from broker_client.pb.broker.v1 import admin_pb2, common_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityStatus:
    """The work of one priority; waits in milliseconds, over those started since start."""

    priority: int
    queued: int
    running: int
    ended: int
    queue_wait_ms_mean: float
    queue_wait_ms_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendModel:
    """A model that occupies a backend, and how many requests wait for it."""

    name: str
    place: ModelPlace
    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """One server behind the broker; `problem` says why it is not up."""

    name: str
    kind: str
    url: str
    up: bool
    problem: str
    version: str
    models: tuple[BackendModel, ...]
    loads: int
    loads_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStatus:
    """One request; `state` is "admitted" (in the room before the full queue), "queued",
    "dispatched", "streaming" or "cancelling"."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadStatus:
    """A compartment that has a limit, and how many of its requests run."""

    compartment: str
    running: int
    running_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The present state.

    `outcomes` counts ended requests since start by how they ended, `refusals` those refused by
    reason. `standing` are in the waiting room before the full queue, `agents` are remembered,
    `paused` says in words whom operators have paused.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Leaving has begun: what still waits and runs, and the milliseconds it has."""

    queued: int
    running: int
    timeout_ms: int


def status_of(message: admin_pb2.GetStatusResponse) -> Status:
    """The wire's answer, typed."""
    return Status(
        version=message.version,
        uptime_s=message.uptime_s,
        draining=message.draining,
        level=word_of(common_pb2.DegradationLevel.DESCRIPTOR, message.level, "DEGRADATION_LEVEL_"),
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
    )


def bulkhead_of(message: admin_pb2.BulkheadStatus) -> BulkheadStatus:
    """The wire's bulkhead, typed."""
    return BulkheadStatus(
        compartment=message.compartment,
        running=message.running,
        running_max=message.running_max,
    )


def backend_of(message: admin_pb2.BackendStatus) -> BackendStatus:
    """The wire's backend, typed."""
    return BackendStatus(
        name=message.name,
        kind=message.kind,
        url=message.url,
        up=message.up,
        problem=message.problem,
        version=message.version,
        models=tuple(
            BackendModel(name=each.name, place=place_of(each.place), queued=each.queued)
            for each in message.models
        ),
        loads=message.loads,
        loads_failed=message.loads_failed,
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
    )


def drain_of(message: admin_pb2.DrainResponse) -> Drain:
    """The wire's answer, typed."""
    return Drain(queued=message.queued, running=message.running, timeout_ms=message.timeout_ms)
