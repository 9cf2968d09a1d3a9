"""The configuration reaches the engine: every setting that it has is handed to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.machine import DegradationConfig, MonitorsConfig
from broker.config.reload import plan_reload
from broker.config.schema import (
    AgentsConfig,
    AgentTypeConfig,
    Config,
    LimitsConfig,
    PreemptionConfig,
    QueueConfig,
)
from broker.config.serving import BackendConfig, PlacementConfig
from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.level import DegradationPolicy, Level, Threshold
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.preemption import PreemptionPolicy
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.daemon.engine_policy import engine_policy, live_max

MS = 1_000_000
S = 1_000_000_000


def test_the_defaults_of_the_file_are_the_defaults_of_the_engine() -> None:
    policy = engine_policy(load(None, {}))
    assert policy.placement == PlacementPolicy()
    assert policy.queue == QueuePolicy(live_max=10_000)
    assert policy.degradation == DegradationPolicy()
    assert policy.preemption == PreemptionPolicy()


def test_agents_have_the_rates_and_bulkheads_of_the_seeds() -> None:
    agents = engine_policy(Config()).agents
    assert agents == AgentsPolicy(
        types=tuple(
            AgentTypePolicy(
                name=name,
                match=(f"{name}-*",),
                requests=BucketPolicy(per_minute=rate, burst=rate),
            )
            for name, rate in (("opus", 10.0), ("sonnet", 20.0), ("system", 50.0))
        ),
        default_type="system",
        bulkheads={"opus": 10, "sonnet": 20, "critical": 5, "batch": 15},
    )


def test_times_and_limits_reach_the_engine_in_its_own_unit() -> None:
    config = Config(
        limits=LimitsConfig(
            queued_max=7, queued_per_agent_max=3, queued_bytes_max=2**20, streams_max=9
        ),
        queue=QueueConfig(
            handicap_ms_per_priority=11,
            size_handicap=1.25,
            fairness_grain_tokens=77,
            session_credit_ms=78,
            announce_interval_ms=60,
            agent_order="deadline",
            room_max=12,
            room_wait_ms=13,
            room_priority_worst=2,
            slow_down_percent=50,
            prompt_token_cost=3,
            output_token_cost=4,
            deadline_margin=1.5,
        ),
    )
    assert engine_policy(config).queue == QueuePolicy(
        handicap_ns_per_priority=11 * MS,
        size_handicap=1.25,
        fairness_grain=77,
        session_credit_ns=78 * MS,
        agent_order=AgentOrder.DEADLINE,
        queued_max=7,
        queued_per_agent_max=3,
        queued_bytes_max=2**20,
        queued_bytes_per_agent_max=2**20,
        live_max=9,
        room_max=12,
        room_wait_ns=13 * MS,
        room_priority_worst=2,
        slow_down_share=0.5,
        prompt_token_cost=3,
        output_token_cost=4,
        deadline_margin=1.5,
        announce_interval_ns=60 * MS,
    )


def test_what_backends_hold_and_times_of_switches_reach_the_engine() -> None:
    config = Config(
        placement=PlacementConfig(
            keep_alive_s=12,
            failed_load_hold_s=13,
            num_ctx_hold_s=14,
            slot_grace_ms=15,
            drain_timeout_s=16,
            memory_wait_ms=17,
        ),
        backends=(
            BackendConfig(name="a", resident_max=2, loaded_max=3, memory_gb=1.5, exclusive=True),
            BackendConfig(name="b", url="gpu2.example:11434"),
        ),
    )
    policy = engine_policy(config)
    assert policy.placement == PlacementPolicy(
        keep_alive_ns=12 * S,
        failed_load_hold_ns=13 * S,
        num_ctx_hold_ns=14 * S,
        slot_grace_ns=15 * MS,
        drain_timeout_ns=16 * S,
        memory_wait_ns=17 * MS,
    )
    assert policy.backends == (
        BackendPolicy(
            name="a",
            resident_max=2,
            loaded_max=3,
            memory_bytes=1_500_000_000,
            exclusive=True,
            is_local=True,
        ),
        BackendPolicy(name="b", resident_max=1, memory_bytes=None, exclusive=False),
    )


def test_what_may_be_set_aside_reaches_the_engine_in_its_own_unit() -> None:
    config = PreemptionConfig(
        preemptions_max=5,
        share_percent=12.5,
        window_s=60,
        urgent_priority_worst=3,
        victim_priority_best=7,
        soon_ms=250,
    )
    assert engine_policy(Config(preemption=config)).preemption == PreemptionPolicy(
        preemptions_max=5,
        share_max=0.125,
        window_ns=60 * S,
        urgent_worst=3,
        victim_best=7,
        soon_ns=250 * MS,
    )


def test_levels_reach_the_engine_in_its_own_unit() -> None:
    config = Config(
        degradation=DegradationConfig(
            automatic=False,
            level_1_up=61,
            level_1_down=51,
            level_2_up=81,
            level_2_down=71,
            critical_up=96,
            critical_down=91,
            dwell_s=16,
            dwell_max_s=17,
            wait_target_s=18,
            max_tokens=19,
            small_model_gb_max=0.5,
            small_models=("small",),
            default_answer="later",
        ),
        monitors=MonitorsConfig(stale_ms=2_000, settle_ms=3_000),
    )
    policy = engine_policy(config)
    assert policy.degradation == DegradationPolicy(
        is_automatic=False,
        thresholds={
            Level.LEVEL_1: Threshold(up=0.61, down=0.51),
            Level.LEVEL_2: Threshold(up=0.81, down=0.71),
            Level.CRITICAL: Threshold(up=0.96, down=0.91),
        },
        dwell_ns=16 * S,
        dwell_ns_max=17 * S,
        stale_ns=2 * S,
        settle_ns=3 * S,
        wait_target_ns=18 * S,
        output_tokens_max=19,
        small_model_bytes_max=500_000_000,
        small_models=("small",),
        has_default_answer=True,
    )


@pytest.mark.parametrize(
    ("url", "local", "is_local"),
    [
        ("127.0.0.1:11434", None, True),
        (":11434", None, True),
        ("localhost", None, True),
        ("0.0.0.0:11434", None, True),
        ("http://[::1]:11434/ollama", None, True),
        ("::1", None, True),
        ("https://gpu2.example", None, False),
        ("10.0.0.2:11434", None, False),
        ("gpu2.example:11434", True, True),
        ("127.0.0.1:11434", False, False),
    ],
)
def test_a_backend_is_local_as_its_url_says_unless_it_is_said(
    url: str, local: bool | None, is_local: bool
) -> None:
    config = Config(backends=(BackendConfig(url=url, local=local),))
    assert engine_policy(config).backends[0].is_local is is_local


def test_every_setting_of_a_type_reaches_the_engine() -> None:
    config = AgentTypeConfig(
        name="cat",
        match=("cat-*",),
        weight=2.0,
        requests_per_minute=1,
        requests_burst=2,
        tokens_per_minute=3,
        tokens_burst=4,
        all_requests_per_minute=5,
        all_requests_burst=6,
        all_tokens_per_minute=7,
        all_tokens_burst=8,
        priority_best=9,
        may_be_critical=False,
        bulkhead="batch",
    )
    agents = AgentsConfig(
        default_type="cat",
        types=(config,),
        requests_per_minute=11,
        requests_burst=12,
        tokens_per_minute=13,
        tokens_burst=14,
        remembered_max=15_000,
    )
    assert engine_policy(Config(agents=agents, bulkheads={"batch": 1})).agents == AgentsPolicy(
        types=(
            AgentTypePolicy(
                name="cat",
                match=("cat-*",),
                weight=2.0,
                requests=BucketPolicy(per_minute=1, burst=2),
                tokens=BucketPolicy(per_minute=3, burst=4),
                all_requests=BucketPolicy(per_minute=5, burst=6),
                all_tokens=BucketPolicy(per_minute=7, burst=8),
                priority_best=9,
                may_be_critical=False,
                compartment="batch",
            ),
        ),
        default_type="cat",
        requests=BucketPolicy(per_minute=11, burst=12),
        tokens=BucketPolicy(per_minute=13, burst=14),
        remembered_max=15_000,
        bulkheads={"batch": 1},
    )


@pytest.mark.parametrize(("per_minute", "burst"), [(0.5, 1.0), (1.0, 1.0), (30.0, 30.0)])
def test_a_burst_that_is_not_given_is_a_minutes_worth_and_holds_a_request(
    per_minute: float, burst: float
) -> None:
    agents = AgentsConfig(requests_per_minute=per_minute)
    bucket = engine_policy(Config(agents=agents)).agents.requests
    assert bucket == BucketPolicy(per_minute=per_minute, burst=burst)


def test_an_agent_may_fill_a_queue_of_any_size_unless_told_otherwise() -> None:
    policy = engine_policy(Config(limits=LimitsConfig(queued_max=5_000)))
    assert policy.queue.queued_per_agent_max == 5_000


def test_a_longer_queue_than_streams_is_still_let_in() -> None:
    assert live_max(Config(limits=LimitsConfig(queued_max=50, streams_max=10))) == 50


def test_a_reload_changes_all_of_the_engine_but_what_its_shell_needs(tmp_path: Path) -> None:
    """And but what is built into other parts as well: keep_alive_s and streams_max."""
    file = tmp_path / "broker.toml"
    file.write_text(
        """
        [limits]
        queued_max = 999
        queued_per_agent_max = 9
        queued_bytes_max = 1_048_576
        streams_max = 9_999
        [queue]
        handicap_ms_per_priority = 1
        [agents]
        default_type = ""
        [bulkheads]
        batch = 1
        [[backends]]
        name = "other"
        resident_max = 2
        [placement]
        keep_alive_s = 11
        failed_load_hold_s = 1
        num_ctx_hold_s = 1
        slot_grace_ms = 1
        [aliases.coder]
        models = ["a"]
        """
    )
    old = engine_policy(Config())
    wanted = engine_policy(load(file, {}))
    new = engine_policy(plan_reload(Config(), file, {}).config)
    assert new == EnginePolicy(
        backends=wanted.backends,
        agents=wanted.agents,
        queue=replace(wanted.queue, live_max=old.queue.live_max),
        placement=replace(wanted.placement, keep_alive_ns=old.placement.keep_alive_ns),
        time_outs=old.time_outs,
        aliases=wanted.aliases,
    )
    assert set(new.aliases) - set(old.aliases) == {"coder"}
    assert new.queue != old.queue
    assert new.placement != old.placement
