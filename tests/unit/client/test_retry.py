"""What is tried again, when, and how often at most."""

from __future__ import annotations

import grpc
import pytest

from broker_client.errors import (
    BackendFailed,
    BrokerError,
    ConnectionLost,
    DeadlineExpired,
    ErrorDetails,
    InvalidRequest,
    QueueFull,
    QuotaExceeded,
    StreamBroken,
    TakenOver,
    Unreachable,
)
from broker_client.retry import NS_PER_MS, NS_PER_S, Attempts, RetryPolicy, deadline_after

POLICY = RetryPolicy(
    refusals_max=2, reconnects_max=3, backoff_ms=100, backoff_ms_max=250, wait_ms_max=10_000
)


def refusal(retry_after_s: float = 2.0, outcome: str = "refused") -> QueueFull:
    return QueueFull(
        ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=retry_after_s, outcome=outcome)
    )


def over_quota(retry_after_s: float | None = 6.0) -> QuotaExceeded:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return QuotaExceeded(ErrorDetails(code=code, retry_after_s=retry_after_s, outcome="refused"))


def plain(kind: type[BrokerError]) -> BrokerError:
    return kind(ErrorDetails(code=grpc.StatusCode.UNKNOWN))


def delay_ns(
    attempts: Attempts, error: BrokerError, *, received: int = 0, now_ns: int = 0, chance: float = 0
) -> int:
    return attempts.delay_ns(error, received=received, now_ns=now_ns, chance=chance)


def test_a_refusal_waits_as_long_as_it_says_and_a_random_part_that_grows() -> None:
    attempts = Attempts(POLICY, deadline_ns=None)
    assert delay_ns(attempts, refusal(), chance=0.5) == 2 * NS_PER_S + 50 * NS_PER_MS
    assert delay_ns(attempts, refusal(), chance=0.5) == 2 * NS_PER_S + 100 * NS_PER_MS


def test_a_quota_that_says_when_more_comes_is_waited_for_like_any_refusal() -> None:
    attempts = Attempts(POLICY, deadline_ns=15 * NS_PER_S)
    assert delay_ns(attempts, over_quota()) == 6 * NS_PER_S
    assert delay_ns(attempts, refusal(), now_ns=6 * NS_PER_S) == 2 * NS_PER_S
    with pytest.raises(QuotaExceeded):  # there were two tries
        delay_ns(attempts, over_quota(1.0), now_ns=8 * NS_PER_S)


def test_a_quota_that_comes_too_late_is_not_waited_for() -> None:
    with pytest.raises(QuotaExceeded):
        delay_ns(Attempts(POLICY, deadline_ns=6 * NS_PER_S), over_quota(6.0))
    with pytest.raises(QuotaExceeded):
        delay_ns(Attempts(POLICY, deadline_ns=None), over_quota(10.001))


def test_an_exhaustion_that_says_no_time_is_not_tried_again() -> None:
    with pytest.raises(QuotaExceeded):
        delay_ns(Attempts(POLICY, deadline_ns=None), over_quota(None))


@pytest.mark.parametrize("outcome", ["refused", "shed", "displaced"])
def test_whoever_gave_way_to_others_comes_back(outcome: str) -> None:
    attempts = Attempts(POLICY, deadline_ns=None)
    assert delay_ns(attempts, refusal(outcome=outcome)) == 2 * NS_PER_S


def test_refusals_are_bounded_and_the_last_one_is_raised() -> None:
    attempts = Attempts(POLICY, deadline_ns=None)
    for _ in range(POLICY.refusals_max):
        delay_ns(attempts, refusal())
    last = refusal()
    with pytest.raises(QueueFull) as raised:
        delay_ns(attempts, last)
    assert raised.value is last


def test_a_refusal_that_asks_for_too_much_patience_is_raised() -> None:
    with pytest.raises(QueueFull):
        delay_ns(Attempts(POLICY, deadline_ns=None), refusal(retry_after_s=10.001))


def test_no_wait_reaches_past_the_deadline() -> None:
    attempts = Attempts(POLICY, deadline_ns=3 * NS_PER_S)
    assert delay_ns(attempts, refusal(), now_ns=0) == 2 * NS_PER_S
    with pytest.raises(QueueFull):
        delay_ns(attempts, refusal(), now_ns=NS_PER_S)


def test_a_lost_connection_waits_a_random_part_alone_up_to_its_ceiling() -> None:
    attempts = Attempts(POLICY, deadline_ns=None)
    lost = plain(ConnectionLost)
    waits_ms = [delay_ns(attempts, lost, received=7, chance=0.5) / NS_PER_MS for _ in range(3)]
    assert waits_ms == [50, 100, 125]
    with pytest.raises(ConnectionLost):
        delay_ns(attempts, lost)


def test_a_broker_that_was_lost_may_be_away_for_a_while() -> None:
    attempts = Attempts(POLICY, deadline_ns=None)
    delay_ns(attempts, plain(ConnectionLost))
    delay_ns(attempts, plain(Unreachable))
    delay_ns(attempts, plain(Unreachable))
    with pytest.raises(Unreachable):
        delay_ns(attempts, plain(Unreachable))


@pytest.mark.parametrize(
    "error",
    [
        plain(Unreachable),
        plain(InvalidRequest),
        plain(TakenOver),
        plain(DeadlineExpired),
        plain(StreamBroken),
        plain(BackendFailed),
        plain(QueueFull),
        refusal(outcome="failed"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.outcome}",
)
def test_nothing_else_is_tried_again(error: BrokerError) -> None:
    with pytest.raises(type(error)) as raised:
        delay_ns(Attempts(POLICY, deadline_ns=None), error)
    assert raised.value is error


def test_a_refusal_after_a_piece_is_not_tried_again() -> None:
    with pytest.raises(QueueFull):
        delay_ns(Attempts(POLICY, deadline_ns=None), refusal(), received=1)


def test_the_time_left_shrinks_to_zero_and_never_below() -> None:
    attempts = Attempts(POLICY, deadline_ns=deadline_after(1.5, now_ns=NS_PER_S))
    assert attempts.timeout_s(NS_PER_S) == 1.5
    assert attempts.timeout_s(2 * NS_PER_S) == 0.5
    assert attempts.timeout_s(9 * NS_PER_S) == 0
    assert Attempts(POLICY, deadline_ns=deadline_after(None, now_ns=0)).timeout_s(0) is None


def test_a_policy_of_negative_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="refusals_max"):
        RetryPolicy(refusals_max=-1)
