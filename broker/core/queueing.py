"""Who is next among the requests that one runner could serve.

One line per (runner, context size). Within a line: first which priority, the one whose candidate
has the smallest key; then which agent of that priority, in simple turns; then which request of that
agent, first come. A priority's candidate is the request that the last two rules choose; its key is
(when it became its agent's head) + handicap(priority). So a lower priority ages into its turn, and
the long tail of one agent's flood does not age at all.

Fairness by served cost takes the place of the turns later; the interface stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import merge
from itertools import takewhile

from broker.core.errors import InvariantBroken
from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST, RequestKey


class AgentOrder(Enum):
    """Which request of an agent is its first."""

    ARRIVAL = "arrival"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How long each step of priority makes a request stand back, and how much may wait.

    `handicap_ns_per_priority`: a request of priority p is ordered as if it had become its agent's
    head (p - 1) such steps later. `queued_max`: requests that wait at once, over all lines (the
    seed's 1,000); `queued_per_agent_max` of one agent; `live_max` bounds those that run as well.
    The waiting room takes up to `room_max` requests of priority `room_priority_worst` and better
    for `room_wait_ns` while the queue is full. From `slow_down_share` of a limit on, agents are
    told to send less. `prompt_token_cost` and `output_token_cost` are what fairness charges.
    `deadline_margin`: refused as infeasible is what would be late even if all went so many times
    faster than measured.
    """

    handicap_ns_per_priority: int = 5_000_000_000
    agent_order: AgentOrder = AgentOrder.ARRIVAL
    queued_max: int = 1_000
    queued_per_agent_max: int = 1_000
    queued_bytes_max: int = 512 * 1024 * 1024
    live_max: int = 20_000
    room_max: int = 100
    room_wait_ns: int = 5_000_000_000
    room_priority_worst: int = 3
    slow_down_share: float = 0.8
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
        if not 0 < self.slow_down_share <= 1 or self.deadline_margin < 1:
            raise ValueError("slow_down_share must be in (0, 1], deadline_margin at least 1")
        if min(self.prompt_token_cost, self.output_token_cost) < 0:
            raise ValueError("costs of tokens must not be negative")


@dataclass(slots=True)
class _AgentQueue:
    """The waiting requests of one agent at one priority, oldest first."""

    entries: OrderedDict[RequestKey, int] = field(default_factory=OrderedDict)  # key -> queued_ns
    head_since_ns: int = 0

    def head(self) -> RequestKey:
        return next(iter(self.entries))

    def come_back(self, key: RequestKey, head_since_ns: int) -> None:
        """Moves the last entry to its old place. All but those that came back are younger."""
        queued_ns = self.entries[key]
        elders = list(takewhile(lambda each: self.entries[each] < queued_ns, self.entries))
        for each in (key, *reversed(elders)):
            self.entries.move_to_end(each, last=False)
        if not elders:
            self.head_since_ns = head_since_ns


# The agents of one priority, whose turn it is first.
_Turns = OrderedDict[str, _AgentQueue]


class Line:
    """The requests that wait for one runner at one context size."""

    __slots__ = ("_by_priority", "_policy", "_queued_ns_sum", "size")

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._by_priority: dict[int, _Turns] = {}
        self._queued_ns_sum = 0
        self.size = 0

    def push(
        self,
        key: RequestKey,
        priority: int,
        queued_ns: int,
        now_ns: int,
        *,
        head_since_ns: int | None = None,
    ) -> None:
        """Adds a request. `head_since_ns`, as `take` returned it: it was here before and comes back
        to its old place, behind those of its agent that are older and came back as well."""
        if not PRIORITY_HIGHEST <= priority <= PRIORITY_LOWEST:
            raise InvariantBroken(f"priority {priority} reached the queue")
        turns = self._by_priority.setdefault(priority, OrderedDict())
        agent = turns.get(key[0])
        if agent is None:
            agent = turns[key[0]] = _AgentQueue(head_since_ns=now_ns)
        agent.entries[key] = queued_ns
        if head_since_ns is not None:
            agent.come_back(key, head_since_ns)
            turns.move_to_end(key[0], last=False)
        self._queued_ns_sum += queued_ns
        self.size += 1

    def remove(self, key: RequestKey, priority: int, now_ns: int) -> None:
        """Takes a request out, wherever it stands. Its agent keeps its turn."""
        turns = self._by_priority[priority]
        agent = turns[key[0]]
        was_head = agent.head() == key
        self._queued_ns_sum -= agent.entries.pop(key)
        self.size -= 1
        if not agent.entries:
            del turns[key[0]]
            if not turns:
                del self._by_priority[priority]
        elif was_head:
            agent.head_since_ns = now_ns

    def best(self) -> tuple[int, int, RequestKey] | None:
        """(order key in ns, priority, request) of the one that is next, or None."""
        found: tuple[int, int, RequestKey] | None = None
        for priority, turns in self._by_priority.items():
            agent = next(iter(turns.values()))
            key_ns = agent.head_since_ns + self._policy.handicap_ns(priority)
            if found is None or (key_ns, priority) < found[:2]:
                found = (key_ns, priority, agent.head())
        return found

    def take(self, key: RequestKey, priority: int, now_ns: int) -> int:
        """Takes the next request out: its agent goes to the end of the turns. Returns since when
        it was its agent's head, which is its place should it come back."""
        turns = self._by_priority[priority]
        head_since_ns = turns[key[0]].head_since_ns
        turns.move_to_end(key[0])
        self.remove(key, priority, now_ns)
        return head_since_ns

    def waited_ns(self, now_ns: int) -> int:
        """The waits of all requests in the line, added up."""
        return self.size * now_ns - self._queued_ns_sum

    def requests(self) -> Iterator[RequestKey]:
        for turns in self._by_priority.values():
            for agent in turns.values():
                yield from agent.entries

    def check(self) -> None:
        """Raises InvariantBroken if the sums do not hold. O(n)."""
        entries = [
            queued_ns
            for turns in self._by_priority.values()
            for agent in turns.values()
            for queued_ns in agent.entries.values()
        ]
        if len(entries) != self.size or sum(entries) != self._queued_ns_sum:
            raise InvariantBroken("a line's sums do not match its entries")
        for turns in self._by_priority.values():
            if not turns or not all(agent.entries for agent in turns.values()):
                raise InvariantBroken("a line keeps an empty queue")

    def forward(self, now_ns: int) -> list[list[tuple[int, int, RequestKey]]]:
        """Per priority, the requests in the order in which its turns would take them, each with
        the key it would have: those that are not yet heads are taken to become so now."""
        columns = []
        for priority, turns in self._by_priority.items():
            handicap_ns = self._policy.handicap_ns(priority)
            ranked: list[tuple[int, int, int, int, RequestKey]] = []
            for turn, agent in enumerate(turns.values()):
                head_ns = agent.head_since_ns + handicap_ns
                for round_number, key in enumerate(agent.entries):
                    ranked.append((round_number, turn, head_ns, priority, key))
                    head_ns = now_ns + handicap_ns
            ranked.sort(key=lambda each: each[:2])
            columns.append([each[2:] for each in ranked])
        return columns


def positions(lines: Sequence[Line], now_ns: int) -> dict[RequestKey, int]:
    """Where each request of these lines stands (from 1), were they served together from now on
    without new arrivals. O(n log n)."""
    columns = [column for line in lines for column in line.forward(now_ns)]
    # merge compares only the heads of the columns, as the rule does; they need not be sorted.
    merged = merge(*columns, key=lambda each: each[:2])
    return {each[2]: place for place, each in enumerate(merged, start=1)}
