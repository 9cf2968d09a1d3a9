"""How much work may be set aside for urgent requests: of whom, how often, at which cost.

Work that is set aside has run in vain, but for what its caller lets another attempt go on from. An
account keeps that to a share of all slots: it is filled by the time, up to what a window gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What an attempt that was set aside is said to have come to nothing by.
PREEMPTED: Final = "PREEMPTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionPolicy:
    """`preemptions_max` times one request may be set aside; 0: nothing ever is. `share_max` of the
    time of all slots may be wasted by that, and what is not is saved up for `window_ns`. Requests
    of priority `urgent_worst` and better have others set aside, of priority `victim_best` at best.
    What probably ends within `soon_ns` is waited for."""

    preemptions_max: int = 2
    share_max: float = 0.1
    window_ns: int = 600_000_000_000
    urgent_worst: int = 2
    victim_best: int = 3
    soon_ns: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.preemptions_max < 0 or self.window_ns <= 0 or self.soon_ns < 0:
            raise ValueError("counts and times of preemption must not be negative")
        if not 0.0 <= self.share_max <= 1.0:
            raise ValueError("share_max must be in [0, 1]")
        if not 1 <= self.urgent_worst < self.victim_best:
            raise ValueError("what is set aside must be of a worse priority than what is urgent")


class WasteAccount:
    """Time of slots that may still be wasted, kept per slot. Over any time T no more than `share` *
    (T + window) of it is spent, but for what a call was found to have wasted only at its end."""

    __slots__ = ("_at_ns", "_left_ns")

    def __init__(self, policy: PreemptionPolicy) -> None:
        self._left_ns = _most_ns(policy)
        self._at_ns = 0

    def left_ns(self, policy: PreemptionPolicy, slots: int, now_ns: int) -> float:
        """How much of the time of so many slots may be wasted now; below 0 it is overdrawn."""
        return self._left_at_ns(policy, now_ns) * slots

    def spend(self, policy: PreemptionPolicy, waste_ns: float, slots: int, now_ns: int) -> None:
        """So much was wasted of the time of so many slots; less than 0: was not, after all."""
        self._left_ns = self._left_at_ns(policy, now_ns) - waste_ns / slots
        self._at_ns = now_ns

    def _left_at_ns(self, policy: PreemptionPolicy, now_ns: int) -> float:
        earned_ns = policy.share_max * (now_ns - self._at_ns)
        return min(_most_ns(policy), self._left_ns + earned_ns)


def _most_ns(policy: PreemptionPolicy) -> float:
    return policy.share_max * policy.window_ns
