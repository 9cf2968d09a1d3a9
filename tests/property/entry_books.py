"""Who may wait: the bounded queue, displacement and the waiting room, by the design's prose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from broker.core.errors import AgentQueueFull, BrokerError, QueueFull
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import RequestKey, RequestSpec
from tests.property.operator_books import NOT_LIMITED, OperatorBooks
from tests.property.session_books import SessionBooks


class Where(Enum):
    NOWHERE = "nowhere"  # let in a moment ago
    ROOM = "room"
    QUEUE = "queue"
    SLOT = "slot"
    BACKOFF = "backoff"  # it lost its slot, and its next attempt has to wait


@dataclass(slots=True, kw_only=True)
class Live:
    """A request that was let in and has not ended."""

    spec: RequestSpec
    priority: int
    compartment: str
    number: int  # those that came before have smaller ones
    arrived_ns: int
    where: Where = Where.NOWHERE
    is_back: bool = False  # it had a slot and lost it

    rank: int = 0  # its place among its agent's requests
    service_ns: int = 0  # how long it probably runs, as it looked when it was weighed
    credit_ns: int = 0  # how much older it counts as, for its session
    tries: int = 0
    begun_by: str = ""  # the runner of the pieces that are kept
    tries_free: int = 0  # of these, closed for a cure or set aside
    preemptions: int = 0
    kept: int = 0  # pieces of attempts before, from which the next goes on
    has_streamed: bool = False
    waits_since_ns: int = 0

    @property
    def key(self) -> RequestKey:
        return self.spec.key

    @property
    def standing(self) -> tuple[int, int, int]:
        """By this the worst of an agent's requests is the largest."""
        return self.priority, self.rank, self.number


class EntryBooks:
    """`live` has everybody under way. `is_lowered`: a reload may have left more than may wait."""

    def __init__(self, operators: OperatorBooks) -> None:
        self.live: dict[RequestKey, Live] = {}
        self.is_lowered = False
        self.sessions = SessionBooks()
        self._operators = operators
        self._admitted = 0

    @property
    def _policy(self) -> QueuePolicy:
        return self._operators.policy.queue

    def those(self, where: Where) -> list[Live]:
        return [each for each in self.live.values() if each.where is where]

    def backlog(self, agent: str) -> int:
        return sum(each.key[0] == agent for each in self.those(Where.QUEUE))

    def _standing(self, agent: str) -> int:
        return sum(each.key[0] == agent for each in self.those(Where.ROOM))

    def _room_of_agent_max(self) -> int:
        """A tenth of the waiting room."""
        return max(1, self._policy.room_max // 10)

    def _bytes(self, besides: Live | None = None) -> int:
        return sum(each.spec.size_bytes for each in self.those(Where.QUEUE) if each is not besides)

    def has_place(self, size_bytes: int, besides: Live | None = None) -> bool:
        """May one more of this size wait, `besides` thought away?"""
        queued = len(self.those(Where.QUEUE)) - (besides is not None)
        if queued >= self._policy.queued_max:
            return False
        return queued == 0 or self._bytes(besides) + size_bytes <= self._policy.queued_bytes_max

    def _has_too_many_bytes(self, agent: str, size_bytes: int) -> bool:
        """Would this agent's waiting requests be too large with it? One alone may be."""
        waiting = [*self.those(Where.QUEUE), *self.those(Where.ROOM)]
        own = [each.spec.size_bytes for each in waiting if each.key[0] == agent]
        return bool(own) and sum(own) + size_bytes > self._policy.queued_bytes_per_agent_max

    def _fits(self, live: Live) -> bool:
        return self.has_place(live.spec.size_bytes)

    # The way in

    def admit(
        self,
        spec: RequestSpec,
        compartment: str,
        now_ns: int,
        service_ns: int,
        *,
        is_answered: bool = False,
    ) -> Live:
        """Let in. Where it goes is told by what is said next. A compartment that nothing limits
        may go without its name. By size, it stands among its own as if it had come later."""
        assert spec.key not in self.live
        self._admitted = max(self._admitted + 1, now_ns)
        operators, agent = self._operators, spec.key[0]
        assert not operators.is_blocked(agent), "a blocked agent was let in"
        own = self.backlog(agent) + self._standing(agent)
        assert is_answered or own < self._policy.queued_per_agent_max
        assert is_answered or not self._has_too_many_bytes(agent, spec.size_bytes)
        expected = operators.compartment(agent, spec.criticality)
        is_limited = operators.limit(expected) is not None
        assert compartment == expected or (compartment == NOT_LIMITED and not is_limited)
        live = self.live[spec.key] = Live(
            spec=spec,
            priority=operators.priority(agent, spec.priority),
            compartment=compartment,
            number=self._admitted,
            arrived_ns=now_ns,
            waits_since_ns=now_ns,
            service_ns=service_ns,
        )
        live.rank = live.number
        if self._policy.agent_order is AgentOrder.SIZE:
            live.rank += int(self._policy.size_handicap * service_ns)
        self.take_over(live, spec)
        if spec.session_id:
            self._credit(live, now_ns)
        return live

    def _credit(self, live: Live, now_ns: int) -> None:
        """For its session: among its agent's own, but not among that session's calls; and it counts
        as older by that, never as younger."""
        session = self.sessions.called(live.spec, now_ns)
        live.credit_ns = self.sessions.credit_ns(session, self._policy.session_credit_ns)
        if live.credit_ns and self._policy.agent_order is not AgentOrder.DEADLINE:
            rank = max(live.rank - live.credit_ns, session.last_rank + 1)
            live.rank = min(live.rank, rank)
        session.last_rank = live.rank

    def take_over(self, live: Live, spec: RequestSpec) -> None:
        """By deadline, that of its newest call counts, or the soft one that it came with."""
        if self._policy.agent_order is AgentOrder.DEADLINE:
            soft_ns = live.spec.soft_deadline_ns
            live.rank = min(spec.deadline_ns, soft_ns) if soft_ns else spec.deadline_ns

    def new_bulkhead(self, live: Live) -> str:
        """The one that it is in since the last reload, where nothing limited it before; else ""."""
        name = self._operators.compartment(live.key[0], live.spec.criticality)
        is_new = live.compartment == NOT_LIMITED and self._operators.limit(name) is not None
        return name if is_new else ""

    def stand(self, live: Live) -> None:
        """It stands in the waiting room: there was no place, and nobody to displace for it."""
        live.where = Where.ROOM
        assert live.priority <= self._policy.room_priority_worst
        assert self.is_lowered or len(self.those(Where.ROOM)) <= self._policy.room_max
        assert self._standing(live.key[0]) <= self._room_of_agent_max()
        assert not self.has_place(live.spec.size_bytes), "it stands beside a free place"
        assert not self._may_displace(live)

    def enter(self, live: Live) -> None:
        """It waits in the queue now."""
        if live.where is Where.ROOM:
            fitting = [each for each in self.those(Where.ROOM) if self._fits(each)]
            first = min(fitting, key=lambda each: (each.priority, each.number))
            assert live is first, "another was before it in the room"
        assert self.has_place(live.spec.size_bytes), "more wait than may"
        live.where = Where.QUEUE

    def refuse(self, spec: RequestSpec, error: BrokerError) -> None:
        """Nobody is refused for want of a place while there is one."""
        agent, policy = spec.key[0], self._policy
        if isinstance(error, AgentQueueFull):
            own = self.backlog(agent) + self._standing(agent)
            is_many = own >= policy.queued_per_agent_max
            assert is_many or self._has_too_many_bytes(agent, spec.size_bytes)
        if not isinstance(error, QueueFull):
            return
        priority = self._operators.priority(agent, spec.priority)
        assert not self.has_place(spec.size_bytes), "refused beside a free place"
        may_stand = priority <= policy.room_priority_worst
        is_free = len(self.those(Where.ROOM)) < policy.room_max
        assert not (may_stand and is_free and self._standing(agent) < self._room_of_agent_max())

    def _may_displace(self, by: Live) -> bool:
        """Is there an agent with the one largest backlog whose worst request has to go?"""
        backlogs = {each.key[0]: self.backlog(each.key[0]) for each in self.those(Where.QUEUE)}
        largest = [agent for agent, n in backlogs.items() if n == max(backlogs.values())]
        if len(largest) != 1 or backlogs[largest[0]] <= self.backlog(by.key[0]) + 1:
            return False  # among several the engine may choose
        of_it = [each for each in self.those(Where.QUEUE) if each.key[0] == largest[0]]
        worst = max(of_it, key=lambda each: each.standing)
        return worst.priority >= by.priority and self.has_place(by.spec.size_bytes, worst)

    # The way out

    def displaced(self, key: RequestKey, by: Live, *, is_barred: bool = False) -> None:
        """Its agent had a backlog larger by more than one, and it was no better than who came; or
        it `is_barred`: the level did not let it run, but lets run who came."""
        victim, newcomer = self.live[key], by.key[0]
        assert victim.where is Where.QUEUE
        assert not self.has_place(by.spec.size_bytes), "displaced beside a free place"
        if is_barred and not self._may_displace(by):
            return
        backlog = self.backlog(key[0])
        assert backlog == max(self.backlog(each.key[0]) for each in self.live.values())
        assert backlog > self.backlog(newcomer) + 1
        assert victim.priority >= by.priority
        others = [each for each in self.those(Where.QUEUE) if each.key[0] == key[0]]
        assert victim is max(others, key=lambda each: each.standing)

    def turned_away(self, key: RequestKey, now_ns: int) -> None:
        """Its time in the waiting room is up."""
        live = self.live[key]
        assert live.where is Where.ROOM
        assert self.is_lowered or now_ns >= live.arrived_ns + self._policy.room_wait_ns

    def check(self) -> None:
        """After each turn: nobody stands who could wait, and no more wait than may."""
        room = self.those(Where.ROOM)
        assert not any(self._fits(each) for each in room), "somebody stands beside a free place"
        newcomers = [each for each in self.those(Where.QUEUE) if not each.is_back]
        assert self.is_lowered or len(newcomers) <= self._policy.queued_max
        assert not self.those(Where.NOWHERE)
