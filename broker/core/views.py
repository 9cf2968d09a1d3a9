"""What the engine tells of agents and of single requests: frozen, made on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.breaker import BreakerState
from broker.core.content import EmbedContent, GenerateContent
from broker.core.level import Level
from broker.core.requests import Outcome, RequestKey, RequestKind
from broker.core.sensing import GpuSample, HostSample, SensorState


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketView:
    """A token bucket at one moment. `left` below 0 is a debt; `next_ns`: until one more fits, 0
    where one does now. Units are requests or model tokens."""

    name: str  # "requests", "tokens", "type_requests", "all_requests", "all_tokens"...
    per_minute: float
    burst: float
    left: float
    next_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaView:
    """What an agent may use, what is left, when more comes."""

    agent_id: str
    agent_type: str
    weight: float  # of its share, boosts included
    priority_best: int
    may_be_critical: bool
    queued: int
    queued_max: int
    running: int
    compartment: str  # the bulkhead of its ordinary work
    compartment_running: int
    compartment_max: int | None  # None: no limit
    buckets: tuple[BucketView, ...]
    is_paused: bool
    is_blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """An agent that the broker remembers."""

    agent_id: str
    agent_type: str
    weight: float
    priority_best: int
    queued: int
    running: int
    arrived: int  # since it is remembered
    ended: int
    served_cost: int  # prompt and output tokens, weighted as fairness weighs them
    requests_left: float | None  # None: no bucket
    is_paused: bool
    is_blocked: bool
    is_boosted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """One gate on the way in, and the numbers it judged by, in words."""

    name: str  # as DESIGN.md names them: "request bucket", "backpressure"...
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OvertakingView:
    """Requests that came later and started earlier, by the rule that let them."""

    rule: str
    count: int
    examples: tuple[RequestKey, ...]  # the last few


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One call to a backend for a request. `ended_ns` is 0 while it runs, `problem` "" where it
    came to a good end. `backoff_ns`: how long its request waited before the next."""

    number: int
    backend: str
    model: str
    started_ns: int
    first_token_ns: int
    ended_ns: int
    pieces: int
    reason: str
    problem: str
    backoff_ns: int
    continued: bool  # from the text of the attempts before it


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """A call to a backend that came to nothing. `is_retried`: its request waits for another. It had
    a slot for `run_ns`, of a model of which this part was on a GPU."""

    key: RequestKey
    agent_type: str
    model: str
    backend: str
    number: int
    reason: str
    message: str
    pieces: int
    is_retried: bool
    backoff_ns: int
    run_ns: int = 0
    gpu_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionReport:
    """A call to a backend that was set aside for urgent work; its request waits again. `times`: so
    often now. `voids_pieces`: its answer begins anew. `run_ns`: so long it had a slot, of a model
    of which this part was on a GPU."""

    key: RequestKey
    agent_type: str
    model: str
    backend: str
    priority: int
    level: Level
    number: int
    times: int
    pieces: int
    voids_pieces: bool
    waste_ns: int
    message: str
    run_ns: int = 0
    gpu_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """A load that the broker asked for is over. `problem` is "" where the model is there now."""

    backend: str
    model: str
    took_ns: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionView:
    """What was set aside for urgent work since start, and what it has cost. `left_ns`: so much of
    the time of slots may be wasted now."""

    count: int
    wasted_ns: int
    left_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerView:
    """A breaker that is not closed, or has counted failures."""

    model: str
    state: BreakerState
    failures: int  # within the window
    calls: int
    until_ns: int | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatesView:
    """How what requests were told first of their waits has come true. `judged` and `inside` are of
    the last ones; the others since start: outside are those that started outside of their interval
    or left after it, and nothing is known of those that left before its end."""

    judged: int
    inside: int
    inside_ever: int
    outside_ever: int
    left_before_ever: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The story of one request, under way or lately ended.

    `started_ns` and `ended_ns` are 0 where that has not happened. `is_complete` says whether all
    that overtook it is still remembered; else the counts are lower bounds.
    """

    key: RequestKey
    model: str
    priority: int
    compartment: str
    state: str  # of the lifecycle, or the outcome
    arrived_ns: int
    started_ns: int
    ended_ns: int
    at_ns: int
    position: int  # 0 where it does not wait
    wait_reason: str  # "" where it does not wait
    wait_detail: str
    changes: tuple[str, ...]  # what was changed in it, in words
    gates: tuple[GateView, ...]
    overtaken: tuple[OvertakingView, ...]
    is_complete: bool
    problem: str  # why it did not complete, in words
    soft_ns: int = 0  # so long after it came its answer was to be there, if it could; 0: not said
    soft_met: bool | None = None
    told_ns: tuple[int, int] | None = None  # its first word: it starts so long after it came
    bound_ns: int | None = None  # within which it starts at most, as stated when it came
    bound_why: str = ""  # why none was stated, where it waited
    credit_ns: int = 0  # how much older it counts as, for its session
    known_bytes: int = 0  # of its prompt's beginning, that a server has probably read before
    preloaded_because: str = ""  # why its model was there before anybody asked, if it found it so
    attempts: tuple[AttemptView, ...] = ()
    preemptions: int = 0  # how often it was set aside for urgent work
    is_preemptible: bool = False  # may that happen, or happen again?
    chosen_because: str = ""  # why its model, where the request named none


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPart:
    """One part of the load. `share` is value over limit, None where it is not known: then `detail`
    says why, and it counts for nothing."""

    name: str  # "queue", "wait", "host_memory", "cpu", "gpu_memory"
    share: float | None
    value: float = 0.0
    limit: float = 0.0
    at_ns: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorView:
    """A sensor, as last heard of. `at_ns` is None where it never answered."""

    name: str  # "host", "gpu"
    state: SensorState
    is_stale: bool
    detail: str
    at_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelView:
    """The level at `at_ns`, and what decides it. `until_ns`: an operator's level ends then."""

    level: Level
    before: Level | None
    is_automatic: bool
    since_ns: int
    until_ns: int | None
    why: str
    load: float | None
    parts: tuple[LoadPart, ...]
    sensors: tuple[SensorView, ...]
    host: HostSample | None
    gpus: tuple[GpuSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """Some waits in nanoseconds; 0 where none was measured."""

    count: int
    p50_ns: int
    p99_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertView:
    """An alert that fires since `since_ns`."""

    name: str
    severity: str  # "warning", "critical"
    summary: str
    runbook: str
    since_ns: int


# What stands for the alias of a request that named nothing at all.
REQUIREMENTS: Final = "(requirements)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStart:
    """A request was given to a backend."""

    key: RequestKey
    agent_type: str
    model: str
    backend: str
    priority: int
    level: Level
    queue_wait_ns: int
    load_wait_ns: int


@dataclass(slots=True, kw_only=True)
class RequestReport:
    """How a request ended, told once for each. `model` is "" where the operator's default answer
    was given. Times are nanoseconds from its arrival, 0 where that
    never came. `arrived_unix_ns` is on the wall's clock. `run_ns`: so long its last attempt had a
    slot until now, of a model of which `gpu_share` was on a GPU. `content` is for tracing
    and for logs that were asked to show it; nobody else looks."""

    key: RequestKey
    agent_type: str  # "" where it was refused before that was known
    kind: RequestKind
    model: str  # that answered, or was asked for
    backend: str
    priority: int
    level: Level
    outcome: Outcome
    reason: str  # "" where it completed
    message: str
    arrived_unix_ns: int
    queue_wait_ns: int
    load_wait_ns: int
    first_token_ns: int
    per_token_ns: int
    total_ns: int
    prompt_tokens: int
    output_tokens: int
    tries: int
    substituted_for: str
    changes: tuple[str, ...]
    traceparent: str
    content: GenerateContent | EmbedContent
    session_id: str = ""
    expected_calls: int = 0  # of its session, as its caller said; 0: it did not
    allowed_ns: int = 0  # how long it might take in all, by its deadline; 0: not known
    soft_ns: int = 0  # the same by its soft deadline; 0: it has none
    soft_met: bool | None = None
    run_ns: int = 0
    gpu_share: float = 0.0
    chosen_for: str = ""  # the alias that it named, or REQUIREMENTS; "" where it named a model
