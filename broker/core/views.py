"""What the engine tells of agents and of single requests: frozen, made on demand."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.requests import RequestKey


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
