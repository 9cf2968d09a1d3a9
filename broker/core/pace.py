"""How fast work goes: the waits of the last requests, what streams now, and who has it done.

Apart from the snapshot, which health and metrics take too: this looks at each of the last starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.agents import Agent
from broker.core.engine import Engine
from broker.core.requests import RequestKey
from broker.core.views import WaitView

# Agents named at most; who has less work than so many others is not what an operator looks for.
AGENTS_SHOWN_MAX: Final = 100

WAITS_AGE_NS_MAX: Final = 250_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWorkView:
    """An agent with requests under way."""

    agent_id: str
    agent_type: str
    queued: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The waits until requests were started, over all and by priority, and until their first
    tokens."""

    queue_wait: WaitView
    queue_wait_of: Mapping[int, WaitView]
    first_token: WaitView


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Since when those stream whose first token has come; agents, most work first."""

    streaming_since_ns: Mapping[RequestKey, int]
    agents: tuple[AgentWorkView, ...]


class Pace:
    """Reads an engine. The waits are those of the last requests, as many as the journal keeps;
    going through them takes milliseconds, so that they are believed for `WAITS_AGE_NS_MAX`: who
    watches often, or many who watch, cost no more than one who asks at that pace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waits: Waits | None = None
        self._taken_ns = 0

    def waits(self, now_ns: int) -> Waits:
        """The waits as they were not long ago."""
        if self._waits is None or now_ns - self._taken_ns >= WAITS_AGE_NS_MAX:
            self._waits, self._taken_ns = take_waits(self._engine), now_ns
        return self._waits

    def work(self) -> Work:
        """What streams, and who has it done, at this moment."""
        return take_work(self._engine)


def take_waits(engine: Engine) -> Waits:
    """The waits at this moment."""
    waits: dict[int, list[int]] = {}
    for start in engine.ledger.journal.starts:
        wait_ns = start.at_ns - start.arrived_ns
        if start.priority in waits:
            waits[start.priority].append(wait_ns)
        else:
            waits[start.priority] = [wait_ns]
    return Waits(
        queue_wait=wait_view(wait_ns for some in waits.values() for wait_ns in some),
        queue_wait_of={priority: wait_view(some) for priority, some in sorted(waits.items())},
        first_token=wait_view(engine.tally.first_tokens),
    )


def take_work(engine: Engine) -> Work:
    """What is under way at this moment."""
    return Work(
        streaming_since_ns={
            each.record.spec.key: each.first_token_ns
            for each in engine.attempts.values()
            if each.first_token_ns and each.ending is None
        },
        agents=_agents(engine),
    )


def wait_view(waits_ns: Iterable[int]) -> WaitView:
    """The waits that half and 99 of 100 of them did not pass: the nearest rank, a wait that was."""
    ranked = sorted(waits_ns)
    count = len(ranked)
    if not count:
        return WaitView(count=0, p50_ns=0, p99_ns=0)
    p50_ns, p99_ns = (ranked[-(-count * percent // 100) - 1] for percent in (50, 99))
    return WaitView(count=count, p50_ns=p50_ns, p99_ns=p99_ns)


def _agents(engine: Engine) -> tuple[AgentWorkView, ...]:
    """Found through what is under way and not among all who are remembered, who may be a hundred
    times as many: each agent asks for the status to learn the level."""
    records = (
        *engine.records.values(),
        *(each.record for each in engine.attempts.values()),  # also what may run on after its end
    )
    busy = {record.agent.id: record.agent for record in records}
    ranked = sorted(
        (-engine.agents.backlog(agent) - agent.running, agent_id)
        for agent_id, agent in busy.items()
    )
    return tuple(_work_view(engine, busy[agent_id]) for _, agent_id in ranked[:AGENTS_SHOWN_MAX])


def _work_view(engine: Engine, agent: Agent) -> AgentWorkView:
    return AgentWorkView(
        agent_id=agent.id,
        agent_type=agent.type.name,
        queued=engine.agents.backlog(agent),
        running=agent.running,
    )
