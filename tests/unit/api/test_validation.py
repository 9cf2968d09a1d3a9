"""The rules of the edge that need no wire: how problems gather, and what JSON is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.api.grpc.validation import (
    Problems,
    RequestLimits,
    check_generate,
    check_json_object,
    check_metadata,
    check_schema,
)
from broker.core.errors import InvalidRequest
from broker_client.pb.broker.v1 import inference_pb2 as pb


def found(problems: Problems) -> dict[str, str]:
    try:
        problems.raise_any()
    except InvalidRequest as error:
        return {each.field: each.problem for each in error.problems}
    return {}


def test_nothing_wrong_raises_nothing() -> None:
    problems = Problems()
    problems.require(True, "f", "is wrong")
    assert found(problems) == {}


def test_problems_are_named_in_their_order_up_to_what_can_be_sent() -> None:
    problems = Problems()
    for number in range(1_000):
        problems.add(f"f{number}", "is wrong")
    named = found(problems)
    assert list(named) == [*(f"f{number}" for number in range(Problems.NAMED_MAX)), "request"]
    assert named["request"] == f"has {1000 - Problems.NAMED_MAX} more such problems"


@pytest.mark.parametrize(
    "text", ["{}", ' {"a": [1, null, "\\ud83d\\ude00"]} ', '{"a":{"b":1e400}}']
)
def test_one_object_is_taken(text: str) -> None:
    problems = Problems()
    check_json_object(text, "f", problems)
    assert found(problems) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "null",
        "[]",
        "1",
        '"{}"',
        "{",
        "{}{}",
        "{'a':1}",
        '{"a":}',
        '{"a":NaN}',
        "{" * 60_000,
    ],
)
def test_anything_else_is_not(text: str) -> None:
    problems = Problems()
    check_json_object(text, "f", problems)
    assert "one JSON object" in found(problems)["f"]


def test_a_schema_is_measured_in_bytes() -> None:
    for letter, count in (("x", 65_536), ("é", 32_768)):
        for more in (0, 1):
            filler = letter * (count - 8) + "x" * (8 * (len(letter.encode()) - 1) + more)
            text = f'{{"a":"{filler}"}}'
            assert len(text.encode()) == 65_536 + more
            problems = Problems()
            check_schema(text, "f", problems)
            assert bool(found(problems)) is bool(more)


def test_metadata_given_twice_is_looked_at_twice() -> None:
    problems = Problems()
    check_metadata([("broker-client", "a/1"), ("broker-client", "bad")], problems)
    assert list(found(problems)) == ["metadata.broker-client"]
    problems = Problems()
    check_metadata(None, problems)
    assert found(problems) == {}


@given(st.binary(max_size=200))
def test_whatever_parses_is_taken_or_refused_with_names(data: bytes) -> None:
    """No request, however odd, makes the checks themselves fail."""
    request = pb.GenerateRequest()
    try:
        request.ParseFromString(data)
    except Exception:  # noqa: BLE001 protobuf's own error; such bytes never come here
        return
    problems = Problems()
    check_generate(request, len(data), RequestLimits(), problems)
    assert "" not in found(problems)
