"""Errors as statuses: a code for each class, details that fit, and texts cut to their ends."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from broker.api.grpc.status import (
    CODES,
    DESCRIPTION_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    RETRY_AFTER_NS_DEFAULT,
    code_of,
    rich_status,
    shortened,
)
from broker.core import errors
from broker.core.model_errors import NoModelFits, RejectedModel
from broker.core.requests import Outcome
from broker.core.time_outs import Phase

_Code = grpc.StatusCode


Kind = type[errors.BrokerError]


def classes(error: Kind = errors.BrokerError) -> Iterator[Kind]:
    yield error
    for each in error.__subclasses__():
        yield from classes(each)


def made(kind: Kind) -> errors.BrokerError:
    """An error of this class, whatever it takes to make one."""
    if issubclass(kind, errors.InvalidRequest):
        return kind((errors.FieldProblem(field="f", problem="is wrong"),))
    if kind is NoModelFits:
        return NoModelFits((RejectedModel("a", "lacks tools"), RejectedModel("b", "is away")))
    if kind is errors.ModelUnknown:
        return errors.ModelUnknown("m", ("a", "b"))
    if kind is errors.AgentNotFound:
        return errors.AgentNotFound("a", ("b", "c"))
    if kind is errors.BackendNotFound:
        return errors.BackendNotFound("a", ("b", "c"))
    if kind is errors.TimedOut:
        return errors.TimedOut("words", Phase.LOAD)
    if kind is errors.BackendRefused:
        return errors.BackendRefused("no", status=400)
    return kind("words")


def details(status: status_pb2.Status, kind: type) -> list[object]:
    found = []
    for each in status.details:
        if each.Is(kind.DESCRIPTOR):  # type: ignore[attr-defined]  # every message has one
            detail = kind()
            each.Unpack(detail)
            found.append(detail)
    return found


@pytest.mark.parametrize("kind", sorted(set(classes()), key=str))
def test_every_error_has_a_code_and_a_reason(kind: Kind) -> None:
    error = made(kind)
    status = rich_status(error, Outcome.FAILED, 3)
    assert status.code == code_of(error).value[0]
    (info,) = details(status, error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (error.reason, "broker.v1")
    assert (info.metadata["outcome"], info.metadata["sent_pieces"]) == ("failed", "3")
    invites_back = code_of(error) is _Code.UNAVAILABLE or isinstance(error, errors.QuotaExceeded)
    assert bool(details(status, error_details_pb2.RetryInfo)) is invites_back
    is_bad = isinstance(error, errors.InvalidRequest)
    assert bool(details(status, error_details_pb2.BadRequest)) is is_bad


def test_what_may_be_tried_again_is_short_for_all_or_the_callers_own_share() -> None:
    for kind in set(classes()) - {errors.BackendUnreachable, errors.BackendBusy}:
        is_own = issubclass(kind, errors.QuotaExceeded)
        expected = _Code.RESOURCE_EXHAUSTED if is_own else _Code.UNAVAILABLE
        assert (code_of(made(kind)) is expected) is kind.retryable, kind
    assert code_of(errors.AgentBlocked("by an operator")) is _Code.PERMISSION_DENIED


def test_the_nearest_class_of_the_table_counts() -> None:
    assert CODES[errors.BackendFailed] is _Code.INTERNAL
    assert code_of(errors.BackendUnreachable("gone")) is _Code.UNAVAILABLE
    assert code_of(errors.AgentUnknown(())) is _Code.INVALID_ARGUMENT
    assert code_of(errors.TokenQuotaExceeded("used up")) is _Code.RESOURCE_EXHAUSTED
    assert code_of(errors.DeadlineInfeasible("too late")) is _Code.UNAVAILABLE
    assert code_of(errors.Internal("a bug")) is _Code.INTERNAL


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.Displaced, errors.AgentQueueFull])
@pytest.mark.parametrize("after_ns", [None, 1, 2_500_000_000])
def test_a_measured_time_to_come_back_is_said_else_a_second(
    after_ns: int | None, kind: Kind
) -> None:
    status = rich_status(kind("full", retry_after_ns=after_ns), None, None)
    (retry,) = details(status, error_details_pb2.RetryInfo)
    assert isinstance(retry, error_details_pb2.RetryInfo)
    expected = RETRY_AFTER_NS_DEFAULT if after_ns is None else after_ns
    assert retry.retry_delay.ToNanoseconds() == expected


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelUnknown("m", ("a", "b")),
        errors.AgentNotFound("m", ("a", "b")),
        errors.CapabilityMissing("m lacks tools", ("a", "b")),
        NoModelFits((RejectedModel("a", "lacks tools"), RejectedModel("b", "is away"))),
    ],
)
def test_the_nearest_names_are_for_programs_too(error: errors.BrokerError) -> None:
    (info,) = details(rich_status(error, None, None), error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.metadata["nearest"] == "a,b"


def test_what_is_not_known_is_not_said() -> None:
    (info,) = details(rich_status(errors.Internal("x"), None, None), error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert not info.metadata


def test_long_words_are_cut_in_the_message_and_in_the_violations() -> None:
    problem = errors.FieldProblem(field="f", problem="begins" + "x" * 5000 + "ends")
    status = rich_status(errors.InvalidRequest((problem,)), None, None)
    assert len(status.message.encode()) <= MESSAGE_BYTES_MAX
    (bad,) = details(status, error_details_pb2.BadRequest)
    assert isinstance(bad, error_details_pb2.BadRequest)
    (violation,) = bad.field_violations
    assert len(violation.description.encode()) <= DESCRIPTION_BYTES_MAX
    assert violation.description.startswith("begins")
    assert violation.description.endswith("ends")


@given(st.text(max_size=400), st.integers(min_value=20, max_value=300))
def test_a_shortened_text_keeps_to_its_bytes_and_its_ends(text: str, bytes_max: int) -> None:
    short = shortened(text, bytes_max)
    assert len(short.encode()) <= bytes_max
    if len(text.encode()) <= bytes_max:
        assert short == text
    else:
        begin, _, end = short.partition(" ... ")
        assert text.startswith(begin)
        assert text.endswith(end.rpartition(" ... ")[2])
