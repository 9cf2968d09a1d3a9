"""Every way in which the broker says no, in one hierarchy.

Each class states its stable `reason` (the name in proto/broker/v1/reasons.proto without its
prefix), whether trying again may help, and the sentence that a person reads. The status code of the
wire is mapped from the class in one place, `broker/api/grpc/status.py`. `InvariantBroken` stands
apart: it is our bug, not their error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broker.core.time_outs import Phase


class InvariantBroken(Exception):
    """A rule of the core does not hold: a bug of the broker."""


class BrokerError(Exception):
    """A request that did not succeed, and why."""

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    # Did we cut the call off? Then the backend may still compute, and its slot is not free at once.
    leaves_work: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ns: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ns = retry_after_ns


class Internal(BrokerError):
    """A fault of the broker itself."""

    leaves_work = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One field that is wrong: its path in the request, and the limit that it breaks."""

    field: str
    problem: str


class InvalidRequest(BrokerError):
    """Fields of the request are missing, malformed or beyond their limits; all are named."""

    reason = "INVALID_FIELD"

    def __init__(self, problems: tuple[FieldProblem, ...]) -> None:
        super().__init__("; ".join(f"{each.field}: {each.problem}" for each in problems))
        self.problems = problems


class AgentUnknown(InvalidRequest):
    """The configuration knows no type for this agent_id and has no default."""

    reason = "AGENT_UNKNOWN"


class ModelUnknown(BrokerError):
    """No backend has this model, or `backend` has not, where that one was asked for. `nearest`
    holds up to three names that it may have meant."""

    reason = "MODEL_UNKNOWN"

    def __init__(self, model: str, nearest: tuple[str, ...], backend: str = "") -> None:
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        where = f"not on {backend}" if backend else "on no backend"
        super().__init__(f"model {model!r} is {where}{hint}")
        self.model = model
        self.nearest = nearest


class CapabilityMissing(BrokerError):
    """The model cannot do what the request needs. `nearest` holds up to three that can."""

    reason = "CAPABILITY_MISSING"

    def __init__(self, problem: str, nearest: tuple[str, ...] = ()) -> None:
        hint = f"; nearest that can: {', '.join(nearest)}" if nearest else ""
        super().__init__(f"{problem}{hint}")
        self.problem = problem
        self.nearest = nearest


class RequestIdInUse(BrokerError):
    """A request with this id and other content is under way."""

    reason = "REQUEST_ID_IN_USE"


class TakenOver(BrokerError):
    """A newer call with the same id and content carries on with this request."""

    reason = "TAKEN_OVER"


class RequestUnknown(BrokerError):
    """No request of that agent and id is under way."""

    reason = "REQUEST_UNKNOWN"


class Unavailable(BrokerError):
    """The broker is short for everybody; trying again later may help."""

    retryable = True


class QueueFull(Unavailable):
    """As many requests wait as may."""

    reason = "QUEUE_FULL"


class NoBackend(Unavailable):
    """No backend that has the model answers."""

    reason = "NO_BACKEND"


class Draining(Unavailable):
    """The broker is leaving."""

    reason = "DRAINING"


class LoadFailed(Unavailable):
    """The model could not be loaded; it is not tried again for a while."""

    reason = "LOAD_FAILED"


class LoadHung(LoadFailed):
    """The load was given up, as it had said nothing for so long."""


class Displaced(Unavailable):
    """It waited, and gave its place to the request of an agent with a smaller backlog."""

    reason = "DISPLACED"


class DeadlineInfeasible(Unavailable):
    """By what was measured, the deadline would pass while the agent's own earlier requests run, or
    its model, which others want too, is loaded."""

    reason = "DEADLINE_INFEASIBLE"


class BrokerRateLimited(Unavailable):
    """All agents together send more than the configuration lets in."""

    reason = "BROKER_RATE_LIMITED"


class Degraded(Unavailable):
    """At this level the machine cannot bear work that is not critical."""

    reason = "DEGRADED"


class SmallModelsOnly(Unavailable):
    """At this level only small models run, and none of them may or can answer this request."""

    reason = "SMALL_MODELS_ONLY"


class SubscribersFull(Unavailable):
    """As many subscribers listen as may."""

    reason = "SUBSCRIBERS_FULL"


class CircuitOpen(Unavailable):
    """Calls of this model have failed too often lately; nothing is sent before a while."""

    reason = "CIRCUIT_OPEN"


class PullsFull(Unavailable):
    """As many downloads wait as may."""

    reason = "PULLS_FULL"


class NoRoom(Unavailable):
    """There is no room for the model beside those that are to stay."""

    reason = "NO_ROOM"


class ModelChangeDenied(BrokerError):
    """The configuration does not let this agent change models."""

    reason = "MODEL_CHANGE_DENIED"


class PullFailed(BrokerError):
    """A model could not be downloaded. `is_final`: trying again will not help."""

    reason = "PULL_FAILED"

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class DiskFull(BrokerError):
    """There is not the disk for the model."""

    reason = "DISK_FULL"


class PullNotFound(BrokerError):
    """No download of this model waits or runs."""

    reason = "PULL_NOT_FOUND"


class ModelInUse(BrokerError):
    """Requests for the model wait or run, others are built on it, or somebody else loaded it."""

    reason = "MODEL_IN_USE"


class QuotaExceeded(BrokerError):
    """The caller's own share is used up; it says when more comes."""

    reason = "RATE_LIMITED"
    retryable = True


class TypeRateLimited(QuotaExceeded):
    """The agents of the caller's type together send more than their bucket lets in."""

    reason = "TYPE_RATE_LIMITED"


class TokenQuotaExceeded(QuotaExceeded):
    """The model tokens of the caller, or of its type, are used up for now."""

    reason = "TOKENS_EXHAUSTED"


class AgentQueueFull(QuotaExceeded):
    """As many requests of this agent wait as may."""

    reason = "AGENT_QUEUE_FULL"


class AgentSubscribersFull(QuotaExceeded):
    """As many subscribers of this agent listen as may."""

    reason = "AGENT_SUBSCRIBERS_FULL"


class CallsFull(QuotaExceeded):
    """As many calls of this agent, or of this connection, are open as may."""

    reason = "CALLS_FULL"


class CallRateLimited(QuotaExceeded):
    """This connection sends calls faster than may be."""

    reason = "CALL_RATE_LIMITED"


class PublishRateLimited(QuotaExceeded):
    """The agent publishes more than its rate lets in."""

    reason = "PUBLISH_RATE_LIMITED"


class TopicReserved(BrokerError):
    """The broker alone writes this topic."""

    reason = "TOPIC_RESERVED"


class AgentBlocked(BrokerError):
    """An operator blocked this agent."""

    reason = "AGENT_BLOCKED"


class AgentNotFound(BrokerError):
    """The broker remembers no such agent. `nearest` holds up to three that may be meant."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self, agent_id: str, nearest: tuple[str, ...]) -> None:
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        super().__init__(f"agent {agent_id!r} has sent nothing lately{hint}")
        self.agent_id = agent_id
        self.nearest = nearest


class BackendNotFound(BrokerError):
    """The configuration knows no backend of this name. `nearest` holds up to three that may be
    meant."""

    reason = "BACKEND_NOT_FOUND"

    def __init__(self, backend: str, nearest: tuple[str, ...]) -> None:
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        super().__init__(f"there is no backend {backend!r}{hint}")
        self.backend = backend
        self.nearest = nearest


class TimedOut(BrokerError):
    """A phase of the request took longer than its time-out; `phase` says which."""

    reason = "TIMED_OUT"

    def __init__(self, message: str, phase: Phase) -> None:
        super().__init__(message)
        self.phase = phase


class DeadlineExpired(BrokerError):
    """The deadline passed while the request waited or ran, or would surely pass before any answer:
    by what was measured, there is not the time for this one alone."""

    reason = "DEADLINE_EXPIRED"


class Cancelled(BrokerError):
    """The request's own agent, or an operator, ended it."""

    reason = "CANCELLED"


class ClientTooSlow(BrokerError):
    """The client read so slowly that its share of memory was full; the request was ended."""

    reason = "CLIENT_TOO_SLOW"
    leaves_work = True


class BackendFailed(BrokerError):
    """The backend failed this request: it broke, vanished, or ended without its terminator."""

    reason = "BACKEND_FAILED"

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_ns: int | None = None
    ) -> None:
        super().__init__(message, retry_after_ns=retry_after_ns)
        self.status = status


class BackendFrozen(BackendFailed):
    """A stream gave nothing for so long that its model must be frozen: it is being cured."""


class ClosedForCure(BackendFailed):
    """The broker closed this call itself, as another one on the same runner is frozen and that is
    to be cured. Nothing is known against this one."""


class BackendSilent(BackendFailed):
    """The backend takes connections, and gave no answer in time."""


class BackendUnreachable(BackendFailed):
    """The backend takes no connection: nobody listens there, or nothing leads there."""


class AccessDenied(BackendFailed):
    """The backend does not take the broker's key, or wants one: it will not before an operator has
    changed that."""


class BackendBusy(BackendFailed):
    """The backend's own queue is full (503): somebody goes round the broker."""


class BackendRefused(BrokerError):
    """The backend found the request wrong in a way that only it can tell (4xx)."""

    reason = "BACKEND_REFUSED"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
