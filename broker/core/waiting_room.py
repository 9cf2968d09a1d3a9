"""The waiting room: where urgent requests stand for a moment while the queue is full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from _sched.heap import IndexedHeap
from broker.core.agents import Agent
from broker.core.record import Record

# More than any configuration allows in it; the heap takes memory only for those that are there.
ROOM_MAX = 1_000_000

# One agent may stand on so much of it: else it could keep urgent work of all others out.
PER_AGENT_SHARE = 0.1


class WaitingRoom:
    """Bounded; the best priority leaves first, the one that came first among equals.

    Nobody is put out for a better one: who was let in has the time that it was promised.
    """

    __slots__ = ("_heap", "_of_agent", "_records", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._heap = IndexedHeap(ROOM_MAX)
        self._records: dict[int, Record] = {}
        self._of_agent: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def configure(self, size_max: int) -> None:
        """From now on so many; who is in it stays."""
        self._size_max = size_max

    def has_place(self, agent: Agent) -> bool:
        """May one more of this agent's stand here?"""
        own_max = max(1, int(self._size_max * PER_AGENT_SHARE))
        return len(self._records) < self._size_max and self.of_agent(agent) < own_max

    def of_agent(self, agent: Agent) -> int:
        """How many of this agent's stand here."""
        return self._of_agent[agent.id]

    def enter(self, record: Record) -> None:
        record.entry = self._heap.push(record.priority)
        self._records[record.entry] = record
        self._of_agent[record.agent.id] += 1
        record.agent.waiting_bytes += record.spec.size_bytes

    def leave(self, record: Record) -> None:
        """From wherever it stands."""
        self._heap.remove(record.entry)
        del self._records[record.entry]
        record.agent.waiting_bytes -= record.spec.size_bytes
        agent_id = record.agent.id
        self._of_agent[agent_id] -= 1
        if not self._of_agent[agent_id]:
            del self._of_agent[agent_id]
        record.entry = 0

    def first(self, fits: Callable[[int], bool]) -> Record | None:
        """The next to leave, whose bytes must fit: one that is too large for the place that is free
        holds up none of the others."""
        best = self._heap.peek_best()
        if best is None or fits(self._records[best[1]].spec.size_bytes):
            return None if best is None else self._records[best[1]]
        others = (each for each in self._records.values() if fits(each.spec.size_bytes))
        return min(others, key=lambda each: each.priority, default=None)
