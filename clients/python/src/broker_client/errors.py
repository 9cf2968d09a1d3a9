"""Every way in which a call does not succeed: one class per reason of the wire, and a few of ours.

A reason of proto/broker/v1/reasons.proto that this version does not know stays a plain
`BrokerError` which carries it. `error_status.py` says how a status becomes one of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One field that is wrong: its path in the request, and the limit that it breaks."""

    field: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """What an error status says.

    `retry_after_s` is None where trying again was not offered. `outcome` is how the request ended
    ("refused", "failed", "expired", ...; empty: not said). `sent_pieces` counts the pieces that
    had gone out before. `metadata` is ErrorInfo's, whole.
    """

    code: grpc.StatusCode
    reason: str = ""
    message: str = ""
    retry_after_s: float | None = None
    fields: tuple[FieldProblem, ...] = ()
    outcome: str = ""
    sent_pieces: int = 0
    metadata: tuple[tuple[str, str], ...] = ()


class BrokerError(Exception):
    """A call that did not succeed, and why. `details` holds all; the properties name its parts."""

    known_reason: ClassVar[str] = ""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(details.message or details.code.name)
        self.details = details

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status."""
        return self.details.code

    @property
    def reason(self) -> str:
        """The stable reason ("QUEUE_FULL"); empty where the broker did not speak itself."""
        return self.details.reason

    @property
    def message(self) -> str:
        """The sentence for people."""
        return self.details.message

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which trying again may help; None: it is not offered."""
        return self.details.retry_after_s

    @property
    def fields(self) -> tuple[FieldProblem, ...]:
        """The fields that are wrong, where it is about fields."""
        return self.details.fields

    @property
    def outcome(self) -> str:
        """How the request ended in the broker's books; empty: not said."""
        return self.details.outcome

    @property
    def sent_pieces(self) -> int:
        """Pieces of the answer that went out before the error."""
        return self.details.sent_pieces


class InvalidRequest(BrokerError):
    """Fields are missing, malformed or beyond their limits; `fields` names them all."""

    known_reason = "INVALID_FIELD"


class AgentUnknown(InvalidRequest):
    """The broker's configuration knows no type for this agent_id."""

    known_reason = "AGENT_UNKNOWN"


class ModelUnknown(BrokerError):
    """No backend has this model; the message holds the nearest names."""

    known_reason = "MODEL_UNKNOWN"


class CapabilityMissing(BrokerError):
    """The model cannot do what the request needs."""

    known_reason = "CAPABILITY_MISSING"


class NoModelFits(BrokerError):
    """No model is what the request calls for; the message says what the nearest lack."""

    known_reason = "NO_MODEL_FITS"


class RequestIdInUse(BrokerError):
    """A request with this id and other content is under way."""

    known_reason = "REQUEST_ID_IN_USE"


class TakenOver(BrokerError):
    """A newer call with the same id and content carries on with this request."""

    known_reason = "TAKEN_OVER"


class RequestUnknown(BrokerError):
    """No request of that agent and id is under way."""

    known_reason = "REQUEST_UNKNOWN"


class QueueFull(BrokerError):
    """As many requests wait as may."""

    known_reason = "QUEUE_FULL"


class NoBackend(BrokerError):
    """No backend that has the model answers."""

    known_reason = "NO_BACKEND"


class Draining(BrokerError):
    """The broker is leaving."""

    known_reason = "DRAINING"


class LoadFailed(BrokerError):
    """The model could not be loaded."""

    known_reason = "LOAD_FAILED"


class Displaced(BrokerError):
    """It waited, and gave its place to the request of an agent with a smaller backlog."""

    known_reason = "DISPLACED"


class DeadlineInfeasible(BrokerError):
    """By what the broker measured, the deadline would pass before this could be answered."""

    known_reason = "DEADLINE_INFEASIBLE"


class BrokerRateLimited(BrokerError):
    """All agents together send more than the broker lets in."""

    known_reason = "BROKER_RATE_LIMITED"


class QuotaExceeded(BrokerError):
    """This agent's own share is used up; `retry_after_s` says when more comes."""

    known_reason = "RATE_LIMITED"


class TypeRateLimited(QuotaExceeded):
    """The agents of this one's type together send more than their bucket lets in."""

    known_reason = "TYPE_RATE_LIMITED"


class TokenQuotaExceeded(QuotaExceeded):
    """The model tokens of this agent, or of its type, are used up for now."""

    known_reason = "TOKENS_EXHAUSTED"


class AgentQueueFull(QuotaExceeded):
    """As many requests of this agent wait as may."""

    known_reason = "AGENT_QUEUE_FULL"


class Degraded(BrokerError):
    """At the broker's level work that is not critical is refused; `retry_after_s` says when to come
    again."""

    known_reason = "DEGRADED"


class SmallModelsOnly(BrokerError):
    """At the broker's level only small models run, and none may or can answer this request."""

    known_reason = "SMALL_MODELS_ONLY"


class PublishRateLimited(QuotaExceeded):
    """This agent publishes more than its rate lets in."""

    known_reason = "PUBLISH_RATE_LIMITED"


class TopicReserved(BrokerError):
    """The broker alone writes this topic."""

    known_reason = "TOPIC_RESERVED"


class SubscribersFull(BrokerError):
    """As many subscribers listen as may."""

    known_reason = "SUBSCRIBERS_FULL"


class AgentSubscribersFull(QuotaExceeded):
    """As many subscribers of this agent listen as may."""

    known_reason = "AGENT_SUBSCRIBERS_FULL"


class CircuitOpen(BrokerError):
    """Calls of this model have failed too often lately; it says when to come again."""

    known_reason = "CIRCUIT_OPEN"


class CallsFull(QuotaExceeded):
    """As many calls of this agent, or of this connection, are open as may."""

    known_reason = "CALLS_FULL"


class CallRateLimited(QuotaExceeded):
    """This connection sends calls faster than may be."""

    known_reason = "CALL_RATE_LIMITED"


class ModelChangeDenied(BrokerError):
    """The broker's configuration does not let this agent change models."""

    known_reason = "MODEL_CHANGE_DENIED"


class PullFailed(BrokerError):
    """A model could not be downloaded, however often it was tried."""

    known_reason = "PULL_FAILED"


class DiskFull(BrokerError):
    """There is not the disk for a model."""

    known_reason = "DISK_FULL"


class PullsFull(BrokerError):
    """As many downloads wait as may."""

    known_reason = "PULLS_FULL"


class PullNotFound(BrokerError):
    """No download of this model waits or runs."""

    known_reason = "PULL_NOT_FOUND"


class NoRoom(BrokerError):
    """There is no room for a model beside those that are to stay."""

    known_reason = "NO_ROOM"


class ModelInUse(BrokerError):
    """Requests for the model wait or run, others are built on it, or somebody else loaded it."""

    known_reason = "MODEL_IN_USE"


class AgentBlocked(BrokerError):
    """An operator blocked this agent."""

    known_reason = "AGENT_BLOCKED"


class AgentNotFound(BrokerError):
    """The broker remembers no such agent; the message holds the nearest ids."""

    known_reason = "AGENT_NOT_FOUND"


class BackendNotFound(BrokerError):
    """There is no backend of this name; the message holds the nearest."""

    known_reason = "BACKEND_NOT_FOUND"


class TimedOut(BrokerError):
    """A phase of the request took longer than its time-out."""

    known_reason = "TIMED_OUT"

    @property
    def phase(self) -> str:
        """Which: "queue", "load", "first_token" or "token_gap"; empty: not said."""
        return dict(self.details.metadata).get("phase", "")


class DeadlineExpired(BrokerError):
    """The deadline passed while the request waited or ran."""

    known_reason = "DEADLINE_EXPIRED"


class Cancelled(BrokerError):
    """The request's own agent, or an operator, ended it."""

    known_reason = "CANCELLED"


class BackendFailed(BrokerError):
    """The backend failed this request."""

    known_reason = "BACKEND_FAILED"


class BackendRefused(BrokerError):
    """The backend found the request wrong in a way that only it can tell."""

    known_reason = "BACKEND_REFUSED"


class ClientTooSlow(BrokerError):
    """This client read so slowly that its share of the broker's memory was full."""

    known_reason = "CLIENT_TOO_SLOW"


class Internal(BrokerError):
    """A fault of the broker itself."""

    known_reason = "INTERNAL"


class Unreachable(BrokerError):
    """No broker answers at the address; no part of the call was taken."""


class ConnectionLost(BrokerError):
    """The connection ended during the call; what became of the request is not known."""


class StreamBroken(BrokerError):
    """The events of a stream do not fit together: pieces are missing or come twice."""


def _below(kind: type[BrokerError]) -> Iterator[type[BrokerError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


BY_REASON: Final[Mapping[str, type[BrokerError]]] = {
    each.known_reason: each for each in _below(BrokerError) if "known_reason" in vars(each)
}


def local_details(code: grpc.StatusCode, message: str) -> ErrorDetails:
    """Details of an error that this client found itself."""
    return ErrorDetails(code=code, message=message)
