"""A lower bound on loads: no rule at all, even one that knows the future, serves this with fewer.

Each request must start between its arrival and a latest start, so its model must be resident at
some moment of that window. Take stretches of time that do not overlap: in one that holds whole
windows of d models, at most R of which were resident when it began, at least d - R become resident.
In the first of all nothing is resident yet. The bound is the best choice of stretches.

What it leaves out: how long a load takes, and that slots are few. So it is a bound, not a target.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A request that was served: by which model, and when it could start."""

    model: str
    arrived_ns: int
    latest_start_ns: int


def loads_at_least(served: Iterable[Window], resident_max: int) -> int:
    """How many loads all of these take at least, with so many models resident at once."""
    windows = sorted(served, key=lambda each: each.latest_start_ns)
    last_arrived_ns: dict[str, int] = {}  # by model, of the windows that have ended
    ends_ns: list[int] = []
    most: list[int] = []  # the bound of all that ends by then
    for each in windows:
        before_ns = last_arrived_ns.get(each.model, each.arrived_ns)
        last_arrived_ns[each.model] = max(before_ns, each.arrived_ns)
        best = most[-1] if most else 0
        # The stretch that ends here and holds d whole windows of different models begins with the
        # d-th latest of these arrivals at the latest.
        latest_ns = sorted(last_arrived_ns.values(), reverse=True)
        for models, begins_ns in enumerate(latest_ns, start=1):
            place = bisect_left(ends_ns, begins_ns)
            before = most[place - 1] if place else 0
            best = max(best, models, before + models - resident_max)
        if ends_ns and ends_ns[-1] == each.latest_start_ns:
            most[-1] = best
        else:
            ends_ns.append(each.latest_start_ns)
            most.append(best)
    return most[-1] if most else 0
