"""Every way in which a call does not succeed, rebuilt from the status that ended it.

Rules. The broker's own words come in `grpc-status-details-bin`: a google.rpc.Status with ErrorInfo
(the reason), and where they apply RetryInfo and BadRequest. One class per reason of
proto/broker/v1/reasons.proto; a reason that this version does not know stays a plain `BrokerError`
which carries it. A status without ErrorInfo was not said by the broker but by gRPC or by something
on the way: the connection, the deadline, a size limit, another server. Details that cannot be read
are treated as absent; the status itself still counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY: Final = "grpc-status-details-bin"
DOMAIN: Final = "broker.v1"

# gRPC core's words when no connection could be made at all. Where a version words it differently
# the error counts as a lost connection, which is the harmless mistake: a few bounded reconnects.
UNREACHABLE_WORDS: Final = (
    "failed to connect",
    "dns resolution failed",
    "name resolution",
    "no such file or directory",
)
# What gRPC says when the peer or a proxy between drops a stream without a status of its own.
LOST_WORDS: Final = ("rst_stream", "stream removed", "goaway", "connection reset")


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


BY_REASON: Final[Mapping[str, type[BrokerError]]] = {
    each.known_reason: each
    for each in (
        InvalidRequest,
        AgentUnknown,
        ModelUnknown,
        CapabilityMissing,
        RequestIdInUse,
        TakenOver,
        RequestUnknown,
        QueueFull,
        NoBackend,
        Draining,
        LoadFailed,
        DeadlineExpired,
        Cancelled,
        BackendFailed,
        BackendRefused,
        ClientTooSlow,
        Internal,
    )
}


def error_of_status(
    code: grpc.StatusCode,
    message: str | None,
    trailing_metadata: Iterable[Any] | None,
    *,
    address: str,
) -> BrokerError:
    """The typed error for a status other than OK. `address` is where the call went.

    The metadata are pairs of key and value, text or bytes; gRPC's two flavours, the blocking one
    and the one for asyncio, give them different types.
    """
    said = read_details(code, message or "", trailing_metadata or ())
    if said.reason:
        return BY_REASON.get(said.reason, BrokerError)(said)
    return unexplained_error(said, address)


def unexplained_error(said: ErrorDetails, address: str) -> BrokerError:
    """The error for a status that carries no ErrorInfo: not the broker's own words."""
    words = said.message.lower()
    if said.code is grpc.StatusCode.UNAVAILABLE:
        if any(each in words for each in UNREACHABLE_WORDS):
            return Unreachable(replaced(said, f"no broker answers at {address}: {said.message}"))
        return ConnectionLost(replaced(said, f"connection to {address} lost: {said.message}"))
    # The deadline is ours and may fire a moment before the broker's own answer arrives.
    if said.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExpired(replaced(said, "the deadline passed before an answer came"))
    # Our own cancellations never come by here, so this one is the far side resetting the stream.
    if said.code is grpc.StatusCode.CANCELLED or any(each in words for each in LOST_WORDS):
        return ConnectionLost(replaced(said, f"stream from {address} cut: {said.message}"))
    return BrokerError(said)


def replaced(said: ErrorDetails, message: str) -> ErrorDetails:
    """The same details with another sentence; only for statuses without words of the broker."""
    return ErrorDetails(code=said.code, message=message)


def local_details(code: grpc.StatusCode, message: str) -> ErrorDetails:
    """Details of an error that this client found itself."""
    return ErrorDetails(code=code, message=message)


def read_details(
    code: grpc.StatusCode, message: str, trailing_metadata: Iterable[Any]
) -> ErrorDetails:
    """All that a status and its trailing metadata say. Never raises for what it reads."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    fields = error_details_pb2.BadRequest()
    retry_after_s: float | None = None
    for detail in rich_status(trailing_metadata).details:
        try:
            if detail.Is(retry.DESCRIPTOR):
                detail.Unpack(retry)
                retry_after_s = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
            elif detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Is(fields.DESCRIPTOR):
                detail.Unpack(fields)
        except (DecodeError, ValueError, OverflowError):
            continue  # One unreadable detail does not make the others, or the status, unreadable.
    metadata = dict(info.metadata)
    return ErrorDetails(
        code=code,
        reason=info.reason if info.domain == DOMAIN else "",
        message=message,
        retry_after_s=retry_after_s,
        fields=tuple(
            FieldProblem(field=each.field, problem=each.description)
            for each in fields.field_violations
        ),
        outcome=metadata.get("outcome", ""),
        sent_pieces=count_of(metadata.get("sent_pieces", "")),
        metadata=tuple(sorted(metadata.items())),
    )


def rich_status(trailing_metadata: Iterable[Any]) -> status_pb2.Status:
    """The google.rpc.Status in the metadata; an empty one where there is none to be read."""
    for key, value in trailing_metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def count_of(text: str) -> int:
    """A count that came as text; 0 where it is none."""
    return int(text) if text.isdecimal() else 0
