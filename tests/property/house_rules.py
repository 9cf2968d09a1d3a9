"""What the operators of the property tests' worlds configure, at the start and at a reload.

Limits are small, so that short histories run into each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from broker.core.agent_policy import BATCH, CRITICAL, AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.breaker import BreakerPolicy
from broker.core.healing import HealingPolicy
from broker.core.level import DegradationPolicy
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.preload import PreloadPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requirements import BUILT_IN_ALIASES, Alias, Preference, Requirements
from broker.core.retry import RetryPolicy
from broker.core.time_outs import TimeOutPolicy, TimeOuts
from tests.unit.core.scene import MINUTE_NS, SECOND_NS

# Two of a type, one alone in its own, two of whom nothing was said.
AGENTS: Final = ("ann", "bob", "cyd", "dan", "eve")

_BACKENDS: Final = (
    BackendPolicy(name="b1", resident_max=2, loaded_max=3, memory_bytes=5000, is_local=True),
    BackendPolicy(name="b2", exclusive=True, may_restart=True),
)
# Room for all models at once, once they are measured.
_ROOMY: Final = (replace(_BACKENDS[0], memory_bytes=7000), _BACKENDS[1])
_QUEUE: Final = QueuePolicy(
    queued_max=6,
    queued_per_agent_max=4,
    queued_bytes_max=10_000,
    queued_bytes_per_agent_max=6_000,
    live_max=40,
    room_max=2,
    room_wait_ns=5 * SECOND_NS,
    prompt_token_cost=1,
    output_token_cost=2,
)
# "o" alone is large.
_DEGRADATION: Final = DegradationPolicy(
    settle_ns=0,
    small_model_bytes_max=2_000,
    small_models=("n",),
    output_tokens_max=50,
    has_default_answer=True,
)
# Backoffs and time-outs that a short history runs into, and a budget that it uses up.
_RETRY: Final = RetryPolicy(
    backoff_ns=2 * SECOND_NS, backoff_ns_max=6 * SECOND_NS, budget_share=0.5, budget_max=3.0
)
_TIME_OUTS: Final = TimeOutPolicy(
    of_all=TimeOuts(queue_ns=9 * MINUTE_NS, first_token_ns=2 * MINUTE_NS, token_gap_ns=MINUTE_NS),
    by_model={"n:latest": TimeOuts(first_token_ns=30 * SECOND_NS)},
)
_BREAKER: Final = BreakerPolicy(failures=4, open_ns=5 * SECOND_NS, open_ns_max=20 * SECOND_NS)
_PLACEMENT: Final = PlacementPolicy(num_ctx_hold_ns=2 * MINUTE_NS, drain_timeout_ns=2 * MINUTE_NS)
GRACE_NS: Final = _PLACEMENT.slot_grace_ns
FAILED_LOAD_HOLD_NS: Final = _PLACEMENT.failed_load_hold_ns


def _types(gold: AgentTypePolicy, silver: AgentTypePolicy, rest: AgentTypePolicy) -> AgentsPolicy:
    return AgentsPolicy(types=(gold, silver, rest), default_type="rest")


_GOLD: Final = AgentTypePolicy(name="gold", match=("ann",), weight=2.0)
_SILVER: Final = AgentTypePolicy(
    name="silver", match=("bob", "cyd"), priority_best=3, may_be_critical=False
)
# A server that is away is restarted, so far as it may be, soon.
_HEALING: Final = HealingPolicy(restart_away_ns=SECOND_NS)

# Models are loaded ahead of need on the slightest hope.
_EAGER: Final = PreloadPolicy(
    is_enabled=True, probability_min=0.0, margin=1.0, idle_ns=0, models_max=2
)

_REST: Final = AgentTypePolicy(name="rest", match=("*",), weight=0.5)
_OPEN: Final = _types(_GOLD, _SILVER, _REST)

# A list of models, some of which may be gone, and two that stand for whatever fits.
_ALIASES: Final = {
    **BUILT_IN_ALIASES,
    "picky": Alias(models=("o", "n")),
    "wide": Alias(wants=Requirements(context_min=8000, prefer=Preference.LARGE)),
}

# Weights and bulkheads, and nobody is ever refused for a rate.
_SHARED: Final = EnginePolicy(
    backends=_BACKENDS,
    queue=_QUEUE,
    agents=replace(_OPEN, bulkheads={"gold": 2, "silver": 1, CRITICAL: 1, BATCH: 1}),
    placement=_PLACEMENT,
    degradation=_DEGRADATION,
    retry=_RETRY,
    time_outs=_TIME_OUTS,
    breaker=_BREAKER,
    healing=_HEALING,
    aliases=_ALIASES,
    preload=_EAGER,
)
# A bucket at every place where there may be one.
_METERED: Final = replace(
    _SHARED,
    aliases={},  # what they would have cost who was refused, its books do not know
    agents=replace(
        _types(
            replace(_GOLD, requests=BucketPolicy(per_minute=30.0, burst=5.0)),
            replace(
                _SILVER,
                requests=BucketPolicy(per_minute=20.0, burst=4.0),
                tokens=BucketPolicy(per_minute=6000.0, burst=3000.0),
                all_requests=BucketPolicy(per_minute=30.0, burst=6.0),
            ),
            replace(_REST, all_tokens=BucketPolicy(per_minute=3000.0)),
        ),
        requests=BucketPolicy(per_minute=90.0, burst=12.0),
        tokens=BucketPolicy(per_minute=60_000.0),
        bulkheads={"gold": 2, "rest": 1},
    ),
)
# Nothing is said of agents, and the queue is what is short.
_PLAIN: Final = EnginePolicy(
    backends=_ROOMY,
    queue=_QUEUE,
    placement=_PLACEMENT,
    degradation=_DEGRADATION,
    breaker=_BREAKER,
    aliases=_ALIASES,
)


@dataclass(frozen=True, slots=True)
class House:
    """A policy to begin with, and those that a reload may bring."""

    first: EnginePolicy
    others: tuple[EnginePolicy, ...]


_SMALLER: Final = replace(
    _SHARED,
    queue=replace(
        _QUEUE,
        queued_max=2,
        queued_per_agent_max=1,
        room_max=1,
        handicap_ns_per_priority=SECOND_NS,
        fairness_grain=0,
    ),
    agents=replace(_OPEN, bulkheads={"gold": 1, "silver": 1}),
)
_SLOWER: Final = replace(
    _METERED,
    queue=replace(_QUEUE, queued_max=12, room_max=4, size_handicap=30.0, fairness_grain=20),
    agents=replace(
        _types(
            replace(_GOLD, weight=1.0, requests=BucketPolicy(per_minute=6.0, burst=1.0)),
            replace(_SILVER, priority_best=1, all_requests=BucketPolicy(per_minute=12.0)),
            replace(_REST, tokens=BucketPolicy(per_minute=1000.0)),
        ),
        requests=BucketPolicy(per_minute=30.0, burst=3.0),
        bulkheads={"gold": 1, "silver": 3, "rest": 2, BATCH: 1},
    ),
)
HOUSES: Final = (
    House(_SHARED, (_SHARED, _SMALLER)),
    House(_METERED, (_METERED, _SLOWER, _SHARED)),
    House(_PLAIN, (_PLAIN, _SMALLER)),
)
