"""Statuses become typed errors, and nothing in a status can make that fail."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from broker_client import errors
from broker_client.error_status import DETAILS_KEY, DOMAIN, error_of_status
from broker_client.errors import BrokerError, FieldProblem
from broker_client.pb.broker.v1 import reasons_pb2

ADDRESS = "127.0.0.1:50434"
Code = grpc.StatusCode


def trailers(*details: Message, code: int = 14) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata as the broker sends them."""
    boxes = [any_pb2.Any() for _ in details]
    for box, detail in zip(boxes, details, strict=True):
        box.Pack(detail)
    status = status_pb2.Status(code=code, message="said", details=boxes)
    return ((DETAILS_KEY, status.SerializeToString()),)


def info(reason: str, **metadata: str) -> Message:
    found: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return found


def test_every_reason_of_the_wire_has_its_own_class() -> None:
    on_the_wire = {
        value.name.removeprefix("REASON_") for value in reasons_pb2.Reason.DESCRIPTOR.values
    }
    assert set(errors.BY_REASON) == on_the_wire - {"UNSPECIFIED"}
    assert len(set(errors.BY_REASON.values())) == len(errors.BY_REASON)


def test_a_refusal_carries_all_that_the_broker_said() -> None:
    retry = error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)
    )
    told = trailers(info("QUEUE_FULL", outcome="refused", sent_pieces="3"), retry)
    error = error_of_status(Code.UNAVAILABLE, "1000 requests wait", told, address=ADDRESS)
    assert type(error) is errors.QueueFull
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "QUEUE_FULL")
    assert error.message == str(error) == "1000 requests wait"
    assert (error.retry_after_s, error.outcome, error.sent_pieces) == (2.5, "refused", 3)


def test_an_answer_that_is_too_large_is_not_the_callers_fault() -> None:
    words = "CLIENT: Received message larger than max (9 vs. 8)"
    assert type(error_of_status(Code.RESOURCE_EXHAUSTED, words, (), address=ADDRESS)) is BrokerError


def test_bad_fields_are_all_named() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation
    fields = error_details_pb2.BadRequest(
        field_violations=[
            violation(field="priority", description="is 11; 1 to 10"),
            violation(field="model", description="is missing"),
        ]
    )
    told = trailers(info("INVALID_FIELD"), fields, code=3)
    error = error_of_status(Code.INVALID_ARGUMENT, "two", told, address=ADDRESS)
    assert isinstance(error, errors.InvalidRequest)
    assert error.fields == (
        FieldProblem(field="priority", problem="is 11; 1 to 10"),
        FieldProblem(field="model", problem="is missing"),
    )


def test_a_time_out_names_its_phase() -> None:
    told = trailers(info("TIMED_OUT", phase="first_token"))
    error = error_of_status(Code.DEADLINE_EXCEEDED, "late", told, address=ADDRESS)
    assert isinstance(error, errors.TimedOut)
    assert error.phase == "first_token"
    silent = error_of_status(
        Code.DEADLINE_EXCEEDED, "late", trailers(info("TIMED_OUT")), address=ADDRESS
    )
    assert isinstance(silent, errors.TimedOut)
    assert silent.phase == ""


def test_a_reason_of_a_newer_broker_stays_a_plain_error_that_names_it() -> None:
    error = error_of_status(
        Code.RESOURCE_EXHAUSTED, "too many", trailers(info("NEVER_HEARD_OF")), address=ADDRESS
    )
    assert type(error) is BrokerError
    assert error.reason == "NEVER_HEARD_OF"


@pytest.mark.parametrize(
    "reason", ["RATE_LIMITED", "TYPE_RATE_LIMITED", "TOKENS_EXHAUSTED", "AGENT_QUEUE_FULL"]
)
def test_whatever_part_of_its_own_share_is_used_up_is_one_kind_to_the_caller(reason: str) -> None:
    error = error_of_status(
        Code.RESOURCE_EXHAUSTED, "too many", trailers(info(reason)), address=ADDRESS
    )
    assert isinstance(error, errors.QuotaExceeded)
    assert error.reason == reason


def test_another_domain_is_not_the_broker_speaking() -> None:
    foreign = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="example.org")
    error = error_of_status(Code.INTERNAL, "?", trailers(foreign), address=ADDRESS)
    assert type(error) is BrokerError
    assert error.reason == ""


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (
            Code.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:50434: "
            "Failed to connect to remote host: connect: Connection refused (111)",
            errors.Unreachable,
        ),
        (
            Code.UNAVAILABLE,
            "DNS resolution failed for nowhere.invalid:1: C-ares status is not ARES_SUCCESS",
            errors.Unreachable,
        ),
        (
            Code.UNAVAILABLE,
            "errors resolving nowhere:1: [field:hostname lookup error:Domain name not found]",
            errors.Unreachable,
        ),
        (Code.UNAVAILABLE, "Socket closed", errors.ConnectionLost),
        (Code.UNAVAILABLE, None, errors.ConnectionLost),
        (Code.CANCELLED, "CANCELLED", errors.ConnectionLost),
        (Code.INTERNAL, "Received RST_STREAM with error code 2", errors.ConnectionLost),
        (Code.UNKNOWN, "Stream removed", errors.ConnectionLost),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.DeadlineExpired),
        (Code.UNIMPLEMENTED, "Method not found!", BrokerError),
        (Code.RESOURCE_EXHAUSTED, "Received message larger than max", BrokerError),
        (Code.INTERNAL, "Exception deserializing response!", BrokerError),
    ],
)
def test_without_words_of_the_broker_the_status_itself_counts(
    code: grpc.StatusCode, message: str | None, kind: type[BrokerError]
) -> None:
    error = error_of_status(code, message, None, address=ADDRESS)
    assert type(error) is kind
    assert error.code is code
    assert error.reason == ""
    if kind is errors.Unreachable:
        assert str(error).startswith(f"no broker answers at {ADDRESS}")


@given(st.binary(max_size=200))
def test_details_that_cannot_be_read_count_as_absent(noise: bytes) -> None:
    error = error_of_status(Code.INTERNAL, "broken", ((DETAILS_KEY, noise),), address=ADDRESS)
    assert error.code is Code.INTERNAL


@given(st.binary(max_size=60), st.sampled_from(["ErrorInfo", "RetryInfo", "BadRequest"]))
def test_one_unreadable_detail_leaves_the_others_readable(noise: bytes, kind: str) -> None:
    box = any_pb2.Any(type_url=f"type.googleapis.com/google.rpc.{kind}", value=noise)
    good = any_pb2.Any()
    good.Pack(info("DRAINING", outcome="refused"))
    status = status_pb2.Status(code=14, message="leaving", details=[box, good])
    told = ((DETAILS_KEY, status.SerializeToString()),)
    error = error_of_status(Code.UNAVAILABLE, "leaving", told, address=ADDRESS)
    assert isinstance(error, errors.Draining)


@pytest.mark.parametrize("count", ["", "-1", "many", "1e3"])
def test_a_count_that_is_none_is_zero(count: str) -> None:
    told = trailers(info("BACKEND_FAILED", sent_pieces=count))
    assert error_of_status(Code.INTERNAL, "x", told, address=ADDRESS).sent_pieces == 0
