"""Whether a call to a backend that failed is tried again, and when. The broker alone retries.

Exponential backoff with full jitter (the seeds' base 2 and cap of 30 s; "full jitter":
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), and a budget per backend
(Finagle's RetryBudget): each first attempt adds a part of a retry, each retry takes a whole one, so
that a backend which fails much is not called much more.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`tries_max` attempts of one request, the first included. The wait before try n + 1 is drawn
    from 0 to `backoff_ns` * `backoff_base` ** (n - 1), at most `backoff_ns_max`. `budget_share`:
    retries per first attempt, saved up to `budget_max`, which a new backend has at once."""

    tries_max: int = 3
    backoff_ns: int = 1_000_000_000
    backoff_base: float = 2.0
    backoff_ns_max: int = 30_000_000_000
    budget_share: float = 0.08
    budget_max: float = 5.0

    def __post_init__(self) -> None:
        if self.tries_max < 1 or self.backoff_ns < 0 or self.backoff_ns_max < self.backoff_ns:
            raise ValueError("tries_max must be at least 1, and the longest backoff the longest")
        if self.backoff_base < 1 or not 0 <= self.budget_share <= 1 or self.budget_max < 0:
            raise ValueError("backoff_base must be at least 1, budget_share in [0, 1]")


class RetryBudget:
    """How many retries one backend may have now."""

    __slots__ = ("_left",)

    def __init__(self, policy: RetryPolicy) -> None:
        self._left = policy.budget_max

    @property
    def left(self) -> float:
        return self._left

    def earn(self, policy: RetryPolicy) -> None:
        """A request was attempted for the first time."""
        self._left = min(policy.budget_max, self._left + policy.budget_share)

    def spend(self) -> bool:
        """Takes one retry; False where there is none."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def owe(self) -> None:
        """Takes one retry even where there is none: it is earned later, before the next."""
        self._left -= 1.0

    def give_back(self, policy: RetryPolicy) -> None:
        """What was taken has called nobody."""
        self._left = min(policy.budget_max, self._left + 1.0)

    @property
    def is_overdrawn(self) -> bool:
        return self._left < 0.0


def backoff_ns(policy: RetryPolicy, tries: int, chance: float) -> int:
    """How long to wait after so many tries; `chance` lies in [0, 1)."""
    # The exponent is bounded apart from the result, so that a large count stays a small number.
    grown_ns = policy.backoff_ns * policy.backoff_base ** min(tries - 1, 64)
    return int(min(grown_ns, policy.backoff_ns_max) * chance)
