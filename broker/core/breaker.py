"""A circuit breaker per (backend, runner), as a table: while it is open nothing is sent there.

It trips on failures and slow calls within a sliding window (the seeds': 5 failures, 60 s), stays
open for a time that grows with each probe that fails, and then lets one probe through. What counts
as a failure is a table of its own, in `failures.py`: a caller's bad input never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.state_machine import Machine, Symbol


class BreakerState(Symbol):
    CLOSED = "closed"  # all may pass
    OPEN = "open"  # nothing may
    HALF_OPEN = "half_open"  # one may, as a probe


class BreakerTrigger(Symbol):
    TRIP = "trip"  # too many failures within the window
    COOL = "cool"  # it was open long enough
    PROVE = "prove"  # the probe came back well
    RELAPSE = "relapse"  # it did not
    RESET = "reset"  # a cure, a new process or an operator: what was counted says nothing now


_S, _T = BreakerState, BreakerTrigger

BREAKER: Final = Machine(
    "breaker",
    {
        (_S.CLOSED, _T.TRIP): _S.OPEN,
        (_S.CLOSED, _T.RESET): _S.CLOSED,
        (_S.OPEN, _T.COOL): _S.HALF_OPEN,
        (_S.OPEN, _T.RESET): _S.CLOSED,
        (_S.HALF_OPEN, _T.PROVE): _S.CLOSED,
        (_S.HALF_OPEN, _T.RELAPSE): _S.OPEN,
        (_S.HALF_OPEN, _T.RESET): _S.CLOSED,
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Trips on `failures` of the calls within `window_ns`, where they are at least `failure_share`
    of these. A call is slow, and counts as failed, whose first piece took `slow_ns`. Open for
    `open_ns`, doubled with each relapse up to `open_ns_max`."""

    failures: int = 5
    window_ns: int = 60_000_000_000
    failure_share: float = 0.5
    slow_ns: int = 120_000_000_000
    open_ns: int = 60_000_000_000
    open_ns_max: int = 600_000_000_000

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.failure_share <= 1:
            raise ValueError("failures must be at least 1, failure_share in (0, 1]")
        if min(self.window_ns, self.slow_ns, self.open_ns) <= 0 or self.open_ns_max < self.open_ns:
            raise ValueError("times of the breaker must be positive, the longest the longest")
