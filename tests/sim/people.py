"""The types of agents that a seed configures, and what its operators ask for while it plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from broker.core.agent_policy import (
    BATCH,
    CRITICAL,
    OPEN_HOUSE,
    AgentsPolicy,
    AgentTypePolicy,
    BucketPolicy,
)
from broker.core.level import Level
from broker.core.policy import EnginePolicy
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.stimuli import (
    BlockAsked,
    BoostAsked,
    LevelAsked,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
    Stimulus,
)

SECOND_NS: Final = 1_000_000_000
KINDS: Final = ("idler", "flood", "burster")
CHANGES_MAX: Final = 8

Order = tuple[int, Stimulus]  # when, and what is asked


def draw_agents(chance: Random) -> AgentsPolicy:
    """Half of the worlds say nothing of agents; of the others each says a few things."""
    if chance.random() < 0.5:
        return OPEN_HOUSE
    has_rates, has_tokens = chance.random() < 0.5, chance.random() < 0.3
    types = tuple(
        AgentTypePolicy(
            name=kind,
            match=(f"{kind}-*",),
            weight=chance.choice((0.5, 1.0, 1.0, 4.0)),
            requests=_bucket(chance, has_rates, (60, 240), (5, 20)),
            tokens=_bucket(chance, has_tokens, (5_000, 60_000), (1_000, 20_000)),
            all_requests=_bucket(chance, has_rates, (120, 480), (10, 40)),
            all_tokens=_bucket(chance, has_tokens, (20_000, 200_000), (10_000, 40_000)),
            priority_best=chance.choice((1, 1, 3, 5)),
            may_be_critical=chance.random() < 0.7,
        )
        for kind in KINDS
    )
    limited = [each for each in (*KINDS, CRITICAL, BATCH) if chance.random() < 0.4]
    return AgentsPolicy(
        types=(*types, AgentTypePolicy(name="rest", match=("*",))),
        default_type="rest",
        # Large enough for the wave that comes when all is well.
        requests=_bucket(chance, has_rates, (240, 900), (80, 120)),
        bulkheads={each: chance.randint(1, 4) for each in limited},
    )


def _bucket(
    chance: Random, has_any: bool, per_minute: tuple[int, int], burst: tuple[int, int]
) -> BucketPolicy | None:
    if not has_any or chance.random() < 0.5:
        return None
    return BucketPolicy(
        per_minute=float(chance.randint(*per_minute)), burst=float(chance.randint(*burst))
    )


def draw_queue(chance: Random) -> QueuePolicy:
    """Small enough to be full, or so large that it never is; a wave always fits."""
    return QueuePolicy(
        queued_max=chance.choice((20, 1000)),
        queued_per_agent_max=chance.choice((15, 1000)),
        queued_bytes_max=chance.choice((40_000, 1 << 30)),
        room_max=chance.choice((0, 5, 100)),
        handicap_ns_per_priority=chance.choice((0, 5, 60)) * SECOND_NS,
        size_handicap=chance.choice((0.0, 3.5, 100.0)),
        fairness_grain=chance.choice((0, 100, 4_096)),
        agent_order=chance.choice(tuple(AgentOrder)),
    )


def draw_orders(
    chance: Random, policy: EnginePolicy, agents: list[str], horizon_ns: int
) -> tuple[Order, ...]:
    """Boosts, blocks, pauses and their ends, and seldom another policy."""
    if chance.random() < 0.5:
        return ()
    scopes = [
        *(Scope(agent_id=each) for each in agents[:5]),
        *(Scope(agent_type=each.name) for each in policy.agents.types),
        Scope(),
    ]
    orders = [
        (at_ns, _draw_order(chance, chance.choice(scopes), at_ns))
        for at_ns in sorted(chance.randrange(horizon_ns) for _ in range(CHANGES_MAX))
    ]
    if chance.random() < 0.4:
        orders.append((chance.randrange(horizon_ns), PolicyChanged(_other(chance, policy))))
    return tuple(sorted(orders, key=lambda each: each[0]))


def _draw_order(chance: Random, scope: Scope, at_ns: int) -> Stimulus:
    until_ns = chance.choice((None, at_ns + chance.randint(1, 60) * SECOND_NS))
    asked: Stimulus
    match chance.choice(("boost", "block", "pause", "resume", "level")):
        case "boost":
            asked = BoostAsked(
                scope=scope,
                weight_factor=chance.choice((0.25, 1.0, 8.0)),
                rate_factor=chance.choice((0.5, 1.0, 4.0)),
                priority_best=chance.choice((0, 1, 7)),
                until_ns=until_ns,
            )
        case "block":
            cancels = chance.random() < 0.3
            asked = BlockAsked(scope=scope, cancels_waiting=cancels, until_ns=until_ns)
        case "pause":
            asked = PauseAsked(scope=scope, until_ns=until_ns)
        case "level":
            asked = LevelAsked(level=chance.choice(list(Level)), until_ns=until_ns)
        case _:
            asked = ResumeAsked(scope)
    return asked


def _other(chance: Random, policy: EnginePolicy) -> EnginePolicy:
    """The same types with other numbers, of which some are below what waits or runs."""
    types = tuple(
        replace(each, weight=chance.choice((0.5, 2.0)), priority_best=chance.choice((1, 4)))
        for each in policy.agents.types
    )
    agents = replace(policy.agents, types=types, bulkheads=dict.fromkeys(KINDS, 1))
    queue = replace(policy.queue, queued_max=chance.choice((2, 200)), room_max=2)
    return replace(policy, agents=agents, queue=queue)


def draw_moves(chance: Random, policy: EnginePolicy, horizon_ns: int) -> tuple[Order, ...]:
    """In some of the worlds with several backends one is taken out of the configuration, and comes
    back, if only when all is well."""
    if len(policy.backends) < 2 or chance.random() < 0.6:
        return ()
    orders = []
    for _ in range(chance.randint(1, 3)):
        leaves, at_ns = chance.choice(policy.backends), chance.randrange(horizon_ns)
        stay = tuple(each for each in policy.backends if each is not leaves)
        back_ns = at_ns + chance.choice((1, 10, 60, 600)) * SECOND_NS
        orders.append((at_ns, PolicyChanged(replace(policy, backends=stay))))
        if back_ns < horizon_ns:
            orders.append((back_ns, PolicyChanged(policy)))
    return tuple(orders)


def has_moves(orders: Sequence[Order], policy: EnginePolicy) -> bool:
    """Does any backend leave for a while?"""
    return any(
        isinstance(each, PolicyChanged) and len(each.policy.backends) < len(policy.backends)
        for _, each in orders
    )


def final_orders(policy: EnginePolicy, orders: tuple[Order, ...]) -> tuple[Stimulus, ...]:
    """What ends everything that operators changed: nothing is to stand back for ever."""
    asked = [each for _, each in orders]
    scopes = dict.fromkeys(
        each.scope for each in asked if isinstance(each, BoostAsked | BlockAsked | PauseAsked)
    )
    reloads = [PolicyChanged(policy)] if any(isinstance(x, PolicyChanged) for x in asked) else []
    return (*(ResumeAsked(scope) for scope in scopes), *reloads, LevelAsked(level=Level.NORMAL))
