"""What a load costs, and who pays for it: those that it served.

While a model is loaded its slots serve nobody. What they would have served meanwhile is charged to
the requests that start on it afterwards, in equal shares, as many as a load has usually served: so
an agent that asks for what nobody else does pays for the loads that it causes, and of a model that
serves a thousand requests each pays next to nothing. The share is a part of a request's cost in the
virtual token counters. It is no part of what buckets of tokens are charged, which count what the
backend counted.
"""

from __future__ import annotations

from typing import Final

from _sched.average import MovingAverage
from broker.core.estimates import Estimates
from broker.core.residency import Residency

# How many requests a load serves changes with the load of the hour: the last ten or so count.
SERVED_WEIGHT: Final = 0.2
COST_WEIGHT: Final = 0.1


class LoadCharges:
    """See the module. Kept per runner; what a residency still owes is a part of it."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates
        self._served: dict[str, MovingAverage] = {}  # requests per load, by runner
        self._costs: dict[str, MovingAverage] = {}  # of requests, their shares of loads left out

    def __len__(self) -> int:
        return max(len(self._served), len(self._costs))

    def loaded(self, residency: Residency, load_ns: int) -> None:
        """A load of ours came to a good end: from now on it is owed. Nothing where it is not known
        what such a time is worth."""
        runner = residency.runner
        service_ns, cost = self._estimates.service_ns(runner), self._costs.get(runner)
        if service_ns and cost is not None:
            idle_ns = load_ns * residency.slots
            residency.load_owed = int((cost.mean() or 0.0) * idle_ns / service_ns)
            served = self._served.get(runner)
            usual = (served.mean() if served else None) or 1.0
            residency.load_share = -int(-residency.load_owed // max(1.0, usual))

    def share(self, residency: Residency, cost: int) -> int:
        """What one more request that it served, at this cost of its own, pays of the load."""
        known = self._costs.get(residency.runner)
        if known is None:
            known = self._costs[residency.runner] = MovingAverage(COST_WEIGHT)
        known.add(cost)
        residency.load_served += 1
        paid = min(residency.load_share, residency.load_owed)
        residency.load_owed -= paid
        return paid

    def left(self, residency: Residency) -> None:
        """It is there no longer: so many did it serve."""
        if residency.load_served:
            served = self._served.get(residency.runner)
            if served is None:
                served = self._served[residency.runner] = MovingAverage(SERVED_WEIGHT)
            served.add(residency.load_served)

    def keep(self, runners: set[str]) -> None:
        """Forgets the runners that no backend has any more."""
        for kept in (self._served, self._costs):
            for runner in [each for each in kept if each not in runners]:
                del kept[runner]
