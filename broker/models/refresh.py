"""When the library is asked again: by the age of what it said, by what asking costs, and after
failures.

Fresh is not asked for again; stale is used while it is refreshed; expired is no more than a hint.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from broker.models.query import Freshness

HOUR_MS: Final = 3_600_000
# What lies on this host is looked at so often.
LOCAL_MS: Final = 60_000
# Where the connection costs by what it carries.
METERED_MS: Final = 7 * 24 * HOUR_MS
# A clock that was set back by less than this makes nothing doubtful.
CLOCK_SLACK_MS: Final = 60_000
# Brokers that were started together do not go on asking together.
_SPREAD: Final = 0.1
_BACKOFF_FLOOR: Final = 0.5
_DOUBLINGS_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """[model_list] of the configuration. `busy_share`: of the time, how much asking may take.
    `is_local`: the library is a file here, and no connection is spared by asking seldom."""

    fresh_ms: int = 6 * HOUR_MS
    expired_ms: int = 24 * HOUR_MS
    is_local: bool = False
    is_metered: bool = False
    busy_share: float = 0.01
    retry_ms: int = 30_000
    retry_max_ms: int = HOUR_MS

    def __post_init__(self) -> None:
        if not 0 < self.fresh_ms <= self.expired_ms:
            raise ValueError("what is expired must be older than what is fresh")
        if not 0 < self.retry_ms <= self.retry_max_ms:
            raise ValueError("the longest wait must be no shorter than the first")


def age_ms(then_unix_ms: int | None, now_unix_ms: int) -> int | None:
    """How old it is; None where that is not known: also where it would be of the future."""
    if then_unix_ms is None or then_unix_ms > now_unix_ms + CLOCK_SLACK_MS:
        return None
    return max(0, now_unix_ms - then_unix_ms)


def freshness(age: int | None, policy: RefreshPolicy, *, is_empty: bool = False) -> Freshness:
    """Of what is so old; None: nobody knows how old."""
    if is_empty:
        return Freshness.EMPTY
    if age is None or age >= policy.expired_ms:
        return Freshness.EXPIRED
    return Freshness.FRESH if age < policy.fresh_ms else Freshness.STALE


def interval_ms(policy: RefreshPolicy, cost_ms: float) -> int:
    """From one answer to the next question, where the last answer kept the connection busy for so
    long: as long as what is fresh is, longer where that would be more than its share, and never
    longer than until it is expired; where the connection costs, a week."""
    least_ms = policy.fresh_ms
    if policy.is_local:
        least_ms = min(LOCAL_MS, policy.fresh_ms)
    elif policy.is_metered:
        return max(METERED_MS, policy.expired_ms)
    return min(max(least_ms, int(cost_ms / policy.busy_share)), policy.expired_ms)


def wait_ms(age: int | None, policy: RefreshPolicy, cost_ms: float, chance: Random) -> int:
    """How long what is so old may still stay."""
    if age is None:
        return 0
    left_ms = interval_ms(policy, cost_ms) - age
    return 0 if left_ms <= 0 else int(left_ms * (1 + _SPREAD * chance.random()))


def backoff_ms(failures: int, *, is_passing: bool, policy: RefreshPolicy, chance: Random) -> int:
    """How long to wait after so many failures in a row; longest where asking again soon would come
    to the same."""
    doublings = min(failures - 1, _DOUBLINGS_MAX)
    top_ms = min(policy.retry_max_ms, policy.retry_ms << doublings)
    if not is_passing:
        top_ms = policy.retry_max_ms
    return int(top_ms * (_BACKOFF_FLOOR + (1 - _BACKOFF_FLOOR) * chance.random()))
