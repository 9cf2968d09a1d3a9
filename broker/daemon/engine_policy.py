"""The engine's part of the configuration, in the engine's own words and units."""

from __future__ import annotations

from broker.config.address import is_loopback
from broker.config.aliases import AliasConfig
from broker.config.preload import PreloadConfig
from broker.config.resilience import (
    BreakerConfig,
    ModelTimeoutsConfig,
    RetriesConfig,
    TimeoutsConfig,
)
from broker.config.schema import AgentsConfig, AgentTypeConfig, Config, PreemptionConfig
from broker.config.serving import BackendConfig
from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.breaker import BreakerPolicy
from broker.core.healing import HealingPolicy
from broker.core.level import DegradationPolicy, Level, Threshold
from broker.core.model_name import comparison_key
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.preemption import PreemptionPolicy
from broker.core.preload import PreloadPolicy
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requirements import Alias, Preference, Requirements
from broker.core.retry import RetryPolicy
from broker.core.time_outs import Phase, TimeOutPolicy, TimeOuts

_MS = 1_000_000
_S = 1_000_000_000


def engine_policy(config: Config, seed: int = 0) -> EnginePolicy:
    """All that the engine decides by. `config` is free of contradictions, `seed` drawn once."""
    return EnginePolicy(
        backends=tuple(_backend(each) for each in config.backends),
        queue=_queue(config),
        agents=_agents(config),
        placement=PlacementPolicy(
            keep_alive_ns=config.placement.keep_alive_s * _S,
            failed_load_hold_ns=config.placement.failed_load_hold_s * _S,
            num_ctx_hold_ns=config.placement.num_ctx_hold_s * _S,
            slot_grace_ns=config.placement.slot_grace_ms * _MS,
            drain_timeout_ns=config.placement.drain_timeout_s * _S,
            memory_wait_ns=config.placement.memory_wait_ms * _MS,
        ),
        degradation=_degradation(config),
        time_outs=_time_outs(config),
        retry=_retry(config.retries),
        breaker=_breaker(config.breaker),
        healing=HealingPolicy(
            gap_factor=config.healing.gap_factor,
            gap_extra_ns=int(config.healing.gap_extra_s * _S),
            restart_backoff_ns=config.healing.restart_backoff_s * _S,
            restarts_max=config.healing.restarts_max,
            restart_away_ns=config.healing.restart_away_s * _S,
        ),
        preemption=_preemption(config.preemption),
        preload=_preload(config.preload),
        aliases={name: _alias(each) for name, each in config.aliases.items()},
        seed=seed,
    )


def _preemption(config: PreemptionConfig) -> PreemptionPolicy:
    return PreemptionPolicy(
        preemptions_max=config.preemptions_max,
        share_max=config.share_percent / 100,
        window_ns=config.window_s * _S,
        urgent_worst=config.urgent_priority_worst,
        victim_best=config.victim_priority_best,
        soon_ns=config.soon_ms * _MS,
    )


def _preload(config: PreloadConfig) -> PreloadPolicy:
    return PreloadPolicy(
        is_enabled=config.enabled,
        horizon_ns=config.horizon_s * _S,
        probability_min=config.probability_min,
        margin=config.margin,
        idle_ns=int(config.idle_s * _S),
        models_max=config.models_max,
        days=config.days,
    )


def _time_outs(config: Config) -> TimeOutPolicy:
    return TimeOutPolicy(
        of_all=_phases(config.timeouts),
        by_model={
            comparison_key(name): _phases(each.timeouts) for name, each in config.models.items()
        },
    )


def _phases(config: TimeoutsConfig | ModelTimeoutsConfig) -> TimeOuts:
    given = {
        f"{phase.value}_ns": limit_s
        for phase in Phase
        if (limit_s := getattr(config, f"{phase.value}_s")) is not None
    }
    return TimeOuts(**{name: int(limit_s * _S) for name, limit_s in given.items()})


def _retry(config: RetriesConfig) -> RetryPolicy:
    return RetryPolicy(
        tries_max=config.tries_max,
        backoff_ns=int(config.backoff_s * _S),
        backoff_base=config.backoff_base,
        backoff_ns_max=int(max(config.backoff_s, config.backoff_s_max) * _S),
        budget_share=config.budget_percent / 100,
        budget_max=config.budget_max,
    )


def _breaker(config: BreakerConfig) -> BreakerPolicy:
    return BreakerPolicy(
        failures=config.failures,
        window_ns=int(config.window_s * _S),
        failure_share=config.failure_percent / 100,
        slow_ns=int(config.slow_s * _S),
        open_ns=int(config.open_s * _S),
        open_ns_max=int(max(config.open_s, config.open_s_max) * _S),
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
        default_kinds=frozenset(levels.default_answers),
        has_default_answer=bool(levels.default_answer),
    )


def _alias(config: AliasConfig) -> Alias:
    wants = Requirements(
        capabilities=frozenset(config.capabilities),
        context_min=config.context_min or 0,
        size_bytes_max=int((config.size_gb_max or 0) * 1e9),
        memory_bytes_max=int((config.memory_gb_max or 0) * 1e9),
        prefer=Preference(config.prefer) if config.prefer else None,
    )
    return Alias(models=config.models, wants=wants)


def live_max(config: Config) -> int:
    """How many requests there may be at once; the engine refuses more, with a reason."""
    return max(config.limits.streams_max, config.limits.queued_max)


def staying_max(config: Config) -> int:
    """Calls that stay: subscribers, who watches models, who waits for one to come."""
    subscribers, watchers = config.pubsub.subscribers_max, config.model_list.watchers_max
    return subscribers + watchers + config.pulls.listeners_max


def _backend(config: BackendConfig) -> BackendPolicy:
    memory_gb = config.memory_gb
    return BackendPolicy(
        name=config.name,
        resident_max=config.resident_max,
        loaded_max=config.loaded_max,
        memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        exclusive=config.exclusive,
        is_local=is_loopback(config.url) if config.local is None else config.local,
        weight=config.weight,
        tags=frozenset(config.tags),
        keeps_models=config.kind == "openai",
        may_restart=bool(config.restart_command),
    )


def _queue(config: Config) -> QueuePolicy:
    queue, limits = config.queue, config.limits
    return QueuePolicy(
        handicap_ns_per_priority=queue.handicap_ms_per_priority * _MS,
        size_handicap=queue.size_handicap,
        fairness_grain=queue.fairness_grain_tokens,
        session_credit_ns=queue.session_credit_ms * _MS,
        agent_order=AgentOrder(queue.agent_order),
        queued_max=limits.queued_max,
        queued_per_agent_max=limits.queued_per_agent_max or limits.queued_max,
        queued_bytes_max=limits.queued_bytes_max,
        queued_bytes_per_agent_max=config.floods.queued_bytes_per_agent_max
        or limits.queued_bytes_max,
        live_max=live_max(config),
        room_max=queue.room_max,
        room_wait_ns=queue.room_wait_ms * _MS,
        room_priority_worst=queue.room_priority_worst,
        slow_down_share=queue.slow_down_percent / 100,
        slow_down_early_share=queue.slow_down_early_percent / 100,
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
