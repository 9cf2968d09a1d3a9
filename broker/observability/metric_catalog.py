"""The metrics that are counted as requests go by; docs/metrics.md says what each one means.

What the engine knows at any moment is not counted here but read from it: `prometheus.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

# From what a resident model answers at once to what an agent without a deadline bears.
WAIT_BUCKETS_S: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
# From a small model on a large card to a large one on a processor.
TOKEN_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)

# Series are kept for so many of each; beyond, they are counted as "other".
KINDS_MAX: Final = 128  # pairs of an agent type and a model
RUNNERS_MAX: Final = 128  # pairs of a backend and a model
CHOICES_MAX: Final = 128  # pairs of an alias and a model
AGENTS_MAX: Final = 256  # nearly twice the seeds' fleet
REASONS_MAX: Final = 128  # the table of reasons is shorter

_KIND: Final = ("agent_type", "model")
_RUNNER: Final = ("backend", "model")


class MetricCatalog:
    """Every such metric, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        waits = partial(Histogram, registry=registry, buckets=WAIT_BUCKETS_S)
        counter = partial(Counter, registry=registry)
        self.first_token = waits(
            "broker_request_first_token_seconds",
            "From arrival to the first token, of requests that got one",
            _KIND,
        )
        self.duration = waits(
            "broker_request_duration_seconds",
            "From arrival to the end, of completed requests",
            _KIND,
        )
        self.queue_wait = waits(
            "broker_queue_wait_seconds",
            "From arrival to the start on a backend, waits for loads included",
            ["priority"],
        )
        self.load_wait = waits(
            "broker_load_wait_seconds",
            "The part of the wait in which the model was loaded, of requests that waited for it",
            _RUNNER,
        )
        self.per_token = Histogram(
            "broker_time_per_output_token_seconds",
            "Mean time between the tokens of a completed request",
            _RUNNER,
            registry=registry,
            buckets=TOKEN_BUCKETS_S,
        )
        self.prompt_tokens = counter(
            "broker_prompt_tokens", "Tokens of prompts, as backends count", _RUNNER
        )
        self.output_tokens = counter(
            "broker_output_tokens",
            "Tokens of answers; of those cut off, the pieces that came",
            _RUNNER,
        )
        self.dropped = counter(
            "broker_requests_dropped",
            "Requests refused, shed, displaced or expired, by the reason told",
            ["outcome", "reason"],
        )
        self.agent_requests = counter(
            "broker_agent_requests", "Requests by agent", ["agent", "outcome"]
        )
        self.agent_tokens = counter(
            "broker_agent_tokens", "Prompt and output tokens by agent", ["agent"]
        )
        self.level_changes = counter("broker_level_changes", "Changes to this level", ["level"])
        self._add_choices(counter)
        self._add_failures(counter)

    def _add_choices(self, counter: partial[Counter]) -> None:
        """Which models answer in the place of others, or of none."""
        self.substituted = counter(
            "broker_requests_substituted",
            "Requests that another model answered than the one asked for",
            ["model"],
        )
        self.chosen = counter(
            "broker_requests_chosen",
            "Requests that named an alias, or only requirements, by the model that answered",
            ["asked", "model"],
        )

    def _add_failures(self, counter: partial[Counter]) -> None:
        """What fails, and what is done about it."""
        self.failed = counter(
            "broker_requests_failed",
            "Requests that a backend, or the broker, failed",
            ["backend", "reason"],
        )
        self.attempts_failed = counter(
            "broker_attempts_failed",
            "Calls to backends that came to nothing, by what their request would have been told",
            ["backend", "reason"],
        )
        self.breaker_changes = counter(
            "broker_circuit_breaker_changes",
            "Changes of a circuit breaker to this state",
            [*_RUNNER, "state"],
        )
        self.healing = counter(
            "broker_healing_steps",
            "What was done about models and servers that wedge",
            ["backend", "step"],
        )
        self.loop_stalls = counter("broker_loop_stalls", "Standstills of the broker's own loop")
        self.loop_stalled = counter(
            "broker_loop_stalled_seconds", "How long these standstills were together"
        )
