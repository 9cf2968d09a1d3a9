"""Who asks: the agents the broker remembers, their types, and what operators changed for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from fnmatch import fnmatchcase
from heapq import nlargest
from typing import Final

from _sched.queue import FairQueue
from broker.core.agent_policy import BATCH, CRITICAL, AgentsPolicy, AgentTypePolicy
from broker.core.bulkheads import Bulkheads
from broker.core.errors import AgentNotFound, AgentUnknown, FieldProblem, InvalidRequest
from broker.core.quota import Purse, Quotas
from broker.core.requests import Criticality
from broker.core.stimuli import Scope
from broker.core.views import AgentView, QuotaView

EVERYBODY: Final = Scope()
OVERRIDES_MAX: Final = 1_000  # scopes that operators changed something for at once
GLOBS_SHOWN_MAX: Final = 20
NEAREST_MAX: Final = 3
NEAREST_COMPARED_MAX: Final = 100
PAUSES_MAX: Final = 8  # of an agent that are remembered, to explain who overtook it
PAUSED_STILL: Final = 1 << 62


@dataclass(slots=True)
class Override:
    """What operators changed for one scope."""

    weight_factor: float = 1.0
    rate_factor: float = 1.0
    priority_best: int = 0
    is_paused: bool = False
    is_blocked: bool = False

    @property
    def is_boost(self) -> bool:
        return (self.weight_factor, self.rate_factor, self.priority_best) != (1.0, 1.0, 0)

    @property
    def is_void(self) -> bool:
        return not (self.is_boost or self.is_paused or self.is_blocked)


@dataclass(slots=True)
class Agent:
    """One agent, with all that applies to it now."""

    id: str
    type: AgentTypePolicy
    handle: int  # in the queue
    purse: Purse = field(default_factory=Purse)
    weight: float = 1.0
    priority_best: int = 1
    is_paused: bool = False
    is_blocked: bool = False
    blocked_whom: str = ""
    is_boosted: bool = False
    is_of_no_type: bool = False  # a reload took its type away; `type` is the one it had
    pauses: tuple[tuple[int, int], ...] = ()  # the last (since, until); PAUSED_STILL: not yet over
    paused_whom: str = ""  # whom the operator named who paused it last
    live: int = 0  # requests under way
    running: int = 0
    waiting_bytes: int = 0  # of its requests in the queue and in the waiting room
    arrived: int = 0
    ended: int = 0
    served_cost: int = 0

    def was_paused(self, at_ns: int) -> bool:
        """Was it paused then, as far as that is remembered?"""
        return any(since_ns <= at_ns < until_ns for since_ns, until_ns in self.pauses)


class Agents:
    """At most `remembered_max` agents and those with work: who was not seen for longest goes.

    Who is forgotten loses its history, and its buckets are full when it comes again; limits for
    more agents than that are what the buckets of types and of everybody are for.
    """

    def __init__(
        self, policy: AgentsPolicy, queue: FairQueue, quotas: Quotas, bulkheads: Bulkheads
    ) -> None:
        self._policy = policy
        self._queue = queue
        self._quotas = quotas
        self._bulkheads = bulkheads
        self._known: OrderedDict[str, Agent] = OrderedDict()  # the one seen last at the end
        self._overrides: dict[Scope, Override] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._known.values())

    def find(self, agent_id: str) -> Agent | None:
        return self._known.get(agent_id)

    def meet(self, agent_id: str, now_ns: int) -> Agent:
        """The agent that sends a request now. AgentUnknown where its id is of no type."""
        agent = self._known.get(agent_id)
        if agent is None:
            of = self.type_of(agent_id)
            self._make_room()
            agent = Agent(id=agent_id, type=of, handle=self._queue.add_agent(of.weight))
            self._known[agent_id] = agent
            self._apply(agent, now_ns)
        else:
            if agent.is_of_no_type:
                self.type_of(agent_id)
            self._known.move_to_end(agent_id)
        agent.arrived += 1
        return agent

    def type_of(self, agent_id: str) -> AgentTypePolicy:
        """The first type with a glob that fits, else the default. AgentUnknown without either."""
        for each in self._policy.types:
            if any(fnmatchcase(agent_id, glob) for glob in each.match):
                return each
            if each.name == self._policy.default_type:
                default = each
        if self._policy.default_type:
            return default
        globs = [glob for each in self._policy.types for glob in each.match]
        shown = ", ".join(globs[:GLOBS_SHOWN_MAX]) or "none"
        problem = f"{agent_id!r} is of no configured type (known: {shown})"
        raise AgentUnknown((FieldProblem(field="agent_id", problem=problem),))

    def compartment(self, agent: Agent, criticality: Criticality) -> int:
        """The bit of the bulkhead that a request of this agent runs in."""
        if criticality is Criticality.BATCH:
            return self._bulkheads.bit(BATCH)
        if criticality is Criticality.CRITICAL and agent.type.may_be_critical:
            return self._bulkheads.bit(CRITICAL)
        return self._bulkheads.bit(agent.type.compartment or agent.type.name)

    def _make_room(self) -> None:
        """Forgets who was not seen for longest and has nothing under way. One that has is put at
        the end; where all have, there are as many agents as requests may be under way."""
        for _ in range(len(self._known)):
            if len(self._known) < self._policy.remembered_max:
                return
            agent_id, agent = next(iter(self._known.items()))
            if agent.live or agent.running:
                self._known.move_to_end(agent_id)
                continue
            del self._known[agent_id]
            self._queue.remove_agent(agent.handle)
            self._quotas.close(agent.purse)

    # What operators change

    def configure(self, policy: AgentsPolicy, now_ns: int) -> list[Scope]:
        """Other types, rates, weights and ceilings from now on. The scopes of types that are gone,
        for which nothing is changed any more."""
        self._policy = policy
        types = self.types()
        gone = [
            each for each in self._overrides if each.agent_type and each.agent_type not in types
        ]
        for scope in gone:
            del self._overrides[scope]
        for agent in self._known.values():
            try:
                agent.type = self.type_of(agent.id)
            except AgentUnknown:  # what it has under way goes on as it was; what comes is refused
                agent.is_of_no_type = True
            else:
                agent.is_of_no_type = False
            self._apply(agent, now_ns)  # also where it has no type: a pause of it may be gone
        return gone

    def concerned(self, scope: Scope) -> int:
        """How many known agents a scope means. AgentNotFound where it names one that is not;
        InvalidRequest where there are too many scopes already."""
        if scope.agent_id and scope.agent_id not in self._known and scope not in self._overrides:
            raise AgentNotFound(scope.agent_id, self._nearest(scope.agent_id))
        if len(self._overrides) >= OVERRIDES_MAX and scope not in self._overrides:
            problem = f"{OVERRIDES_MAX} agents and types are changed already; resume some"
            raise InvalidRequest((FieldProblem(field="scope", problem=problem),))
        return len(self.meant(scope))

    def _nearest(self, agent_id: str) -> tuple[str, ...]:
        """Compared as whole are those alone that have most letters in common: to compare ten
        thousand would hold up everybody for half a second, on one person's slip of the pen."""
        matcher = SequenceMatcher(b=agent_id)

        def likeness(known: str) -> float:
            matcher.set_seq1(known)
            return matcher.quick_ratio()

        likely = nlargest(NEAREST_COMPARED_MAX, self._known, key=likeness)
        return tuple(get_close_matches(agent_id, likely, n=NEAREST_MAX, cutoff=0.0))

    def meant(self, scope: Scope) -> list[Agent]:
        """The known agents of a scope."""
        if scope.agent_id:
            agent = self._known.get(scope.agent_id)
            return [] if agent is None else [agent]
        return [each for each in self._known.values() if scope.agent_type in ("", each.type.name)]

    def override(self, scope: Scope) -> Override:
        """What is changed for a scope, to be changed further; then say `reapply`."""
        return self._overrides.setdefault(scope, Override())

    def changed(self, scope: Scope) -> Override:
        """What is changed for this very scope, to be read."""
        return self._overrides.get(scope, Override())

    def forget_override(self, scope: Scope) -> None:
        self._overrides.pop(scope, None)

    def reapply(self, scope: Scope, now_ns: int) -> None:
        """Lets what is changed for a scope count."""
        if (changed := self._overrides.get(scope)) is not None and changed.is_void:
            del self._overrides[scope]
        for agent in self.meant(scope):
            self._apply(agent, now_ns)

    def _apply(self, agent: Agent, now_ns: int) -> None:
        """Computes anew all that follows from an agent's type and from what operators changed."""
        was_paused = agent.is_paused
        rate = self._derive(agent)
        if agent.is_paused and not was_paused:
            agent.pauses = (*agent.pauses, (now_ns, PAUSED_STILL))[-PAUSES_MAX:]
        elif was_paused and not agent.is_paused:
            agent.pauses = (*agent.pauses[:-1], (agent.pauses[-1][0], now_ns))
        self._queue.set_weight(agent.handle, agent.weight)
        self._queue.pause(agent.handle, agent.is_paused)
        self._quotas.refit(agent.purse, agent.type, rate, now_ns)

    def _derive(self, agent: Agent) -> float:
        """Sets what counts for the agent itself; the factor of its rates."""
        scopes = (
            EVERYBODY,
            Scope(agent_type=agent.type.name),
            Scope(agent_id=agent.id),
        )
        known = {each: self._overrides[each] for each in scopes if each in self._overrides}
        changes = known.values()
        weight, rate, best = agent.type.weight, 1.0, agent.type.priority_best
        for each in changes:
            weight *= each.weight_factor
            rate *= each.rate_factor
            best = each.priority_best or best
        agent.weight, agent.priority_best = weight, best
        blocked = [scope for scope, each in known.items() if each.is_blocked]
        agent.is_blocked, agent.blocked_whom = bool(blocked), _whom(blocked[0]) if blocked else ""
        agent.is_boosted = any(each.is_boost for each in changes)
        paused = [scope for scope, each in known.items() if each.is_paused]
        agent.is_paused = bool(paused)
        if paused:
            agent.paused_whom = _whom(paused[0])
        return rate

    # Views

    def types(self) -> tuple[str, ...]:
        return tuple(each.name for each in self._policy.types)

    def paused(self) -> tuple[str, ...]:
        """Whom operators have paused, in words."""
        return tuple(_whom(scope) for scope, each in self._overrides.items() if each.is_paused)

    def backlog(self, agent: Agent) -> int:
        """How many requests of it wait in the queue."""
        return self._queue.backlog(agent.handle)

    def views(self, now_ns: int) -> list[AgentView]:
        """All that are remembered, in the order of their ids."""
        return [
            AgentView(
                agent_id=each.id,
                agent_type=each.type.name,
                weight=each.weight,
                priority_best=each.priority_best,
                queued=self._queue.backlog(each.handle),
                running=each.running,
                arrived=each.arrived,
                ended=each.ended,
                served_cost=each.served_cost,
                requests_left=self._quotas.requests_left(each.purse, now_ns),
                is_paused=each.is_paused,
                is_blocked=each.is_blocked,
                is_boosted=each.is_boosted,
            )
            for _, each in sorted(self._known.items())
        ]

    def quota(self, agent_id: str, queued_max: int, now_ns: int) -> QuotaView:
        """What an agent may use. One that was never seen is not remembered for asking."""
        agent = self._known.get(agent_id)
        if agent is None:
            agent = Agent(id=agent_id, type=self.type_of(agent_id), handle=0)
            buckets = self._quotas.fresh_views(agent.type, self._derive(agent), now_ns)
        else:
            buckets = self._quotas.views(agent.purse, agent.type.name, now_ns)
        bit = self.compartment(agent, Criticality.NORMAL)
        return QuotaView(
            agent_id=agent_id,
            agent_type=agent.type.name,
            weight=agent.weight,
            priority_best=agent.priority_best,
            may_be_critical=agent.type.may_be_critical,
            queued=self._queue.backlog(agent.handle),
            queued_max=queued_max,
            running=agent.running,
            compartment=agent.type.compartment or agent.type.name,
            compartment_running=self._bulkheads.running(bit),
            compartment_max=self._bulkheads.limit(bit),
            buckets=buckets,
            is_paused=agent.is_paused,
            is_blocked=agent.is_blocked,
        )


def _whom(scope: Scope) -> str:
    if scope.agent_id:
        return f"agent {scope.agent_id}"
    return f"agents of type {scope.agent_type}" if scope.agent_type else "everybody"
