from collections.abc import Iterable
from typing import final

from _sched.books import Books

@final
class FairQueue(Books):
    """Requests by handle: who is next, who would be missed least, how many wait and how long.

    A request waits in a group, in a class of it (a priority from 1, the best, to 255, and a
    compartment from 0 to 53), and is of an agent with a weight. What is next in a group: the class
    with the oldest claim, counted from when a request became its agent's head, plus the handicap of
    its priority; in it, of the agents whose virtual token counters are about the least, the one
    whose head stands first; of its requests that of the lowest rank, among equals the first come. A
    turn uses up the oldest claim of its class.

    About the least is what is less than `grain` of cost above it, and less than the largest cost
    charged to its class: who was served as much to within that counts as served alike, and stands
    as long as its head is one, later by what that stands back for its size. With a grain of 0 the
    least counter is next, and sizes play no part.

    A mask closes classes: bit c those of compartment c, bit 53 + p those of priority p. Priorities
    beyond 10 have no bit.

    Handles are never 0 and never used again; a stale one is answered by False, None or 0, but by a
    KeyError where a group or an agent is needed. Times are 0 to 2**62 ns of one clock, costs 0 to
    2**40, weights positive and finite: ValueError otherwise. What raises has changed nothing.
    """

    handicap_ns_per_priority: int
    """How much later one priority is than the one above it; may be set at any time."""

    grain: int
    """A cost, 0 to 2**40; may be set at any time, in O(n)."""

    def __init__(
        self, handicap_ns_per_priority: int, parked_max: int = 1024, grain: int = 0
    ) -> None:
        """`parked_max`: how many idle flows of one class are remembered."""

    def __len__(self) -> int:
        """How many requests wait."""

    def add_agent(self, weight: float) -> int:
        """A new agent; it may use any group."""

    def remove_agent(self, agent: int) -> bool:
        """Forgets an agent. False where it has something waiting or in flight, or is unknown."""

    def set_weight(self, agent: int, weight: float) -> bool:
        """What is charged, settled or in flight counts by this weight from now on."""

    def pause(self, agent: int, paused: bool) -> bool:
        """Nothing of a paused agent is a candidate. What returns is lifted, as after idling."""

    def backlog(self, agent: int) -> int:
        """How many of this agent wait."""

    def largest_backlog(self) -> tuple[int, int] | None:
        """(agent, how many wait) of the largest; the newest agent among equals. None: no agent."""

    def worst(self, agent: int) -> int:
        """What this agent would miss least: its worst priority, of that the last. 0: none."""

    def open_group(self) -> int:
        """A new group: what is compared in it is never compared with another group's."""

    def close_group(self, group: int) -> bool:
        """Forgets a group. False while something of it waits or is in flight."""

    def size(self, group: int) -> int:
        """How many wait, those of paused agents too."""

    def demand(self, group: int, closed: int, now_ns: int) -> tuple[int, int]:
        """(how many, their waits in ns added up) of what may run: whose agent is not paused and
        whose class is not closed. Right up to a sum of 292 years."""

    def push(
        self,
        group: int,
        priority: int,
        compartment: int,
        agent: int,
        rank: int,
        arrived_ns: int,
        now_ns: int,
        head_since_ns: int = -1,
        stand_back_ns: int = 0,
        lift: bool = False,
    ) -> int:
        """Adds a request and returns its handle. `head_since_ns`, as `take` returned it: it was
        taken and comes back to its old place, without a lift. `stand_back_ns`, 0 to 2**54: how much
        younger it counts as, for its size. `lift`: it comes from another group, with the age that
        it has as a head, and is lifted like whoever comes."""

    def take(self, entry: int, cost: int, now_ns: int) -> tuple[int, int] | None:
        """Takes a request out to serve it and charges its agent: (flow, since when it was head; for
        one that was not head, now). `settle` ends it. None where the handle is stale."""

    def settle(self, flow: int, charged: int, actual: int) -> bool:
        """What was taken from this flow is over: it cost `actual` instead of `charged`."""

    def remove(self, entry: int, now_ns: int) -> bool:
        """A request leaves from wherever it stands. False where the handle is stale."""

    def ease(self, entry: int, stand_back_ns: int) -> bool:
        """A request stands back by no more than this from now on: it keeps its rank, its age and
        its claim. False where the handle is stale."""

    def head_since(self, entry: int) -> int:
        """Since when it is its agent's head; -1 where it is not, or the handle is stale."""

    def best(self, group: int, closed: int) -> tuple[int, int, int] | None:
        """(order key in ns, priority, request) of what is next, what is closed left out."""

    def forward(
        self, groups: Iterable[int], cost: int, now_ns: int, limit: int, closed: int = 0
    ) -> list[int]:
        """The first `limit` requests of these groups in the order in which they would be taken from
        now on, were they served together, each at this cost, and nobody else came. Who is not yet
        head is taken to become so now. Paused agents and closed classes are left out."""

    def counter_of(self, group: int, priority: int, compartment: int, agent: int) -> int | None:
        """The virtual token counter of an agent in a class; None where none is kept."""

    def waiting_of(self, group: int, priority: int, compartment: int, agent: int) -> int:
        """How many requests of an agent wait in a class."""

    def standing_of(
        self, group: int, priority: int, compartment: int, agent: int, stand_ns: int
    ) -> int:
        """How many of those came by `stand_ns`, each counted as later by what it stands back. O(of
        those)."""

    def flows(self) -> int:
        """How many flows are kept, the idle ones too."""
