"""The configuration reaches the parts: every setting that one of them has is handed to it."""

from __future__ import annotations

from broker.config.load import load
from broker.config.schema import BackendConfig, Config, LimitsConfig, PlacementConfig, QueueConfig
from broker.core.placement import PlacementPolicy
from broker.daemon.signals import Signals
from broker.daemon.wiring import engine_policy

MS = 1_000_000
S = 1_000_000_000


def test_the_defaults_of_the_file_are_the_defaults_of_the_engine() -> None:
    policy = engine_policy(load(None, {}))
    assert policy.placement == PlacementPolicy()
    assert policy.queue.queued_max == 1000


def test_times_reach_the_engine_in_its_own_unit() -> None:
    config = Config(
        limits=LimitsConfig(queued_max=7, streams_max=9),
        queue=QueueConfig(handicap_ms_per_priority=11, announce_interval_ms=60),
        placement=PlacementConfig(
            keep_alive_s=12, failed_load_hold_s=13, num_ctx_hold_s=14, slot_grace_ms=15
        ),
        backends=(
            BackendConfig(name="a", resident_max=2, memory_gb=1.5, exclusive=True),
            BackendConfig(name="b"),
        ),
    )
    policy = engine_policy(config)
    assert (policy.queue.queued_max, policy.queue.live_max) == (7, 9)
    assert policy.queue.handicap_ns_per_priority == 11 * MS
    assert policy.queue.announce_interval_ns == 60 * MS
    assert policy.placement == PlacementPolicy(
        keep_alive_ns=12 * S,
        failed_load_hold_ns=13 * S,
        num_ctx_hold_ns=14 * S,
        slot_grace_ns=15 * MS,
    )
    one, two = policy.backends
    assert (one.name, one.resident_max, one.memory_bytes, one.exclusive) == (
        "a",
        2,
        1_500_000_000,
        True,
    )
    assert (two.name, two.resident_max, two.memory_bytes, two.exclusive) == ("b", 1, None, False)


def test_the_first_signal_drains_and_every_later_one_stops() -> None:
    heard: list[str] = []
    signals = Signals(lambda: heard.append("drain"), lambda: heard.append("stop"))
    for _ in range(3):
        signals.received()
    assert heard == ["drain", "stop", "stop"]
