"""Twelve agents of three types, each with a few requests of mixed priorities.

What they ask is drawn from a seed, so that two runs ask the same. Each agent is a task of its own
with a client of its own, and sends its next request when the one before has ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker_client import (
    AsyncClient,
    BrokerError,
    Chunk,
    Done,
    Event,
    Queued,
    Requeued,
    Retrying,
    Started,
)

AGENTS_PER_TYPE: Final = 4
# Whose work is how urgent: an agent draws the priority of each request from its type's row.
PRIORITIES: Final = {"opus": (1, 2, 3), "sonnet": (4, 5, 6), "system": (7, 8, 9, 10)}
TOKENS: Final = (16, 96)
# A model on a CPU may take its time; a request that waits longer has gone wrong.
DEADLINE_S: Final = 600.0
TAIL_CHARACTERS: Final = 200

SUBJECTS: Final = (
    "why queues grow",
    "what a swap of models costs",
    "how a token bucket works",
    "when to say no early",
    "who should be next",
    "what fairness means among agents",
    "why retries need jitter",
    "how a deadline travels",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One request that an agent is going to make."""

    agent_id: str
    priority: int
    model: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ended. `error` is empty where it went well; `wait_ms` is its queue wait."""

    plan: Plan
    wait_ms: float = 0.0
    tokens: int = 0
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Agent:
    """What one agent does at the moment, for the view."""

    agent_id: str
    plans: tuple[Plan, ...]
    current: Plan | None = None
    queued: Queued | None = None
    started: Started | None = None
    retrying: Retrying | None = None
    tail: str = ""
    pieces: int = 0
    ended: int = 0


Watch = Callable[[Agent, Event | Outcome], None]


def draw_plans(models: Sequence[str], *, requests: int, seed: int) -> dict[str, tuple[Plan, ...]]:
    """What each agent is going to ask, by agent."""
    chance = random.Random(seed)
    plans: dict[str, tuple[Plan, ...]] = {}
    for kind, priorities in PRIORITIES.items():
        for number in range(1, AGENTS_PER_TYPE + 1):
            agent_id = f"{kind}-{number}"
            plans[agent_id] = tuple(
                Plan(
                    agent_id=agent_id,
                    priority=chance.choice(priorities),
                    model=chance.choice(models),
                    prompt=f"In a few words: {chance.choice(SUBJECTS)}?",
                    max_tokens=chance.randint(*TOKENS),
                )
                for _ in range(requests)
            )
    return plans


class Fleet:
    """The agents at work. `watch` hears every event and every outcome."""

    def __init__(self, plans: dict[str, tuple[Plan, ...]], watch: Watch) -> None:
        self.agents = [Agent(agent_id=name, plans=each) for name, each in plans.items()]
        self.outcomes: list[Outcome] = []
        self._watch = watch

    async def run(self, address: str) -> None:
        """Until every agent has had its last answer or error."""
        async with asyncio.TaskGroup() as group:
            for agent in self.agents:
                group.create_task(self._play(agent, address), name=agent.agent_id)

    async def _play(self, agent: Agent, address: str) -> None:
        async with AsyncClient(address, agent_id=agent.agent_id) as broker:
            for plan in agent.plans:
                agent.current, agent.queued, agent.started = plan, None, None
                agent.tail, agent.pieces, agent.retrying = "", 0, None
                outcome = await self._ask(agent, plan, broker)
                agent.current = None
                agent.ended += 1
                self.outcomes.append(outcome)
                self._watch(agent, outcome)

    async def _ask(self, agent: Agent, plan: Plan, broker: AsyncClient) -> Outcome:
        stream = broker.stream(
            model=plan.model,
            prompt=plan.prompt,
            priority=plan.priority,
            max_tokens=plan.max_tokens,
            deadline_s=DEADLINE_S,
        )
        try:
            async with stream:
                async for event in stream:
                    follow(agent, event)
                    self._watch(agent, event)
                    if isinstance(event, Done):
                        return Outcome(
                            plan=plan,
                            wait_ms=event.timings.queue_wait_ms,
                            tokens=event.usage.output_tokens,
                        )
        except BrokerError as error:
            return Outcome(plan=plan, error=f"{type(error).__name__}: {error}")
        raise AssertionError("a stream ends with done or an error")


def follow(agent: Agent, event: Event) -> None:
    """Keeps what the view shows of an agent up to date."""
    match event:
        case Queued():
            agent.queued, agent.started, agent.retrying = event, None, None
        case Started():
            agent.started, agent.retrying = event, None
        case Chunk():
            agent.tail = (agent.tail + event.thinking + event.text)[-TAIL_CHARACTERS:]
            agent.pieces += event.tokens
        case Requeued():
            agent.started = None
            if event.discard_before_seq:
                agent.tail, agent.pieces = "", 0
        case Retrying():
            agent.started, agent.retrying = None, event
        case _:
            pass
