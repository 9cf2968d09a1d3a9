"""How far estimates of waits may be believed: intervals in which four of five come true.

An estimate of the moment at which a request starts is a point; what becomes of it depends on who
comes meanwhile and on how long answers are, which nobody knows. So the ratio of the real wait to
the point is remembered by situation, and an interval is the point times low and high quantiles of
such ratios. Which quantiles is itself learned: after each miss the next interval is a little
wider on that side, after each hit a little narrower (adaptive conformal inference, Gibbs and
Candes 2021, arXiv 2106.00170). Over time a tenth then starts before and a tenth after what was
said, however wrong the points are and however the load changes.

What is judged is the first word to a request. One that leaves before it starts has waited for at
least so long: after the end of its interval that is a miss, before it nothing is known. Such waits
are remembered as somewhat longer than they were, or the waits of those who stayed would look like
those of all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from enum import IntEnum
from math import exp
from typing import Final, NamedTuple

# The share of requests that are to start before, and after, what they are told.
MISSED_EACH_SIDE: Final = 0.1

# How far the level of one side moves with each outcome: over some fifty of them it follows a change
# of load; a quicker one makes intervals jump.
LEVEL_STEP: Final = 0.02

# Ratios remembered in each situation, the last ones, and how many it takes to go by them alone.
RATIOS_MAX: Final = 200
RATIOS_MIN: Final = 25

# Added to waits and points before they are compared: a second more or less is no fivefold error.
GRAIN_NS: Final = 1_000_000_000

# Beyond all that was seen (a level below 0) the interval widens by this power of e per level.
BEYOND_RATE: Final = 20.0
LEVEL_LEAST: Final = -0.5
LEVEL_MOST: Final = 0.45

# Before anything was seen: what waits come to where lines are long and models change.
RATIO_LOW: Final = 0.3
RATIO_HIGH: Final = 2.5
_UNKNOWN: Final = (RATIO_LOW, 1.0, RATIO_HIGH)

# How much longer than it stayed somebody who left is taken to have waited in the end.
LEFT_FACTOR: Final = 1.25

# Points are alike within a power of two, from so many seconds (all below are alike) to 2^12.
BUCKETS_MAX: Final = 12
_ALL: Final = BUCKETS_MAX + 1

# Outcomes, the last ones, of which it is told how many came true.
JUDGED_MAX: Final = 1_000


class Situation(IntEnum):
    """What a request finds when it comes, as far as it makes estimates better or worse."""

    FREE = 0  # a slot is free for it, and it has its turn now
    RESIDENT = 1
    LOADING = 2
    NEXT = 3  # something leaves for its model
    LEAVING = 4  # its model has been told to make room for another
    AWAY = 5  # other models are to be exhausted first


class Interval(NamedTuple):
    """Nanoseconds from now: `low_ns` <= `middle_ns` <= `high_ns`."""

    low_ns: int
    middle_ns: int
    high_ns: int


class Word(NamedTuple):
    """What a request was told first, as it takes to judge it. `used`: the bucket of points by whose
    ratios, its own one or that of all points. It is kept with its request, so it is plain."""

    at_ns: int
    situation: Situation
    point_ns: float
    used: int
    interval: Interval


class Calibration:
    """See the module. Constant time for each word and each outcome, whatever waits."""

    __slots__ = ("_is_inside", "_ratios", "inside", "judged", "left_before")

    def __init__(self) -> None:
        # By situation, and by the bucket of the point; the last one of each is for all points.
        self._ratios = [[Ratios() for _ in range(BUCKETS_MAX + 2)] for _ in Situation]
        self._is_inside: deque[bool] = deque(maxlen=JUDGED_MAX)
        self.inside = self.judged = 0  # since start
        self.left_before = 0  # of which nothing is known

    @property
    def lately(self) -> tuple[int, int]:
        """(how many of the last ones were judged, how many of these came true)."""
        return len(self._is_inside), sum(self._is_inside)

    @property
    def remembered(self) -> int:
        """Ratios, of all situations; each is in two lists, that of its bucket and that of all."""
        return sum(len(each) for row in self._ratios for each in row)

    def interval(self, situation: Situation, point_ns: float) -> Interval:
        """What to say of such an estimate."""
        return _interval(self._used(situation, point_ns), point_ns)

    def middle_ns(self, situation: Situation, point_ns: float) -> int:
        """The middle of it alone: asked for of all that wait, again and again."""
        return _scaled(point_ns, self._used(situation, point_ns).bounds()[1])

    def word(self, situation: Situation, point_ns: float, now_ns: int) -> Word:
        """The same for the first word to a request, which is to be judged."""
        row, bucket = self._ratios[situation], _bucket(point_ns)
        used = bucket if len(row[bucket]) >= RATIOS_MIN else _ALL
        return Word(now_ns, situation, point_ns, used, _interval(row[used], point_ns))

    def overdue(self, word: Word) -> None:
        """A request that was told this still waits after the end of its interval. That is a miss
        whenever it starts: to know it now is to be less wrong where waits are growing."""
        self._judge(word, is_early=False, is_late=True)

    def started(self, word: Word, now_ns: int, *, is_judged: bool = False) -> None:
        """A request that was told this has started. `is_judged`: it was overdue."""
        waited_ns = now_ns - word.at_ns
        low_ns, _, high_ns = word.interval
        self._learn(word, waited_ns)
        if not is_judged:
            self._judge(word, is_early=waited_ns < low_ns, is_late=waited_ns > high_ns)

    def left(self, word: Word, now_ns: int, *, is_judged: bool = False) -> None:
        """A request that was told this waits no longer, and has not started."""
        waited_ns = now_ns - word.at_ns
        self._learn(word, waited_ns * LEFT_FACTOR)
        if is_judged:
            return
        if waited_ns > word.interval.high_ns:
            self._judge(word, is_early=False, is_late=True)
        else:
            self.left_before += 1

    def _used(self, situation: Situation, point_ns: float) -> Ratios:
        row = self._ratios[situation]
        own = row[_bucket(point_ns)]
        return own if len(own) >= RATIOS_MIN else row[_ALL]

    def _judge(self, word: Word, *, is_early: bool, is_late: bool) -> None:
        is_inside = not (is_early or is_late)
        self.judged += 1
        self.inside += is_inside
        self._is_inside.append(is_inside)
        self._ratios[word.situation][word.used].judge(is_early=is_early, is_late=is_late)

    def _learn(self, word: Word, waited_ns: float) -> None:
        ratio = (waited_ns + GRAIN_NS) / (word.point_ns + GRAIN_NS)
        row = self._ratios[word.situation]
        row[_bucket(word.point_ns)].add(ratio)
        row[_ALL].add(ratio)


def _interval(ratios: Ratios, point_ns: float) -> Interval:
    low, middle, high = ratios.bounds()
    return Interval(_scaled(point_ns, low), _scaled(point_ns, middle), _scaled(point_ns, high))


class Ratios:
    """Those of one situation, the last ones; and the levels of its two sides."""

    __slots__ = ("_bounds", "_in_order", "_level_high", "_level_low", "_sorted")

    def __init__(self) -> None:
        self._bounds: tuple[float, float, float] | None = None  # until something changes them
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []
        self._level_low = self._level_high = MISSED_EACH_SIDE

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, ratio: float) -> None:
        self._bounds = None
        if len(self._in_order) >= RATIOS_MAX:
            del self._sorted[bisect_left(self._sorted, self._in_order.popleft())]
        self._in_order.append(ratio)
        insort(self._sorted, ratio)

    def judge(self, *, is_early: bool, is_late: bool) -> None:
        self._bounds = None
        self._level_low = _moved(self._level_low, is_missed=is_early)
        self._level_high = _moved(self._level_high, is_missed=is_late)

    def bounds(self) -> tuple[float, float, float]:
        """The low, the middle and the high ratio."""
        if self._bounds is None:
            self._bounds = self._find_bounds()
        return self._bounds

    def _find_bounds(self) -> tuple[float, float, float]:
        count = len(self._sorted)
        if count < RATIOS_MIN:
            return _UNKNOWN
        middle = self._sorted[count // 2]
        low = self._sorted[int(max(0.0, self._level_low) * count)]
        high = self._sorted[count - 1 - int(max(0.0, self._level_high) * count)]
        if self._level_low < 0:
            low *= exp(BEYOND_RATE * self._level_low)
        if self._level_high < 0:
            high *= exp(-BEYOND_RATE * self._level_high)
        return min(low, middle), middle, max(high, middle)


def _moved(level: float, *, is_missed: bool) -> float:
    """The level after one outcome: it rises slowly with hits, and falls at once with a miss."""
    moved = level + LEVEL_STEP * (MISSED_EACH_SIDE - is_missed)
    return min(max(moved, LEVEL_LEAST), LEVEL_MOST)


def _scaled(point_ns: float, ratio: float) -> int:
    return max(0, int((point_ns + GRAIN_NS) * ratio) - GRAIN_NS)


def _bucket(point_ns: float) -> int:
    bits = (int(point_ns) // GRAIN_NS).bit_length()
    return bits if bits < BUCKETS_MAX else BUCKETS_MAX
