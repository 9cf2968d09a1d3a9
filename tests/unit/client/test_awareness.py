"""What a client asks for while the broker is degraded, and how long it believes a level."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_client import BrokerError, DeadlineExpired, Lowered, ResourceAwareness, RetryPolicy
from broker_client.awareness import (
    LOOK_S_MAX,
    TEMPERATURE_DEFAULT,
    LevelMemory,
    Look,
    is_degraded,
)
from broker_client.errors import local_details
from broker_client.generation import Generation
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.retry import NS_PER_S

AWARE = ResourceAwareness()


def lowered(awareness: ResourceAwareness = AWARE, **asked: Any) -> tuple[pb.Options, list[str]]:
    options = pb.Options(**asked)
    changes = awareness.lower(options)
    return options, list(changes)


def test_what_asks_for_more_is_lowered_and_said() -> None:
    options, changes = lowered(max_tokens=4096, temperature=1.5)
    assert (options.max_tokens, options.temperature) == (512, 0.5)
    assert changes == [
        "max_tokens lowered from 4096 to 512",
        "temperature lowered from 1.5 to 0.5",
    ]


def test_what_asks_for_less_stays() -> None:
    options, changes = lowered(max_tokens=100, temperature=0.0)
    assert (options.max_tokens, options.temperature, changes) == (100, 0.0, [])
    assert lowered(max_tokens=512, temperature=0.5)[1] == []


def test_what_says_nothing_counts_as_no_bound_and_as_the_usual_temperature() -> None:
    options, changes = lowered(top_k=7)
    assert (options.max_tokens, options.temperature, options.top_k) == (512, 0.5, 7)
    assert changes == [
        "max_tokens lowered from no bound to 512",
        "temperature lowered from 0.8 to 0.5",
    ]


def test_a_temperature_that_only_the_models_file_has_is_not_seen_and_can_be_left_alone() -> None:
    said, _ = lowered(temperature=0.2)
    assert said.temperature == 0.2
    unsaid, changes = lowered(max_tokens=1)  # of a model whose file says 0.2
    assert (unsaid.temperature, changes) == (0.5, ["temperature lowered from 0.8 to 0.5"])
    left, changes = lowered(ResourceAwareness(temperature=None), max_tokens=1)
    assert not left.HasField("temperature")
    assert changes == []


def test_an_option_without_a_ceiling_is_left_alone() -> None:
    options, changes = lowered(ResourceAwareness(max_tokens=None, temperature=None))
    assert not options.HasField("max_tokens")
    assert not options.HasField("temperature")
    assert changes == []
    warm = ResourceAwareness(temperature=TEMPERATURE_DEFAULT + 0.1)
    assert not lowered(warm)[0].HasField("temperature")


@given(
    st.none() | st.integers(1, 131_072),
    st.none() | st.floats(0, 5),
    st.none() | st.integers(1, 131_072),
    st.none() | st.floats(0, 5),
)
def test_nothing_is_ever_raised(
    max_tokens: int | None, warmth: float | None, tokens_most: int | None, warmth_most: float | None
) -> None:
    awareness = ResourceAwareness(max_tokens=tokens_most, temperature=warmth_most)
    options, changes = lowered(awareness, max_tokens=max_tokens, temperature=warmth)
    if max_tokens is not None:
        assert 1 <= options.max_tokens <= max_tokens
    if warmth is not None:
        assert 0 <= options.temperature <= warmth
    assert awareness.lower(options) == ()  # once is enough
    assert len(changes) <= 2


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": -1}, {"temperature": -0.1}])
def test_a_ceiling_that_nothing_can_keep_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResourceAwareness(**wrong)


def test_every_level_but_the_normal_one_is_degraded() -> None:
    assert [is_degraded(each) for each in ("normal", "1", "2", "critical")] == [False] + [True] * 3


def test_a_generation_is_lowered_only_while_degraded() -> None:
    request = pb.GenerateRequest(options=pb.Options(max_tokens=1000, temperature=0.1))
    generation = Generation(request, policy=RetryPolicy(), deadline_ns=None)
    assert generation.lower(AWARE, "normal") is None
    assert generation.request().options.max_tokens == 1000
    changes = ("max_tokens lowered from 1000 to 512",)
    assert generation.lower(AWARE, "2") == Lowered(level="2", changes=changes)
    assert generation.request().options.max_tokens == 512
    assert generation.lower(AWARE, "2") is None


def test_a_level_is_believed_for_as_long_as_was_said() -> None:
    memory = LevelMemory(1_000)
    assert memory.recall(5) == ""
    assert memory.learn("1", 5) == "1"
    assert memory.recall(5) == memory.recall(1_004) == "1"
    assert memory.recall(1_005) == ""
    memory.learn("normal", 2_000)
    assert memory.recall(2_999) == "normal"


def failure(code: grpc.StatusCode = grpc.StatusCode.DEADLINE_EXCEEDED) -> BrokerError:
    kind = DeadlineExpired if code is grpc.StatusCode.DEADLINE_EXCEEDED else BrokerError
    return kind(local_details(code, "no"))


def test_that_a_level_could_not_be_had_is_believed_as_long() -> None:
    memory = LevelMemory(1_000)
    memory.fail(first := failure(), 5)
    with pytest.raises(DeadlineExpired, match="no") as caught:
        memory.recall(1_004)
    assert caught.value is not first
    assert memory.recall(1_005) == ""
    assert memory.learn("1", 1_006) == memory.recall(1_007) == "1"


def test_a_look_that_failed_speaks_for_those_who_waited_for_it() -> None:
    memory = LevelMemory(0)
    memory.fail(failure(), 5)
    assert memory.recall(5) == memory.recall(9, since_ns=6) == ""
    with pytest.raises(DeadlineExpired):
        memory.recall(9, since_ns=5)


def test_of_two_answers_that_cross_the_one_asked_for_later_counts() -> None:
    memory = LevelMemory(1_000)
    memory.learn("2", 10)
    assert memory.learn("normal", 9) == memory.recall(11) == "2"
    assert memory.learn("normal", 10) == memory.recall(11) == "normal"


@pytest.mark.parametrize(
    ("call_timeout_s", "left_s", "patience_s"),
    [(10, None, LOOK_S_MAX), (0.25, None, 0.25), (10, 0.5, 0.5), (10, 60, LOOK_S_MAX)],
)
def test_a_look_takes_no_longer_than_a_call_the_deadline_and_a_second(
    call_timeout_s: float, left_s: float | None, patience_s: float
) -> None:
    look = Look(LevelMemory(0), 0, call_timeout_s=call_timeout_s, left_s=left_s)
    assert look.patience_s == look.timeout_s(0) == patience_s
    assert look.timeout_s(round(patience_s * NS_PER_S / 4)) == pytest.approx(patience_s * 0.75)
    with pytest.raises(DeadlineExpired, match=f"within {patience_s:g} s"):
        look.timeout_s(round(patience_s * NS_PER_S))


@pytest.mark.parametrize(
    ("left_s", "code", "is_told"),
    [
        (None, grpc.StatusCode.DEADLINE_EXCEEDED, True),
        (5, grpc.StatusCode.DEADLINE_EXCEEDED, True),
        (0.1, grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (0.1, grpc.StatusCode.INTERNAL, True),
    ],
)
def test_that_a_hurried_one_could_not_wait_tells_others_nothing(
    left_s: float | None, code: grpc.StatusCode, is_told: bool
) -> None:
    memory = LevelMemory(1_000)
    Look(memory, 0, call_timeout_s=10, left_s=left_s).fail(failure(code), 5)
    if is_told:
        with pytest.raises(BrokerError, match="no"):
            memory.recall(6)
    else:
        assert memory.recall(6) == ""


def test_no_age_means_that_every_question_is_asked() -> None:
    memory = LevelMemory(0)
    memory.learn("1", 5)
    assert memory.recall(5) == ""
    with pytest.raises(ValueError, match="level_age_s_max"):
        LevelMemory(-1)
