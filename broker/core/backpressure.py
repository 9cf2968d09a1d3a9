"""A bounded queue: who gets a place in it, and at whose cost.

When it is full the newcomer displaces the worst request of the agent with the largest backlog,
where that backlog exceeds the newcomer's own by more than one and the victim's priority is not
better; else, if the level lets it run, the worst of what the level does not let run at all: that
would keep a place for nothing, beside slots that idle; else urgent work may stand in the waiting
room for a moment; else no. Before it is full nobody is dropped, but told to slow down.
"""

from __future__ import annotations

from typing import Final

from broker.core.agents import Agent
from broker.core.backlog import Backlog
from broker.core.errors import AgentQueueFull, QueueFull
from broker.core.estimates import Estimates
from broker.core.offers import is_critical_work
from broker.core.queueing import QueuePolicy
from broker.core.record import Record
from broker.core.requests import RequestSpec
from broker.core.tally import Tally
from broker.core.waiting_room import WaitingRoom

RETRY_AFTER_NS_MIN: Final = 100_000_000  # not worth a client's round trip below this
RETRY_AFTER_NS_MAX: Final = 60_000_000_000  # nobody should stay away longer on one measurement
RETRY_AFTER_NS_UNMEASURED: Final = 1_000_000_000  # nothing has left the queue yet


class Backpressure:
    """Judges by the counts of what waits and runs; changes nothing."""

    __slots__ = ("_backlog", "_estimates", "_room", "_tally", "policy")

    def __init__(
        self,
        policy: QueuePolicy,
        backlog: Backlog,
        room: WaitingRoom,
        tally: Tally,
        estimates: Estimates,
    ) -> None:
        self.policy = policy
        self._backlog = backlog
        self._room = room
        self._tally = tally
        self._estimates = estimates

    def check(self, agent: Agent, size_bytes: int, live: int) -> None:
        """AgentQueueFull where the agent itself has too much waiting, QueueFull where more is
        under way than the broker can bear."""
        own = self._backlog.of_agent(agent) + self._room.of_agent(agent)
        if own >= self.policy.queued_per_agent_max:
            raise AgentQueueFull(
                f"{own} requests of this agent wait, of at most {self.policy.queued_per_agent_max}",
                retry_after_ns=self.retry_after_ns(1),
            )
        # One request alone may be larger than all that may wait together.
        own_bytes = agent.waiting_bytes + size_bytes if agent.waiting_bytes else 0
        if own_bytes > self.policy.queued_bytes_per_agent_max:
            raise AgentQueueFull(
                f"waiting requests of this agent would hold {own_bytes} bytes, of at most "
                f"{self.policy.queued_bytes_per_agent_max}",
                retry_after_ns=self.retry_after_ns(1),
            )
        if live >= self.policy.live_max:
            words = f"{live} requests are under way, of at most {self.policy.live_max}"
            raise QueueFull(words, retry_after_ns=self.retry_after_ns(1))

    def has_place(self, size_bytes: int, *, without: Record | None = None) -> bool:
        """May one more of this size wait? `without`: if that one left."""
        queued, queued_bytes = self._tally.queued, self._backlog.size_bytes
        if without is not None:
            queued, queued_bytes = queued - 1, queued_bytes - without.spec.size_bytes
        if queued >= self.policy.queued_max:
            return False
        # One request alone may be larger than all that may wait together.
        return queued == 0 or queued_bytes + size_bytes <= self.policy.queued_bytes_max

    def victim(
        self, spec: RequestSpec, agent: Agent, priority: int, *, is_barred: bool
    ) -> Record | None:
        """What a newcomer displaces, if anything. `is_barred`: the level does not let it run."""
        for worst in (
            self._worst_of_largest(agent, priority),
            None if is_barred else self._backlog.worst_barred(),
        ):
            if worst is not None and self.has_place(spec.size_bytes, without=worst):
                return worst
        return None

    def _worst_of_largest(self, agent: Agent, priority: int) -> Record | None:
        largest = self._backlog.worst_of_largest()
        if largest is None:
            return None
        worst, backlog = largest
        if backlog <= self._backlog.of_agent(agent) + 1 or worst.priority < priority:
            return None
        return worst

    def may_stand(self, agent: Agent, priority: int) -> bool:
        """Is there a place in the waiting room for this agent's requests of this priority?"""
        return priority <= self.policy.room_priority_worst and self._room.has_place(agent)

    def full(self, size_bytes: int) -> QueueFull:
        """Why there is no place, in words."""
        queued, queued_bytes = self._tally.queued, self._backlog.size_bytes
        if queued >= self.policy.queued_max:
            words = f"{queued} requests wait, of at most {self.policy.queued_max}"
        else:
            words = (
                f"waiting requests would hold {queued_bytes + size_bytes} bytes, of at most "
                f"{self.policy.queued_bytes_max}"
            )
        return QueueFull(words, retry_after_ns=self.retry_after_ns(1))

    def slow_down_ns(self, record: Record) -> int | None:
        """How long the agent of what has just come to wait should send nothing, or None: until the
        broker has worked through as much as the agent has waiting. Who sends what is not critical
        is told so earlier."""
        agent, policy = record.agent, self.policy
        own = self._backlog.of_agent(agent)
        share = max(
            self._tally.queued / policy.queued_max,
            self._backlog.size_bytes / policy.queued_bytes_max,
            own / policy.queued_per_agent_max,
            agent.waiting_bytes / policy.queued_bytes_per_agent_max,
        )
        from_share = policy.slow_down_share
        if not is_critical_work(record.spec, record.priority):
            from_share = min(from_share, policy.slow_down_early_share)
        return self.retry_after_ns(own) if share >= from_share else None

    def retry_after_ns(self, places: int) -> int:
        """Until so many places have become free, at the rate that was measured."""
        gap_ns = self._estimates.departure_gap_ns()
        if gap_ns is None:
            return RETRY_AFTER_NS_UNMEASURED
        return retry_after_bounded(gap_ns * places)


def retry_after_bounded(wait_ns: float) -> int:
    """A measured wait as it is told: neither too short to be worth a call nor too long to bear."""
    return int(min(max(wait_ns, RETRY_AFTER_NS_MIN), RETRY_AFTER_NS_MAX))
