"""A connection's rate, exact and in bounded memory."""

from __future__ import annotations

import pytest

from broker.api.grpc.floods import CallRates, FloodLimits, OpenCalls
from broker.core.errors import CallRateLimited, CallsFull


def rates(peers_max: int = 100) -> CallRates:
    return CallRates(FloodLimits(calls_per_s=2.0, calls_burst=3.0), peers_max)


def test_a_burst_passes_and_then_what_the_rate_lets_in() -> None:
    mine = rates()
    for _ in range(3):
        mine.take("a", 100.0)
    with pytest.raises(CallRateLimited) as refusal:
        mine.take("a", 100.0)
    assert refusal.value.retry_after_ns == pytest.approx(500_000_000, abs=10)
    mine.take("a", 100.5)
    with pytest.raises(CallRateLimited):
        mine.take("a", 100.6)


def test_what_is_refused_takes_nothing() -> None:
    mine = rates()
    for _ in range(3):
        mine.take("a", 0.0)
    for _ in range(50):
        with pytest.raises(CallRateLimited):
            mine.take("a", 0.0)
    mine.take("a", 0.5)


def test_each_connection_has_its_own() -> None:
    mine = rates()
    for peer in "abc":
        for _ in range(3):
            mine.take(peer, 0.0)


def test_connections_whose_bucket_is_full_again_are_forgotten() -> None:
    mine = rates()
    for number in range(1000):
        mine.take(f"peer-{number}", float(number))
    assert len(mine) <= 2


def test_of_too_many_connections_the_one_used_longest_ago_is_forgotten() -> None:
    mine = rates(peers_max=3)
    for _ in range(3):
        mine.take("first", 0.0)
    for peer in "abc":
        mine.take(peer, 0.0)
        assert len(mine) <= 3
    mine.take("first", 0.0)  # as good as new


def test_an_agent_that_has_left_is_forgotten() -> None:
    mine = OpenCalls(1)
    mine.enter("a")
    mine.enter("b")
    with pytest.raises(CallsFull, match="'a' has 1 calls open"):
        mine.enter("a")
    mine.leave("a")
    mine.enter("a")
