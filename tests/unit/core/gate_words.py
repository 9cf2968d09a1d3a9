"""Words for the way in: types of agents, why one was refused, how one ended, who is slowed down."""

from __future__ import annotations

from broker.core.agent_policy import AgentTypePolicy, BucketPolicy
from broker.core.effects import Effect, Finish, Refuse, TellSlowDown
from broker.core.errors import BrokerError
from broker.core.requests import Outcome
from tests.unit.core.scene import of


def kind(
    name: str,
    match: str,
    *,
    per_minute: float = 0.0,
    burst: float = 0.0,
    tokens: BucketPolicy | None = None,
    all_requests: BucketPolicy | None = None,
    all_tokens: BucketPolicy | None = None,
    weight: float = 1.0,
    priority_best: int = 1,
    may_be_critical: bool = True,
    compartment: str = "",
) -> AgentTypePolicy:
    """A type of agents; `per_minute` 0: its agents have no bucket of requests."""
    return AgentTypePolicy(
        name=name,
        match=(match,),
        weight=weight,
        requests=BucketPolicy(per_minute=per_minute, burst=burst) if per_minute else None,
        tokens=tokens,
        all_requests=all_requests,
        all_tokens=all_tokens,
        priority_best=priority_best,
        may_be_critical=may_be_critical,
        compartment=compartment,
    )


def refused(effects: list[Effect]) -> BrokerError:
    """Why the request that just arrived was not taken."""
    [refusal] = of(effects, Refuse)
    return refusal.error


def is_let_in(effects: list[Effect]) -> bool:
    return not of(effects, Refuse)


def ended_with(effects: list[Effect], request_id: str) -> tuple[Outcome, BrokerError | None]:
    """How a request ended, and why."""
    [end] = [each for each in of(effects, Finish) if each.key[1] == request_id]
    return end.outcome, end.error


def slowed(effects: list[Effect]) -> list[tuple[str, int]]:
    """(request id, for how long) of each word to send less."""
    return [(each.key[1], each.retry_after_ns) for each in of(effects, TellSlowDown)]
