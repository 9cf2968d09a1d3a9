"""The virtual token counters in plain Python, obviously right: the oracle of the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from math import isfinite

VIRTUAL_SCALE = 1000  # virtual units per unit of cost at weight 1
COST_MAX = 2**40
COMPARTMENT_MAX = 53  # each is a bit of a 64-bit mask; above them one for each of 10 priorities
UNITS_MAX = 2**60  # what one charge amounts to at most, however small the weight
COUNTER_MAX = 2**62  # where a counter stays
TIMES_MAX = 1024  # of the largest request in a window
TIME_NS_MAX = 2**62
HANDICAP_NS_MAX = 2**54


@dataclass(slots=True, eq=False)
class _Flow:
    handle: int
    of: int
    weight: float
    counter: int = 0
    stand_ns: int = 0
    charged: int = 0  # the number of its last charge; 0: never
    in_flight: int = 0
    cost_in_flight: int = 0
    is_active: bool = False
    is_parked: bool = False

    def order(self, width: int) -> tuple[int, int, int]:
        return self.stand_ns if width else 0, self.charged, self.handle

    def parked_order(self) -> tuple[int, int, int]:
        return self.counter, self.charged, self.handle


class VirtualTokenCounters:
    """As `_sched.vtc.VirtualTokenCounters`. Handles are drawn by it alone."""

    def __init__(self, parked_max: int = 1024, grain: int = 0) -> None:
        self.parked_max = parked_max
        self.grain = grain
        self._sequence = count(1)
        self._charges = count(1)
        self._classes: set[int] = set()
        self._last: dict[int, _Flow] = {}  # by class, who was the last to stop being active
        self._largest: dict[int, int] = {}  # by class, what was charged at once, in virtual units
        self._flows: dict[int, _Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def open_class(self) -> int:
        handle = next(self._sequence)
        self._classes.add(handle)
        return handle

    def close_class(self, of: int) -> bool:
        if of not in self._classes or self._of(of):
            return False
        self._classes.remove(of)
        self._last.pop(of, None)
        self._largest.pop(of, None)
        return True

    def add_flow(self, of: int, weight: float) -> int:
        if of not in self._classes:
            raise KeyError(of)
        handle = next(self._sequence)
        self._flows[handle] = _Flow(handle, of, weight)
        return handle

    def remove_flow(self, flow: int) -> bool:
        self.deactivate(flow)
        return self._flows.pop(flow, None) is not None

    def set_weight(self, flow: int, weight: float) -> bool:
        if flow not in self._flows:
            return False
        found = self._flows[flow]
        old, new = (virtual_units(found.cost_in_flight, each) for each in (found.weight, weight))
        found.counter, found.weight = clamped_counter(found.counter + new - old), weight
        return True

    def activate(self, flow: int, lift: bool = True, stand_ns: int = 0) -> bool:
        found = self._flows.get(flow)
        if found is None or found.is_active:
            return False
        found.stand_ns = stand_ns
        if lift:
            found.counter = max(found.counter, self._floor(found.of, besides=found) or 0)
        found.is_active, found.is_parked = True, False
        return True

    def deactivate(self, flow: int) -> bool:
        found = self._flows.get(flow)
        if found is None or not found.is_active:
            return False
        found.is_active = False
        self._last[found.of] = found
        return True

    def restand(self, flow: int, stand_ns: int) -> bool:
        found = self._flows.get(flow)
        if found is None or not found.is_active:
            return False
        found.stand_ns = stand_ns
        return True

    def charge(self, flow: int, cost: int) -> bool:
        found = self._flows.get(flow)
        if found is None:
            return False
        found.counter = clamped_counter(found.counter + virtual_units(cost, found.weight))
        self._note_size(found, cost)
        found.charged = next(self._charges)
        found.in_flight += 1
        found.cost_in_flight += cost
        found.is_parked = False
        return True

    def settle(self, flow: int, charged: int, actual: int) -> bool:
        found = self._flows.get(flow)
        if found is None or found.in_flight == 0:
            return False
        more = virtual_units(actual, found.weight) - virtual_units(charged, found.weight)
        found.counter = clamped_counter(found.counter + more)
        self._note_size(found, actual)
        found.in_flight -= 1
        found.cost_in_flight = max(0, found.cost_in_flight - charged) if found.in_flight else 0
        return True

    def least(self, of: int) -> int:
        if of not in self._classes:
            raise KeyError(of)
        next_one = self._next(of)
        return 0 if next_one is None else next_one.handle

    def counter_of(self, flow: int) -> int | None:
        found = self._flows.get(flow)
        return None if found is None else found.counter

    def floor_of(self, of: int) -> int | None:
        if of not in self._classes:
            raise KeyError(of)
        return self._floor(of)

    def park(self, flow: int) -> bool:
        found = self._flows.get(flow)
        if found is None or found.is_active or found.is_parked or found.in_flight:
            return False
        found.is_parked = True
        return True

    def pop_spent(self, of: int) -> int:
        if of not in self._classes:
            raise KeyError(of)
        parked = sorted((each for each in self._of(of) if each.is_parked), key=_Flow.parked_order)
        spent = self._floor(of)
        if not parked:
            return 0
        if self._next(of) is not None:
            spent = min(each.counter for each in self._of(of) if each.is_active)
        is_spent = spent is not None and parked[0].counter <= spent
        if not is_spent and len(parked) <= self.parked_max:
            return 0
        parked[0].is_parked = False
        return parked[0].handle

    def _of(self, of: int) -> list[_Flow]:
        return [each for each in self._flows.values() if each.of == of]

    def _note_size(self, flow: _Flow, cost: int) -> None:
        units = virtual_units(cost, flow.weight)
        self._largest[flow.of] = max(self._largest.get(flow.of, 0), units)

    def _next(self, of: int, besides: _Flow | None = None) -> _Flow | None:
        active = [each for each in self._of(of) if each.is_active and each is not besides]
        in_flight = (each.in_flight for each in self._of(of))
        width = window_width(self.grain, self._largest.get(of, 0), in_flight)
        end = window_end((each.counter for each in active), width)
        alike = [each for each in active if each.counter < end]
        return min(alike, key=lambda each: each.order(width), default=None)

    def _floor(self, of: int, besides: _Flow | None = None) -> int | None:
        found = self._next(of, besides) or self._last.get(of)
        return None if found is None else found.counter


def window_width(grain: int, largest: int, in_flight: Iterable[int]) -> int:
    """How far apart counters of a class may be, in virtual units, and still count as served alike,
    where so much was charged at once at most, and its flows have so many in flight. 0: they must be
    equal. With n in flight of as many flows, two that begin together are apart by 3 of the largest
    and this; it may be n - 1 of them, as less than n + 2 is what is promised."""
    counts = [each for each in in_flight if each]
    times = 1 if max(counts, default=0) > 1 else max(1, len(counts) - 1)
    return min(grain * VIRTUAL_SCALE, max(largest, 1) * min(times, TIMES_MAX))


def window_end(counters: Iterable[int], width: int) -> int:
    """Below this all count as served as much as the least."""
    return min(counters, default=0) + max(width, 1)


def virtual_units(cost: int, weight: float) -> int:
    return int(min(cost * VIRTUAL_SCALE / weight, UNITS_MAX))


def clamped_counter(counter: int) -> int:
    return min(max(0, counter), COUNTER_MAX)


def check_weight(weight: float) -> None:
    if not (weight > 0 and isfinite(weight)):
        raise ValueError(f"a weight must be positive and finite, not {weight}")


def check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"a {what} must be {low} to {high}, not {value}")
