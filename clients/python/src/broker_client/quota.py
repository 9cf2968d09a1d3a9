"""What an agent may use, what is left of it, and when more comes."""

from __future__ import annotations

from dataclasses import dataclass

from broker_client.pb.broker.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """A token bucket at one moment, in requests, or in model tokens where its name says so.

    `left` below 0 is a debt. `next_ms`: until one more fits; 0 where one does now.
    """

    name: str
    per_minute: float
    burst: float
    left: float
    next_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What an agent may use at one moment.

    `weight` is its share among those that wait, 1 the ordinary one. A priority better than
    `priority_best` is lowered to it. `compartment` is the bulkhead of its ordinary work;
    `compartment_max` None: no limit on how much runs in it at once.
    """

    agent_id: str
    agent_type: str
    weight: float
    priority_best: int
    may_be_critical: bool
    queued: int
    queued_max: int
    running: int
    compartment: str
    compartment_running: int
    compartment_max: int | None
    buckets: tuple[TokenBucket, ...]
    paused: bool
    blocked: bool


def quota_of(message: inference_pb2.GetQuotaResponse) -> Quota:
    """The wire's answer, typed."""
    has_max = message.HasField("compartment_max")
    return Quota(
        agent_id=message.agent_id,
        agent_type=message.agent_type,
        weight=message.weight,
        priority_best=message.priority_best,
        may_be_critical=message.may_be_critical,
        queued=message.queued,
        queued_max=message.queued_max,
        running=message.running,
        compartment=message.compartment,
        compartment_running=message.compartment_running,
        compartment_max=message.compartment_max if has_max else None,
        buckets=tuple(
            TokenBucket(
                name=each.name,
                per_minute=each.per_minute,
                burst=each.burst,
                left=each.left,
                next_ms=each.next_ms,
            )
            for each in message.buckets
        ),
        paused=message.paused,
        blocked=message.blocked,
    )
