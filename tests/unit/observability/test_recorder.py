"""What is counted of requests as they go by."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from broker.core.alert_rules import FirstTokens
from broker.core.breaker import BreakerState
from broker.core.effects import TellBreaker, TellHealing, TellLevel
from broker.core.healing import HealingStep
from broker.core.level import Level
from broker.core.requests import Outcome
from broker.core.views import REQUIREMENTS
from broker.observability.metric_catalog import (
    AGENTS_MAX,
    CHOICES_MAX,
    KINDS_MAX,
    REASONS_MAX,
    RUNNERS_MAX,
)
from broker.observability.recorder import Recorder
from tests.unit.observability.ended import MS, attempt_failed, refused, report, start


class Counted:
    """A recorder and what a scrape would find."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.recorder = Recorder(self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def series(self, name: str) -> int:
        """How many label sets a metric has, whatever they count."""
        return sum(
            1
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        )


def test_a_completed_request_is_counted_once_everywhere() -> None:
    counted = Counted()
    counted.recorder.request_started(start())
    counted.recorder.request_ended(report())
    kind, runner = (
        {"agent_type": "opus", "model": "m:latest"},
        {"backend": "b", "model": "m:latest"},
    )
    assert counted.value("broker_request_first_token_seconds_sum", **kind) == 0.1
    assert counted.value("broker_request_first_token_seconds_bucket", le="0.1", **kind) == 1
    assert counted.value("broker_request_first_token_seconds_bucket", le="0.05", **kind) == 0
    assert counted.value("broker_request_duration_seconds_sum", **kind) == 0.8
    assert counted.value("broker_queue_wait_seconds_sum", priority="5") == 0.03
    assert counted.value("broker_load_wait_seconds_sum", **runner) == 0.02
    assert counted.value("broker_time_per_output_token_seconds_sum", **runner) == 0.012
    assert counted.value("broker_prompt_tokens_total", **runner) == 7
    assert counted.value("broker_output_tokens_total", **runner) == 50
    assert counted.value("broker_agent_requests_total", agent="opus-1", outcome="completed") == 1
    assert counted.value("broker_agent_tokens_total", agent="opus-1") == 57
    assert counted.series("broker_requests_dropped_total") == 1  # "other", of which there is none
    assert counted.recorder.first_tokens == FirstTokens(count=1, ns_sum=100 * MS)


def test_every_way_of_being_dropped_has_its_reason() -> None:
    counted = Counted()
    for outcome in (Outcome.REFUSED, Outcome.SHED, Outcome.DISPLACED, Outcome.EXPIRED):
        counted.recorder.request_ended(refused("R", outcome=outcome))
        assert (
            counted.value("broker_requests_dropped_total", outcome=outcome.value, reason="R") == 1
        )
    assert counted.recorder.first_tokens.count == 0
    assert counted.value("broker_agent_requests_total", agent="opus-1", outcome="shed") == 1


def test_what_failed_after_tokens_is_a_failure_that_used_them() -> None:
    counted = Counted()
    failed = report(outcome=Outcome.FAILED, reason="BACKEND_FAILED", prompt_tokens=0)
    counted.recorder.request_ended(failed)
    runner = {"backend": "b", "model": "m:latest"}
    assert counted.value("broker_requests_failed_total", backend="b", reason="BACKEND_FAILED") == 1
    assert counted.value("broker_output_tokens_total", **runner) == 50
    assert counted.value("broker_prompt_tokens_total", **runner) == 0
    kind = {"agent_type": "opus", "model": "m:latest"}
    assert counted.value("broker_request_first_token_seconds_count", **kind) == 1
    assert counted.value("broker_request_duration_seconds_count", **kind) == 0


def test_a_substitution_is_counted_by_the_model_that_answered() -> None:
    counted = Counted()
    counted.recorder.request_ended(report(substituted_for="big:70b"))
    assert counted.value("broker_requests_substituted_total", model="m:latest") == 1


def test_what_was_chosen_is_counted_by_what_was_asked_for_and_the_model_that_answered() -> None:
    counted = Counted()
    for asked in ("fast", "fast", REQUIREMENTS, ""):
        counted.recorder.request_ended(report(chosen_for=asked))
    by_model = {"model": "m:latest"}
    assert counted.value("broker_requests_chosen_total", asked="fast", **by_model) == 2
    assert counted.value("broker_requests_chosen_total", asked=REQUIREMENTS, **by_model) == 1
    assert counted.series("broker_requests_chosen_total") == 2 + 1  # and "other"


def test_what_an_unknown_agent_calls_itself_or_asks_for_makes_no_series() -> None:
    counted = Counted()
    for number in range(10):
        stranger = refused(
            "AGENT_UNKNOWN", key=(f"x{number}", "r"), agent_type="", model=f"m{number}"
        )
        counted.recorder.request_ended(stranger)
    text = [str(sample) for family in counted.registry.collect() for sample in family.samples]
    assert not any("x1" in each or "m1" in each for each in text)
    found = counted.value(
        "broker_requests_dropped_total", outcome="refused", reason="AGENT_UNKNOWN"
    )
    assert found == 10


def test_a_hundred_and_thirty_one_agents_are_told_apart_and_a_hundred_thousand_are_not() -> None:
    counted = Counted()
    for number in range(100_000):
        counted.recorder.request_ended(refused(key=(f"opus-{number}", "r")))
    one = {"outcome": "refused"}
    assert counted.value("broker_agent_requests_total", agent="opus-130", **one) == 1
    rest = 100_000 - AGENTS_MAX
    assert counted.value("broker_agent_requests_total", agent="other", **one) == rest
    assert counted.series("broker_agent_tokens_total") == AGENTS_MAX + 1


def test_models_backends_types_and_reasons_are_bounded_too() -> None:
    counted = Counted()
    for number in range(1_000):
        name = f"n{number}"
        counted.recorder.request_started(start(model=name))
        counted.recorder.request_ended(report(model=name, substituted_for="x", chosen_for=name))
        counted.recorder.request_ended(report(agent_type=name, backend=name))
        counted.recorder.request_ended(refused(name))
        counted.recorder.request_ended(report(outcome=Outcome.FAILED, reason=name))
    assert counted.series("broker_request_duration_seconds_count") == KINDS_MAX + 1
    assert counted.series("broker_prompt_tokens_total") == RUNNERS_MAX + 1
    assert counted.series("broker_requests_dropped_total") == REASONS_MAX + 1
    assert counted.series("broker_requests_failed_total") == REASONS_MAX + 1
    assert counted.series("broker_requests_substituted_total") == RUNNERS_MAX + 1
    assert counted.series("broker_requests_chosen_total") == CHOICES_MAX + 1
    # Nothing is lost in the sum.
    total = sum(
        sample.value
        for family in counted.registry.collect()
        for sample in family.samples
        if sample.name == "broker_request_duration_seconds_count"
    )
    assert total == 2_000


def test_a_change_of_level_is_counted_by_the_new_one() -> None:
    counted = Counted()
    told = TellLevel(level=Level.LEVEL_1, before=Level.NORMAL, why="")
    counted.recorder.level_changed(told)
    counted.recorder.level_changed(told)
    counted.recorder.level_changed(TellLevel(level=Level.LEVEL_1, before=Level.LEVEL_1, why=""))
    assert counted.value("broker_level_changes_total", level="1") == 2


def test_attempts_breakers_cures_and_standstills_are_counted() -> None:
    counted = Counted()
    recorder = counted.recorder
    for is_retried in (True, False):
        recorder.attempt_failed(attempt_failed(is_retried=is_retried))
    runner = {"backend": "b", "model": "m:latest"}
    recorder.breaker_changed(
        TellBreaker(
            backend="b",
            model="m:latest",
            before=BreakerState.CLOSED,
            after=BreakerState.OPEN,
            why="5 of 6 calls failed",
            until_ns=1,
        )
    )
    recorder.healing(
        TellHealing(backend="b", model="m:latest", step=HealingStep.FROZEN, evidence="silent")
    )
    recorder.loop_stalled(2_500 * MS, "x.py:3 f")
    value = counted.value
    assert value("broker_attempts_failed_total", backend="b", reason="BACKEND_FAILED") == 2
    assert value("broker_circuit_breaker_changes_total", state="open", **runner) == 1
    assert value("broker_healing_steps_total", backend="b", step="frozen") == 1
    assert value("broker_loop_stalls_total") == 1
    assert value("broker_loop_stalled_seconds_total") == 2.5
