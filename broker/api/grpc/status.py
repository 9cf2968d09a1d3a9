"""Errors become statuses, in this one place.

Rich details travel as the whole google.rpc.Status in `grpc-status-details-bin`, with the code and
message of the call. Source: google/rpc/error_details.proto, AIP-193.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from broker.core import errors, model_errors
from broker.core.library import LibraryAway
from broker.core.requests import Outcome

DOMAIN: Final = "broker.v1"
DETAILS_KEY: Final = "grpc-status-details-bin"

_Code = grpc.StatusCode

CODES: Final[Mapping[type[errors.BrokerError], grpc.StatusCode]] = MappingProxyType(
    {
        errors.BrokerError: _Code.INTERNAL,
        errors.InvalidRequest: _Code.INVALID_ARGUMENT,
        errors.ModelUnknown: _Code.NOT_FOUND,
        errors.CapabilityMissing: _Code.FAILED_PRECONDITION,
        model_errors.NoModelFits: _Code.FAILED_PRECONDITION,
        errors.RequestIdInUse: _Code.ALREADY_EXISTS,
        errors.TakenOver: _Code.ABORTED,
        errors.RequestUnknown: _Code.NOT_FOUND,
        errors.Unavailable: _Code.UNAVAILABLE,
        errors.QuotaExceeded: _Code.RESOURCE_EXHAUSTED,
        errors.AgentBlocked: _Code.PERMISSION_DENIED,
        errors.TopicReserved: _Code.PERMISSION_DENIED,
        errors.ModelChangeDenied: _Code.PERMISSION_DENIED,
        errors.PullFailed: _Code.FAILED_PRECONDITION,
        errors.DiskFull: _Code.FAILED_PRECONDITION,
        errors.ModelInUse: _Code.FAILED_PRECONDITION,
        errors.PullNotFound: _Code.NOT_FOUND,
        errors.AgentNotFound: _Code.NOT_FOUND,
        errors.BackendNotFound: _Code.NOT_FOUND,
        errors.DeadlineExpired: _Code.DEADLINE_EXCEEDED,
        errors.TimedOut: _Code.DEADLINE_EXCEEDED,
        errors.Cancelled: _Code.CANCELLED,
        errors.ClientTooSlow: _Code.RESOURCE_EXHAUSTED,
        errors.BackendFailed: _Code.INTERNAL,
        errors.BackendUnreachable: _Code.UNAVAILABLE,
        LibraryAway: _Code.UNAVAILABLE,
        errors.BackendBusy: _Code.UNAVAILABLE,
        errors.BackendRefused: _Code.INVALID_ARGUMENT,
    }
)

# Those that say what may have been meant, or would do.
_NAMES_NEAREST: Final = (
    errors.ModelUnknown
    | errors.AgentNotFound
    | errors.BackendNotFound
    | errors.CapabilityMissing
    | model_errors.NoModelFits
)

# What may be tried again always says when; where nothing was measured, this soon.
RETRY_AFTER_NS_DEFAULT: Final = 1_000_000_000

# A status travels in HTTP/2 trailers, of which clients take 8 KiB in all: the message twice (there
# percent-encoded, threefold at worst, and in the details), the violations once, as base64.
MESSAGE_BYTES_MAX: Final = 768
DESCRIPTION_BYTES_MAX: Final = 200


def code_of(error: errors.BrokerError) -> grpc.StatusCode:
    """The code of the nearest class in the table."""
    return next(CODES[each] for each in type(error).__mro__ if each in CODES)


def rich_status(
    error: errors.BrokerError, outcome: Outcome | None, sent_pieces: int | None
) -> status_pb2.Status:
    """The whole status: ErrorInfo always, RetryInfo and BadRequest where they apply."""
    code = code_of(error)
    info = {}
    if outcome is not None:
        info["outcome"] = outcome.value
    if sent_pieces is not None:
        info["sent_pieces"] = str(sent_pieces)
    if isinstance(error, _NAMES_NEAREST):
        info["nearest"] = ",".join(error.nearest)
    if isinstance(error, errors.TimedOut):
        info["phase"] = error.phase.value
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=info)
    ]
    retry_after_ns = error.retry_after_ns
    if retry_after_ns is None and (error.retryable or code is _Code.UNAVAILABLE):
        retry_after_ns = RETRY_AFTER_NS_DEFAULT
    if retry_after_ns is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(retry_after_ns)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=each.field, description=shortened(each.problem, DESCRIPTION_BYTES_MAX)
            )
            for each in error.problems
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    packed = [any_pb2.Any() for _ in details]
    for box, detail in zip(packed, details, strict=True):
        box.Pack(detail)
    number: int = code.value[0]
    words = shortened(error.message, MESSAGE_BYTES_MAX)
    return status_pb2.Status(code=number, message=words, details=packed)


def shortened(text: str, bytes_max: int) -> str:
    """The text in at most so many bytes of UTF-8. Where it is longer its middle is left out: what
    is said lies at the beginning, what is advised at the end."""
    data = text.encode()
    if len(data) <= bytes_max:
        return text
    gap = " ... "
    end_bytes = bytes_max // 3
    begin_bytes = bytes_max - end_bytes - len(gap)
    parts = data[:begin_bytes], data[-end_bytes:]
    return gap.join(each.decode(errors="ignore") for each in parts)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any],
    error: errors.BrokerError,
    *,
    outcome: Outcome | None = None,
    sent_pieces: int | None = None,
) -> NoReturn:
    """Ends the call with this error."""
    status = rich_status(error, outcome, sent_pieces)
    await context.abort(
        code_of(error),
        status.message,
        trailing_metadata=((DETAILS_KEY, status.SerializeToString()),),
    )
    raise AssertionError("abort returned")
