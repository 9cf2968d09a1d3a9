"""When the library is asked again: a table, and what a day of it comes to."""

from __future__ import annotations

from random import Random

import pytest

from broker.models.query import Freshness
from broker.models.refresh import (
    HOUR_MS,
    LOCAL_MS,
    METERED_MS,
    RefreshPolicy,
    age_ms,
    backoff_ms,
    freshness,
    interval_ms,
    wait_ms,
)

POLICY = RefreshPolicy()
NEVER_SPREAD = Random()
NEVER_SPREAD.random = lambda: 0.0  # type: ignore[method-assign]
DAY_MS = 24 * HOUR_MS


@pytest.mark.parametrize(
    ("age", "is_empty", "expected"),
    [
        (0, False, Freshness.FRESH),
        (6 * HOUR_MS - 1, False, Freshness.FRESH),
        (6 * HOUR_MS, False, Freshness.STALE),
        (24 * HOUR_MS - 1, False, Freshness.STALE),
        (24 * HOUR_MS, False, Freshness.EXPIRED),
        (10**12, False, Freshness.EXPIRED),
        (None, False, Freshness.EXPIRED),
        (0, True, Freshness.EMPTY),
        (None, True, Freshness.EMPTY),
    ],
)
def test_how_fresh(age: int | None, is_empty: bool, expected: Freshness) -> None:
    assert freshness(age, POLICY, is_empty=is_empty) is expected


@pytest.mark.parametrize(
    ("then", "expected"),
    [(None, None), (1_000_000, 0), (990_000, 10_000), (1_050_000, 0), (1_060_001, None)],
)
def test_a_time_of_the_future_is_no_age(then: int | None, expected: int | None) -> None:
    assert age_ms(then, 1_000_000) == expected


@pytest.mark.parametrize(
    ("policy", "age", "cost_ms", "expected"),
    [
        # Fresh is left alone, stale and expired are not.
        (POLICY, 0, 0.0, 6 * HOUR_MS),
        (POLICY, 6 * HOUR_MS - 1, 0.0, 1),
        (POLICY, 6 * HOUR_MS, 0.0, 0),
        (POLICY, 24 * HOUR_MS, 0.0, 0),
        (POLICY, None, 0.0, 0),
        # A fast connection changes nothing; a slow one is used less often, and once a day.
        (POLICY, 0, 1_000.0, 6 * HOUR_MS),
        (POLICY, 0, 0.1 * HOUR_MS, 10 * HOUR_MS),
        (POLICY, 7 * HOUR_MS, 0.1 * HOUR_MS, 3 * HOUR_MS),
        (POLICY, 0, 5 * HOUR_MS, 24 * HOUR_MS),
        # What costs is asked once a week; of unknown age at once.
        (RefreshPolicy(is_metered=True), 24 * HOUR_MS, 0.0, METERED_MS - DAY_MS),
        (RefreshPolicy(is_metered=True), METERED_MS, 0.0, 0),
        (RefreshPolicy(is_metered=True), None, 0.0, 0),
        # A file here costs no connection.
        (RefreshPolicy(is_local=True, is_metered=True), 0, 0.0, LOCAL_MS),
        (RefreshPolicy(is_local=True), 0, 6_000.0, 600_000),
        (RefreshPolicy(is_local=True, fresh_ms=10, expired_ms=10), 0, 6_000.0, 10),
    ],
)
def test_how_long_it_stays(
    policy: RefreshPolicy, age: int | None, cost_ms: float, expected: int
) -> None:
    assert wait_ms(age, policy, cost_ms, NEVER_SPREAD) == expected


def test_brokers_do_not_go_on_asking_together() -> None:
    chance = Random(0)
    waits = {wait_ms(0, POLICY, 0.0, chance) for _ in range(100)}
    assert len(waits) == 100
    assert min(waits) >= 6 * HOUR_MS
    assert max(waits) <= 6.6 * HOUR_MS


@pytest.mark.parametrize(
    ("failures", "is_passing", "lowest", "highest"),
    [
        (1, True, 15_000, 30_000),
        (2, True, 30_000, 60_000),
        (5, True, 240_000, 480_000),
        (8, True, 1_800_000, 3_600_000),
        (10_000, True, 1_800_000, 3_600_000),
        (1, False, 1_800_000, 3_600_000),
    ],
)
def test_after_failures(failures: int, is_passing: bool, lowest: int, highest: int) -> None:
    chance = Random(0)
    waits = [
        backoff_ms(failures, is_passing=is_passing, policy=POLICY, chance=chance)
        for _ in range(200)
    ]
    assert lowest <= min(waits) < max(waits) <= highest
    again = backoff_ms(failures, is_passing=is_passing, policy=POLICY, chance=Random(0))
    assert again == waits[0], "the same for the same seed"


@pytest.mark.parametrize("cost_ms", [0.0, 1.0, 10.0**6, 10.0**9, 10.0**15])
@pytest.mark.parametrize("is_metered", [False, True])
def test_the_interval_is_bounded_both_ways(cost_ms: float, is_metered: bool) -> None:
    policy = RefreshPolicy(is_metered=is_metered)
    longest = METERED_MS if is_metered else policy.expired_ms
    assert policy.fresh_ms <= interval_ms(policy, cost_ms) <= longest


@pytest.mark.parametrize(
    "wrong",
    [
        {"fresh_ms": 0},
        {"fresh_ms": 2, "expired_ms": 1},
        {"retry_ms": 0},
        {"retry_ms": 2, "retry_max_ms": 1},
    ],
)
def test_a_policy_that_contradicts_itself(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RefreshPolicy(**wrong)  # type: ignore[arg-type]
