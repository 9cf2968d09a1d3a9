"""Thresholds that do not rise, dwells and limits that contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.problems import problems_of


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[degradation]\nlevel_1_down = 60",
            "degradation.level_1_down: is 60; must be less than degradation.level_1_up (60), "
            "as a level is left below where it is entered",
        ),
        (
            "[degradation]\nlevel_2_up = 96",
            "degradation.level_2_up: is 96; must be less than degradation.critical_up (95), "
            "as levels come one after the other",
        ),
        (
            "[degradation]\ndwell_s = 300",
            "degradation.dwell_s: is 300; must be at most degradation.dwell_max_s (240), "
            "as a dwell grows up to it",
        ),
        (
            "[monitors]\nstale_ms = 1_000",
            "monitors.interval_ms: is 1000; must be less than monitors.stale_ms (1000), "
            "as else no answer of a sensor is fresh",
        ),
        (
            "[preemption]\nurgent_priority_worst = 3",
            "preemption.urgent_priority_worst: is 3; must be less than "
            "preemption.victim_priority_best "
            "(3), as what is urgent would be set aside for its like",
        ),
        (
            "[pubsub]\nsubscribers_max = 99",
            "pubsub.subscribers_per_agent_max: is 100; must be at most pubsub.subscribers_max "
            "(99), as it counts all of them",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    assert problem in problems_of(file)
