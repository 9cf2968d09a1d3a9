"""The configuration of what the broker feels of its machine, and what it shows of itself.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from broker.config.section import (
    DAY_S,
    MIB,
    Array,
    Percent,
    RequestsBurst,
    RequestsPerMinute,
    Section,
)


class DegradationConfig(Section):
    """[degradation]: what is offered when the machine is short of something."""

    # False: the level is normal unless an operator sets it.
    automatic: bool = True
    # Percent of the worst part of the load: a level is entered above "up" and left below "down".
    # All six are the seeds'.
    level_1_up: Percent = 60
    level_1_down: Percent = 50
    level_2_up: Percent = 80
    level_2_down: Percent = 70
    critical_up: Percent = 95
    critical_down: Percent = 90
    # How long the load must stay below before a level is left, one at a time: longer than a load of
    # a model makes the memory swing.
    dwell_s: int = Field(default=15, ge=1, le=3_600)
    # A level that had to be entered again soon after it was left is held twice as long each time,
    # up to this.
    dwell_max_s: int = Field(default=240, ge=1, le=DAY_S)
    # A wait of this length, as predicted, is a load of 100 %: what a request without a deadline
    # bears.
    wait_target_s: int = Field(default=600, ge=1, le=DAY_S)
    # Tokens of an answer at level 1 and above. The seeds'.
    max_tokens: int = Field(default=512, ge=1, le=131_072)
    # What counts as a small model at level 2 and above: by its file in 10^9 bytes, or by name.
    small_model_gb_max: float = Field(default=2.0, gt=0, le=100_000)
    # The first of these that exists answers where the caller names none and none is resident. The
    # seeds'.
    small_models: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
        Array,
        Field(max_length=1_000),
    ] = ("tinyllama",)
    # What requests that allow it are answered at the critical level instead of waiting; "": they
    # wait.
    default_answer: str = Field(default="", max_length=65_536)
    # The same by the prompt_type of the request, which the general one stands in for.
    default_answers: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/@-]{1,64}$")],
        Annotated[str, Field(max_length=65_536)],
    ] = Field(default_factory=dict, max_length=1_000)


class MonitorsConfig(Section):
    """[monitors]: the sensors of this host. They speak for backends on it and no others."""

    # psutil: processor, memory, swap, the processes of a local Ollama.
    host: bool = True
    # NVML. Where there is no GPU or no driver the broker notices and asks seldom.
    gpu: bool = True
    # Once a second costs less than half a percent of a core; see docs/benchmarks.md.
    interval_ms: int = Field(default=1_000, ge=50, le=60_000)
    # A sensor that has not answered for so long is not believed any more.
    stale_ms: int = Field(default=10_000, ge=100, le=600_000)
    # Memory that others use counts when they have used it for so long: longer than a server takes
    # to have that of a model back (up to 5 s), and than between two looks at what it holds
    # (poll_interval_ms).
    settle_ms: int = Field(default=6_000, ge=0, le=600_000)


class PubSubConfig(Section):
    """[pubsub]: who may listen and publish, and how much."""

    # Ten for each agent of the seeds' fleet.
    subscribers_max: int = Field(default=2_000, ge=1, le=100_000)
    subscribers_per_agent_max: int = Field(default=100, ge=1, le=100_000)
    # Events kept for a subscriber that reads slowly; beyond, it is told how many it missed.
    subscriber_events_max: int = Field(default=256, ge=1, le=100_000)
    # Bytes of what agents published that are kept for one slow subscriber.
    subscriber_bytes_max: int = Field(default=1 * MIB, ge=65_536, le=256 * MIB)
    # Of one agent: ten a second, and a minute's worth of a quiet one at once.
    publishes_per_minute: RequestsPerMinute = 600.0
    publishes_burst: RequestsBurst = 100.0
    payload_bytes_max: int = Field(default=65_536, ge=1, le=1 * MIB)


class ObservabilityConfig(Section):
    """[observability]: what is written down of each request."""

    # One line for each request that ended.
    log_requests: bool = True
    # Prompts in those lines and in traces. They may hold anything: for a box of your own.
    log_prompts: bool = False
    # OpenTelemetry spans, one per phase; needs the extra `otel` and heeds OTEL_EXPORTER_OTLP_*.
    tracing: bool = False


class AlertsConfig(Section):
    """[alerts]: from when on an operator should look."""

    # The seeds' HighRequestLatency: the mean time to the first token over the window.
    first_token_ms_mean: int = Field(default=5_000, ge=1, le=3_600_000)
    window_s: int = Field(default=300, ge=10, le=3_600)
    # The seeds' QueueSaturation.
    queue_percent: Percent = 80
    # The seeds' ExcessiveRetries.
    retries_per_minute: float = Field(default=10.0, ge=0.1, le=1_000_000)
