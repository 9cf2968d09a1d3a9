"""What was seen of the work: how much waits, how much comes and in what bursts, the longest of it.

What a bound on waiting is made of (`wait_bound.py`). Everything here takes constant time for each
request, however many wait.
"""

from __future__ import annotations

from math import exp
from typing import Final

# Over how long the load is measured here: a bound is about what comes for hours. `offered_load.py`
# has a shorter window, as a rule must follow a rush hour.
LOAD_WINDOW_NS: Final = 1_800_000_000_000

# For how long a burst is remembered: after so long a third of it is left.
BURST_KEPT_NS: Final = 21_600_000_000_000

# Rates, as parts of what all slots do, at which it is noted how much came at once.
RATES: Final = (0.5, 0.65, 0.8, 0.9)

# A burst of so much work of all slots may always come, whatever was seen.
BURST_NS_MIN: Final = 60_000_000_000

# So much is taken to have come before anybody looked: as much as a bound bears.
LOAD_UNSEEN: Final = 0.9

# What comes within so long is put together: it is a small part of any burst that counts.
GATHER_NS: Final = 100_000_000

# The longest that was measured is forgotten so slowly: after a thousand others it is a third.
LONGEST_KEPT: Final = 0.999


class WaitingWork:
    """How long all that waits will run, by runner. `of_all` is their sum, in slot-nanoseconds."""

    __slots__ = ("_of", "of_all")

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self.of_all = 0

    def change(self, runner: str, work_ns: int) -> None:
        """So much more waits; less where it is negative."""
        self.of_all += work_ns
        left_ns = self._of.get(runner, 0) + work_ns
        if left_ns:
            self._of[runner] = left_ns
        else:
            self._of.pop(runner, None)

    def of(self, runner: str) -> int:
        return self._of.get(runner, 0)


class Longest:
    """The longest of many times, slowly forgotten; 0 before the first."""

    __slots__ = ("_longest_ns",)

    def __init__(self) -> None:
        self._longest_ns = 0.0

    def add(self, time_ns: float) -> None:
        self._longest_ns = max(LONGEST_KEPT * self._longest_ns, time_ns)

    @property
    def ns(self) -> float:
        return self._longest_ns


class Flow:
    """The work that comes for some slots, in time of all of them: what keeps every slot busy for a
    second is a second of it.

    What comes in any t nanoseconds is at most rate * t and a burst. For each of `RATES` the largest
    burst is known that was seen: it is how high the work piles up where just that rate is taken off
    (a leaky bucket that never overflows). What lies there now has come already, and only the rest
    of a burst is still to come. What is said of it is true up to `GATHER_NS` ago.
    """

    __slots__ = (
        "_at_ns",
        "_come_ns",
        "_gathered_ns",
        "_highest_ns",
        "_piles_ns",
        "_since_ns",
        "slots",
    )

    def __init__(self, slots: float, now_ns: int) -> None:
        self.slots = slots
        self._since_ns = self._at_ns = now_ns
        self._come_ns = 0.0
        self._gathered_ns = 0
        self._piles_ns = [0.0] * len(RATES)
        self._highest_ns = [0.0] * len(RATES)

    def add(self, work_ns: int, now_ns: int) -> None:
        """A request came that will run for so long."""
        self._gathered_ns += work_ns
        if now_ns - self._at_ns >= GATHER_NS:
            self._take(now_ns)

    def _take(self, now_ns: int) -> None:
        part_ns, passed_ns = self._gathered_ns / self.slots, now_ns - self._at_ns
        self._at_ns, self._gathered_ns = now_ns, 0
        self._come_ns = self._come_ns * exp(-passed_ns / LOAD_WINDOW_NS) + part_ns
        piles_ns, highest_ns = self._piles_ns, self._highest_ns
        kept = 1.0 - passed_ns / BURST_KEPT_NS  # it is a small part of that
        for at, rate in enumerate(RATES):
            pile_ns = max(0.0, piles_ns[at] - rate * passed_ns) + part_ns
            piles_ns[at] = pile_ns
            highest_ns[at] = max(pile_ns, kept * highest_ns[at])

    def load(self, now_ns: int) -> float:
        """Which part of what the slots do has come, over about the last half hour."""
        seen_ns = self._come_ns * exp((self._at_ns - now_ns) / LOAD_WINDOW_NS)
        unseen = exp((self._since_ns - now_ns) / LOAD_WINDOW_NS)
        return seen_ns / LOAD_WINDOW_NS + LOAD_UNSEEN * unseen

    def burst_ns(self, at: int, now_ns: int) -> float:
        """How much may come at once beyond the rate at this place of `RATES`, from now on."""
        pile_ns = max(0.0, self._piles_ns[at] - RATES[at] * (now_ns - self._at_ns))
        return max(BURST_NS_MIN, self._highest_ns[at] - pile_ns)
