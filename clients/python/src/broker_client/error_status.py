"""Rebuilds a typed error from the status that ended a call.

Rules. The broker's own words come in `grpc-status-details-bin`: a google.rpc.Status with ErrorInfo
(the reason), and where they apply RetryInfo and BadRequest. A status without ErrorInfo was not said
by the broker but by gRPC or by something on the way: the connection, the deadline, a size limit,
another server. Details that cannot be read are treated as absent; the status itself still counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from broker_client.errors import (
    BY_REASON,
    BrokerError,
    ConnectionLost,
    DeadlineExpired,
    ErrorDetails,
    FieldProblem,
    InvalidRequest,
    Unreachable,
)

DETAILS_KEY: Final = "grpc-status-details-bin"
DOMAIN: Final = "broker.v1"

# gRPC core's words when no connection could be made at all. Where a version words it differently
# the error counts as a lost connection, which is the harmless mistake: a few bounded reconnects.
UNREACHABLE_WORDS: Final = (
    "failed to connect",
    "dns resolution failed",
    "name resolution",
    "errors resolving",
    "no such file or directory",
)
# What gRPC says when the peer or a proxy between drops a stream without a status of its own.
LOST_WORDS: Final = ("rst_stream", "stream removed", "goaway", "connection reset")
# What gRPC says for a broker that does not even read a message of this size. The other way round,
# "CLIENT: ...", is not the caller's fault.
TOO_LARGE: Final = re.compile(r"^SERVER: Received message larger than max \((\d+) vs\. (\d+)\)")


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
    found = TOO_LARGE.search(said.message)
    if said.code is grpc.StatusCode.RESOURCE_EXHAUSTED and found is not None:
        problem = f"is {found[1]} bytes; the broker takes at most {found[2]}"
        return InvalidRequest(
            ErrorDetails(
                code=said.code,
                message=f"the request {problem} (server.message_bytes_max)",
                fields=(FieldProblem(field="request", problem=problem),),
            )
        )
    return BrokerError(said)


def replaced(said: ErrorDetails, message: str) -> ErrorDetails:
    """The same details with another sentence; only for statuses without words of the broker."""
    return ErrorDetails(code=said.code, message=message)


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
