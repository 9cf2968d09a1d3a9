"""The engine's part of the configuration, in the engine's own words and units."""

from __future__ import annotations

from broker.config.address import is_loopback
from broker.config.schema import AgentsConfig, AgentTypeConfig, BackendConfig, Config
from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.level import DegradationPolicy, Level, Threshold
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import AgentOrder, QueuePolicy

_MS = 1_000_000
_S = 1_000_000_000


def engine_policy(config: Config) -> EnginePolicy:
    """All that the engine decides by. `config` is free of contradictions."""
    return EnginePolicy(
        backends=tuple(_backend(each) for each in config.backends),
        queue=_queue(config),
        agents=_agents(config),
        placement=PlacementPolicy(
            keep_alive_ns=config.placement.keep_alive_s * _S,
            failed_load_hold_ns=config.placement.failed_load_hold_s * _S,
            num_ctx_hold_ns=config.placement.num_ctx_hold_s * _S,
            slot_grace_ns=config.placement.slot_grace_ms * _MS,
        ),
        degradation=_degradation(config),
    )


def _degradation(config: Config) -> DegradationPolicy:
    levels = config.degradation
    return DegradationPolicy(
        is_automatic=levels.automatic,
        thresholds={
            Level.LEVEL_1: Threshold(up=levels.level_1_up / 100, down=levels.level_1_down / 100),
            Level.LEVEL_2: Threshold(up=levels.level_2_up / 100, down=levels.level_2_down / 100),
            Level.CRITICAL: Threshold(up=levels.critical_up / 100, down=levels.critical_down / 100),
        },
        dwell_ns=levels.dwell_s * _S,
        dwell_ns_max=levels.dwell_max_s * _S,
        stale_ns=config.monitors.stale_ms * _MS,
        settle_ns=config.monitors.settle_ms * _MS,
        wait_target_ns=levels.wait_target_s * _S,
        output_tokens_max=levels.max_tokens,
        small_model_bytes_max=int(levels.small_model_gb_max * 1e9),
        small_models=levels.small_models,
        has_default_answer=bool(levels.default_answer),
    )


def live_max(config: Config) -> int:
    """How many requests there may be at once; the engine refuses more, with a reason."""
    return max(config.limits.streams_max, config.limits.queued_max)


def _backend(config: BackendConfig) -> BackendPolicy:
    memory_gb = config.memory_gb
    return BackendPolicy(
        name=config.name,
        resident_max=config.resident_max,
        memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        exclusive=config.exclusive,
        is_local=is_loopback(config.url) if config.local is None else config.local,
    )


def _queue(config: Config) -> QueuePolicy:
    queue, limits = config.queue, config.limits
    return QueuePolicy(
        handicap_ns_per_priority=queue.handicap_ms_per_priority * _MS,
        agent_order=AgentOrder(queue.agent_order),
        queued_max=limits.queued_max,
        queued_per_agent_max=limits.queued_per_agent_max or limits.queued_max,
        queued_bytes_max=limits.queued_bytes_max,
        live_max=live_max(config),
        room_max=queue.room_max,
        room_wait_ns=queue.room_wait_ms * _MS,
        room_priority_worst=queue.room_priority_worst,
        slow_down_share=queue.slow_down_percent / 100,
        prompt_token_cost=queue.prompt_token_cost,
        output_token_cost=queue.output_token_cost,
        deadline_margin=queue.deadline_margin,
        announce_interval_ns=queue.announce_interval_ms * _MS,
    )


def _agents(config: Config) -> AgentsPolicy:
    agents: AgentsConfig = config.agents
    return AgentsPolicy(
        types=tuple(_type(each) for each in agents.types),
        default_type=agents.default_type,
        requests=_bucket(agents.requests_per_minute, agents.requests_burst),
        tokens=_bucket(agents.tokens_per_minute, agents.tokens_burst),
        remembered_max=agents.remembered_max,
        bulkheads=dict(config.bulkheads),
    )


def _type(config: AgentTypeConfig) -> AgentTypePolicy:
    return AgentTypePolicy(
        name=config.name,
        match=config.match,
        weight=config.weight,
        requests=_bucket(config.requests_per_minute, config.requests_burst),
        tokens=_bucket(config.tokens_per_minute, config.tokens_burst),
        all_requests=_bucket(config.all_requests_per_minute, config.all_requests_burst),
        all_tokens=_bucket(config.all_tokens_per_minute, config.all_tokens_burst),
        priority_best=config.priority_best,
        may_be_critical=config.may_be_critical,
        compartment=config.bulkhead,
    )


def _bucket(per_minute: float | None, burst: float | None) -> BucketPolicy | None:
    """A burst that is not given is one minute's worth; below 1 no request would ever fit."""
    if per_minute is None:
        return None
    return BucketPolicy(
        per_minute=per_minute, burst=max(1.0, per_minute if burst is None else burst)
    )
