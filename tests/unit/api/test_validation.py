"""The rules of the edge that need no wire: how problems gather, and what JSON is taken."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from broker.api.grpc.admin_validation import check_boost, check_for_ms, check_scope
from broker.api.grpc.validation import (
    Problems,
    RequestLimits,
    check_embed,
    check_generate,
    check_json_object,
    check_metadata,
    check_schema,
)
from broker.core.errors import InvalidRequest
from broker_client.pb.broker.v1 import admin_pb2
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


IMAGE = b"i" * 100_000


@pytest.mark.parametrize(
    ("request_", "text_bytes"),
    [
        (pb.GenerateRequest(prompt=pb.Prompt(text="hé", images=[IMAGE])), 3),
        (pb.GenerateRequest(prompt=pb.Prompt(text="a", system="bc", suffix="def")), 6),
        (
            pb.GenerateRequest(
                chat=pb.Chat(
                    messages=[
                        pb.Message(role="user", content="hé", images=[IMAGE, IMAGE]),
                        pb.Message(
                            role="assistant",
                            thinking="hm",
                            tool_calls=[pb.ToolCall(id="1", name="f", arguments_json="{}")],
                        ),
                    ]
                ),
                tools=[pb.Tool(name="f", description="does", parameters_json='{"a":1}')],
            ),
            3 + 2 + 2 + 4 + 7,
        ),
    ],
    ids=["a prompt", "all of a prompt", "a chat"],
)
def test_only_text_is_counted_as_text(request_: pb.GenerateRequest, text_bytes: int) -> None:
    request_.agent_id = "a"
    problems = Problems()
    size_bytes = request_.ByteSize()
    assert check_generate(request_, size_bytes, RequestLimits(), problems) == text_bytes
    assert found(problems) == {}


def test_all_inputs_of_an_embedding_are_text() -> None:
    problems = Problems()
    request = pb.EmbedRequest(agent_id="a", inputs=["hé", "b"])
    assert check_embed(request, request.ByteSize(), RequestLimits(), problems) == 4
    assert found(problems) == {}


def test_nobody_is_everybody_only_where_no_name_is_needed() -> None:
    problems = Problems()
    check_scope(admin_pb2.Scope(), problems, is_needed=False)
    assert found(problems) == {}
    check_scope(admin_pb2.Scope(), problems, is_needed=True)
    assert found(problems) == {"scope": "must name an agent_id or an agent_type"}


@pytest.mark.parametrize("who", ["agent_id", "agent_type"])
@pytest.mark.parametrize("is_needed", [True, False])
def test_an_empty_name_is_never_everybody(who: str, is_needed: bool) -> None:
    problems = Problems()
    scope = admin_pb2.Scope()
    setattr(scope, who, "")
    check_scope(scope, problems, is_needed=is_needed)
    assert list(found(problems)) == [f"scope.{who}"]


@pytest.mark.parametrize(
    ("for_ms", "good"),
    [(-1, False), (0, True), (2_592_000_000, True), (2_592_000_001, False), (2**63 - 1, False)],
)
def test_how_long_an_operators_word_may_hold(for_ms: int, good: bool) -> None:
    problems = Problems()
    check_for_ms(for_ms, problems)
    assert (found(problems) == {}) is good


def boost(**changed: float) -> admin_pb2.BoostRequest:
    request = admin_pb2.BoostRequest(scope=admin_pb2.Scope(agent_type="opus"))
    for name, value in changed.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize(
    "request_",
    [
        boost(weight_factor=0.01),
        boost(weight_factor=100, rate_factor=0.01),
        boost(rate_factor=1),
        boost(priority_best=1),
        boost(priority_best=10),
    ],
)
def test_a_boost_that_says_something_within_its_limits_is_good(
    request_: admin_pb2.BoostRequest,
) -> None:
    problems = Problems()
    check_boost(request_, problems)
    assert found(problems) == {}


def test_a_boost_of_nothing_by_nothing_for_less_than_nothing() -> None:
    problems = Problems()
    check_boost(admin_pb2.BoostRequest(for_ms=-1), problems)
    assert list(found(problems)) == ["scope", "for_ms", "weight_factor"]


@given(st.binary(max_size=60))
def test_whatever_parses_as_a_boost_is_taken_or_refused_with_names(data: bytes) -> None:
    request = admin_pb2.BoostRequest()
    try:
        request.ParseFromString(data)
    except DecodeError:
        return
    problems = Problems()
    check_boost(request, problems)
    if not found(problems):
        factors = [getattr(request, name) for name in ("weight_factor", "rate_factor")]
        assert all(0.01 <= each <= 100 or each == 0 for each in factors)
        assert request.scope.agent_id or request.scope.agent_type
