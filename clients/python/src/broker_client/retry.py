"""Decides whether a call that failed is tried again, and when. Pure: time and chance are arguments.

Rules (DESIGN.md, Resilience). Tried again is only what was turned away with RetryInfo before any
work was done on it, and a call whose connection was lost, with the same request_id. Each kind has
its own bound, and no wait reaches past the deadline. A refusal waits as long as the broker said
plus a random part, a lost connection a random part alone ("full jitter":
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that a fleet which
was refused together does not come back together. Everything else is the caller's to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker_client.errors import BrokerError, ConnectionLost, Unreachable

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

# How a request ended on which no work was done. What failed, the broker itself has tried again.
TURNED_AWAY: Final = frozenset(("", "refused", "shed", "displaced"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of trying again. `RetryPolicy(refusals_max=0, reconnects_max=0)` never does.

    `refusals_max` counts tries after refusals, `reconnects_max` those after a lost connection. The
    random part is drawn from 0 to `backoff_ms` doubled with each try, at most `backoff_ms_max`. A
    broker that asks for more patience than `wait_ms_max` has said no: its error is raised.
    """

    refusals_max: int = 4
    # Twenty reconnects at these delays span 38 s on average, and 25 s in 99 of 100 cases: the
    # restart of a broker, on a busy machine too. Ten would span 13 s on average, and 6 s.
    reconnects_max: int = 20
    backoff_ms: int = 100
    backoff_ms_max: int = 5_000
    wait_ms_max: int = 60_000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


def deadline_after(deadline_s: float | None, *, now_ns: int) -> int | None:
    """A deadline in seconds from now, on the clock of `now_ns`; None: there is none."""
    return None if deadline_s is None else now_ns + round(deadline_s * NS_PER_S)


class Attempts:
    """The tries of one call. Made once per call, asked after each failure."""

    def __init__(self, policy: RetryPolicy, *, deadline_ns: int | None) -> None:
        self._policy = policy
        self._deadline_ns = deadline_ns
        self._refusals = 0
        self._reconnects = 0

    @property
    def deadline_ns(self) -> int | None:
        """When all tries end; None: never."""
        return self._deadline_ns

    def timeout_s(self, now_ns: int) -> float | None:
        """Seconds left until the deadline, at least 0; None where there is none."""
        if self._deadline_ns is None:
            return None
        return max(0, self._deadline_ns - now_ns) / NS_PER_S

    def delay_ns(self, error: BrokerError, *, received: int, now_ns: int, chance: float) -> int:
        """How long to wait before the next try; raises `error` where there is to be none.

        `received` counts the pieces that came so far; `chance` lies in [0, 1).
        """
        if isinstance(error, ConnectionLost) or self._is_still_away(error):
            if self._reconnects >= self._policy.reconnects_max:
                raise error
            delay_ns = self._jitter_ns(self._reconnects, chance)
            self._reconnects += 1
        elif error.retry_after_s is not None and error.outcome in TURNED_AWAY and received == 0:
            wait_ns = round(error.retry_after_s * NS_PER_S)
            if (
                self._refusals >= self._policy.refusals_max
                or wait_ns > self._policy.wait_ms_max * NS_PER_MS
            ):
                raise error
            delay_ns = wait_ns + self._jitter_ns(self._refusals, chance)
            self._refusals += 1
        else:
            raise error
        if self._deadline_ns is not None and now_ns + delay_ns >= self._deadline_ns:
            raise error
        return delay_ns

    def _is_still_away(self, error: BrokerError) -> bool:
        """A broker never reached is not waited for; one that was lost may be restarting."""
        return isinstance(error, Unreachable) and self._reconnects > 0

    def _jitter_ns(self, tries: int, chance: float) -> int:
        # The exponent is bounded apart from the result, so that a large count stays a small number.
        ceiling_ms = min(self._policy.backoff_ms << min(tries, 20), self._policy.backoff_ms_max)
        return int(ceiling_ms * NS_PER_MS * chance)
