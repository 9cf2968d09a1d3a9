"""What the queue in plain Python keeps: requests in flows, flows of agents and in classes."""

from __future__ import annotations

from dataclasses import dataclass, field

from _sched.reference_vtc import COMPARTMENT_MAX, window_end, window_width


@dataclass(slots=True, eq=False)
class Entry:
    handle: int
    flow: Flow
    rank: int
    arrived_ns: int
    stand_back_ns: int  # how much younger it counts as, for its size


@dataclass(slots=True, eq=False)
class Flow:
    """One agent in one class."""

    handle: int
    agent: Agent
    of: Class
    counter: int = 0
    taken: int = 0  # the number of its last take; 0: never
    in_flight: int = 0
    head_since_ns: int = 0
    claim_ns: int = 0  # since when its head has had a claim to a turn of its class
    cost_in_flight: int = 0
    entries: list[Entry] = field(default_factory=list)

    def stand_ns(self) -> int:
        """How old its head counts as, its size considered."""
        return self.head_since_ns + self.sorted()[0].stand_back_ns

    def order(self, width: int) -> tuple[int, int, int]:
        """Of those served alike the oldest, sizes considered; then the one not served for longest,
        then the older. Where none but equals count as alike sizes play no part."""
        return self.stand_ns() if width else 0, self.taken, self.handle

    def idle_order(self) -> tuple[int, int, int]:
        """Those served least are forgotten first."""
        return self.counter, self.taken, self.handle

    def sorted(self) -> list[Entry]:
        return sorted(self.entries, key=lambda each: (each.rank, each.handle))

    def is_active(self) -> bool:
        return bool(self.entries) and not self.agent.paused


@dataclass(slots=True, eq=False)
class Class:
    """A priority and a compartment within a group: the flows that share fairly."""

    sequence: int
    group: int
    priority: int
    compartment: int
    flows: list[Flow] = field(default_factory=list)
    largest: int = 0  # what was charged at once, in virtual units
    last: Flow | None = None  # who was the last to stop waiting, also if it is forgotten since

    def is_closed(self, mask: int) -> bool:
        """By the bit of its compartment or of its priority; of those beyond 10 there is none."""
        return bool((mask >> self.compartment | mask >> COMPARTMENT_MAX + self.priority) & 1)

    def active(self) -> list[Flow]:
        return [each for each in self.flows if each.is_active()]

    def width(self, grain: int) -> int:
        return window_width(grain, self.largest, (each.in_flight for each in self.flows))

    def end(self, grain: int, besides: Flow | None = None) -> int:
        """Whose counter is below this was served alike, and may be next."""
        waiting = (each.counter for each in self.active() if each is not besides)
        return window_end(waiting, self.width(grain))

    def next(self, grain: int, besides: Flow | None = None) -> Flow | None:
        end = self.end(grain, besides)
        alike = [each for each in self.active() if each is not besides and each.counter < end]
        return min(alike, key=lambda each: each.order(self.width(grain)), default=None)

    def floor(self, grain: int, besides: Flow | None = None) -> int | None:
        """What a lift gives: the counter of who is next, or, if nobody waits, that of who was the
        last to stop waiting, as it is now."""
        found = self.next(grain, besides) or self.last
        return None if found is None else found.counter

    def spent(self, grain: int) -> int | None:
        """Up to here a lift gives all that a counter is worth, whoever is next."""
        return min((each.counter for each in self.active()), default=self.floor(grain))


@dataclass(slots=True, eq=False)
class Agent:
    handle: int
    weight: float
    paused: bool = False
    flows: list[Flow] = field(default_factory=list)

    def backlog(self) -> int:
        return sum(len(each.entries) for each in self.flows)
