"""Who is next among the requests that one runner could serve.

One line per (runner, context size). Within a line: first which priority, the one with the oldest
claim, handicap(priority) added; then which agent of that priority: of those that were served alike,
to within a grain, the one whose head is the oldest, handicap(size) added; then which request of
that agent, first come with the same handicap or without it, or by deadline. A claim is as old as an
agent's head, and a turn uses up the oldest. So a lower priority ages into its turn, a long request
into its own, and the long tail of one agent's flood does not age at all (docs/adr/0011, 0020). The
rules live in `_sched.queue`; a line is a group of its queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from _sched.queue import FairQueue
from broker.core.bulkheads import Bulkheads

LineKey = tuple[str, int]  # (runner, context size; 0: the usual one)

# A request that stood back for longer than this would not be reached within its deadline either.
STAND_BACK_NS_MAX: Final = 86_400 * 1_000_000_000

# How much older a request can count as. All stand back by so much, and one with a credit by less.
CREDIT_NS_MAX: Final = 60 * 1_000_000_000


class AgentOrder(Enum):
    """Which request of an agent is its first."""

    SIZE = "size"  # first come, sizes considered
    ARRIVAL = "arrival"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How long each step of priority makes a request stand back, and how much may wait.

    `handicap_ns_per_priority`: a request of priority p is ordered as if it had become its agent's
    head (p - 1) such steps later. `size_handicap`: and, among agents whose served cost differs by
    less than `fairness_grain`, as if later by so many times the time that it probably runs; a grain
    of 0 lets sizes play no part there. With `AgentOrder.SIZE` the same among its agent's own
    requests, by when they came. `session_credit_ns`: there and among its agent's own requests the
    next call of a session counts as older by the done part of this. `queued_max`: requests that
    wait at once, over all lines (the seed's 1,000); `queued_per_agent_max` of one agent; `live_max`
    bounds those that run as well.
    The waiting room takes up to `room_max` requests of priority `room_priority_worst` and better
    for `room_wait_ns` while the queue is full. From `slow_down_share` of a limit on, agents are
    told to send less, and from `slow_down_early_share` on with requests that are not critical.
    `prompt_token_cost` and `output_token_cost` are what fairness charges. `deadline_margin`:
    refused as infeasible is what would be late even if all went so many times faster than measured.
    """

    handicap_ns_per_priority: int = 5_000_000_000
    size_handicap: float = 5.0
    fairness_grain: int = 3_072
    session_credit_ns: int = 30_000_000_000
    agent_order: AgentOrder = AgentOrder.SIZE
    queued_max: int = 1_000
    queued_per_agent_max: int = 1_000
    queued_bytes_max: int = 512 * 1024 * 1024
    queued_bytes_per_agent_max: int = 512 * 1024 * 1024
    live_max: int = 20_000
    room_max: int = 100
    room_wait_ns: int = 5_000_000_000
    room_priority_worst: int = 3
    slow_down_share: float = 0.8
    slow_down_early_share: float = 0.7
    prompt_token_cost: int = 1
    output_token_cost: int = 2
    deadline_margin: float = 2.0
    announce_interval_ns: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.queued_max < 1 or self.live_max < self.queued_max:
            raise ValueError("queued_max must be at least 1 and live_max at least queued_max")
        if self.queued_per_agent_max < 1 or self.room_max < 0 or self.room_wait_ns <= 0:
            raise ValueError("limits of the queue and of the waiting room must be positive")
        if self.handicap_ns_per_priority < 0 or self.announce_interval_ns <= 0:
            raise ValueError("handicap must not be negative, announce interval must be positive")
        if self.size_handicap < 0 or self.fairness_grain < 0:
            raise ValueError("the handicap of sizes and the grain must not be negative")
        if not 0 <= self.session_credit_ns <= CREDIT_NS_MAX:
            raise ValueError(f"the credit of sessions must be 0 to {CREDIT_NS_MAX} ns")
        if not (0 < self.slow_down_early_share <= 1 and 0 < self.slow_down_share <= 1):
            raise ValueError("slow_down shares must be in (0, 1]")
        if self.deadline_margin < 1:
            raise ValueError("deadline_margin must be at least 1")
        if min(self.prompt_token_cost, self.output_token_cost) < 0:
            raise ValueError("costs of tokens must not be negative")

    def stand_back_ns(self, service_ns: int, credit_ns: int = 0) -> int:
        """How much younger a request of this size and credit counts as, CREDIT_NS_MAX being
        nothing."""
        size_ns = min(int(self.size_handicap * service_ns), STAND_BACK_NS_MAX)
        return CREDIT_NS_MAX + size_ns - credit_ns


class Head(NamedTuple):
    """What would start first. `key_ns` orders heads: since when it, or the claim with which it has
    its turn, waits, and the handicap of its priority added."""

    key_ns: int
    priority: int
    since_ns: int


class Line:
    """The requests that wait for one runner at one context size: a window on the queue.

    What the level holds back goes after the others, or not at all: `hold` says what.
    """

    __slots__ = ("_barred", "_bulkheads", "_held", "_queue", "group", "key")

    def __init__(self, key: LineKey, queue: FairQueue, bulkheads: Bulkheads) -> None:
        self.key = key
        self.group = queue.open_group()
        self._queue = queue
        self._bulkheads = bulkheads
        self._held = self._barred = 0  # masks: what goes after the others, what does not go at all

    @property
    def held(self) -> int:
        """The mask of what the level lets go after the others, if at all."""
        return self._held

    def hold(self, held: int, barred: int) -> None:
        """What the level holds back of this line from now on: `barred` is a part of `held`."""
        self._held, self._barred = held, barred

    @property
    def size(self) -> int:
        """How many wait, also those that may not run now."""
        return self._queue.size(self.group)

    def demand(self, now_ns: int) -> tuple[int, int]:
        """(how many could run if there were slots, their waits in ns added up): not of a paused
        agent, nor of a compartment that is full, nor what the level does not let go at all."""
        return self._queue.demand(self.group, self._bulkheads.closed | self._barred, now_ns)

    def demand_first(self, now_ns: int) -> tuple[int, int]:
        """The same of those alone that go before what the level holds back."""
        return self._queue.demand(self.group, self._bulkheads.closed | self._held, now_ns)

    def count_let_run(self) -> int:
        """How many wait that the level lets go, be it after the others."""
        return self._queue.demand(self.group, self._barred, 0)[0] if self._barred else self.size

    def count_besides(self, others: int) -> int:
        """How many go before what the level holds back, the classes of this mask left out."""
        closed = self._bulkheads.closed | self._held | others
        return self._queue.demand(self.group, closed, 0)[0]

    def best_besides(self, others: int) -> tuple[int, int, int] | None:
        """What of them is next: as `best` says it."""
        return self._queue.best(self.group, self._bulkheads.closed | self._held | others)

    def best(self) -> tuple[int, int, int] | None:
        """(order key in ns, priority, entry) of what is next and may run, or None: what the level
        holds back is left out."""
        return self._queue.best(self.group, self._bulkheads.closed | self._held)

    def best_of_all(self) -> tuple[int, int, int] | None:
        """The same with what may go after the others, where there is none of those."""
        return self._queue.best(self.group, self._bulkheads.closed | self._barred)

    def head(self, *, is_for_all: bool) -> Head | None:
        """What is next and may run, as placement sees it; `is_for_all`: also what the level holds
        back."""
        found = self.best_of_all() if is_for_all else self.best()
        if found is None:
            return None
        key_ns, priority, _ = found
        return Head(
            key_ns, priority, key_ns - self._queue.handicap_ns_per_priority * (priority - 1)
        )
