"""How the hour and the day of the week change how often agents of an open loop begin something.

Rules: a factor of each hour times one of the weekday; where a group says so, also one that is drawn
for each day, so that no day is quite like another. Arrivals are thinned: what is drawn at the
highest rate is kept with the part that holds at its moment. A group that names no hours and no
weekdays draws what it always drew.
"""

from __future__ import annotations

from math import exp
from random import Random
from typing import Final

from broker.sim.workload import hash_of
from broker.sim.workload_spec import AgentsDraft, WorkloadSpec

SECOND_NS: Final = 1_000_000_000
HOUR_NS: Final = 3_600 * SECOND_NS
DAY_NS: Final = 24 * HOUR_NS
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

# The first Monday of the wall's clock: 5 January 1970.
_MONDAY_NS: Final = 4 * DAY_NS
# No day is so many times as busy as usual.
_NOISE_MAX: Final = 4.0


def wall_offset_ns(spec: WorkloadSpec) -> int:
    """What the clock on the wall shows when the workload begins, in local time since 1970."""
    begun_ns = int(spec.begins_at_h * HOUR_NS)
    return _MONDAY_NS + WEEKDAYS.index(spec.begins_on) * DAY_NS + begun_ns


class Days:
    """One group's. `peak` is the highest factor there can be."""

    def __init__(self, agents: AgentsDraft, spec: WorkloadSpec, seed: str) -> None:
        self._hours = agents.hours or (1.0,) * 24
        self._weekdays = agents.weekdays or (1.0,) * 7
        self._noise = agents.day_noise
        self._words = (seed, "day", agents.name)
        self._offset_ns = wall_offset_ns(spec)
        self._drawn: dict[int, float] = {}
        most = exp(2 * self._noise) if self._noise else 1.0
        self._noise_max = min(_NOISE_MAX, most)
        self.peak = max(self._hours) * max(self._weekdays) * self._noise_max

    @property
    def is_even(self) -> bool:
        """Is every moment like every other?"""
        return set(self._hours) == set(self._weekdays) == {1.0} and not self._noise

    def keeps(self, chance: Random, at_ns: int) -> bool:
        """Does what was drawn at the highest rate for this moment happen?"""
        return self.is_even or chance.random() * self.peak < self.factor(at_ns)

    def factor(self, at_ns: int) -> float:
        """How many times as often as `every_s` says it is then."""
        day, rest_ns = divmod(at_ns + self._offset_ns, DAY_NS)
        weekday = (day - _MONDAY_NS // DAY_NS) % 7
        return self._hours[rest_ns // HOUR_NS] * self._weekdays[weekday] * self._of_day(day)

    def _of_day(self, day: int) -> float:
        if not self._noise:
            return 1.0
        drawn = self._drawn.get(day)
        if drawn is None:
            chance = Random(hash_of(*self._words, str(day)))
            drawn = min(self._noise_max, chance.lognormvariate(0.0, self._noise))
            self._drawn[day] = drawn
        return drawn
