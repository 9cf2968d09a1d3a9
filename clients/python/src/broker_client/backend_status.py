"""One server behind the broker, as its status has it."""

from __future__ import annotations

from dataclasses import dataclass

from broker_client.catalogue import ModelPlace, place_of
from broker_client.pb.broker.v1 import admin_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendModel:
    """A model that occupies a backend, and how many requests wait for it."""

    name: str
    place: ModelPlace
    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStatus:
    """The circuit breaker of one model on one backend: "closed", "open" or "half_open". `failures`,
    slow calls among them, and `calls` are of its window; `until_ms` is None unless it is open."""

    model: str
    state: str
    failures: int
    calls: int
    until_ms: int | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SickModel:
    """A model that could not be loaded, why, and in how many milliseconds it is tried again."""

    model: str
    retry_ms: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """One server behind the broker; `problem` says why it is not up.

    `weight` is its part of the work that several could do, `tags` is what models may be confined
    to. `draining`: it gets no new work. `health` is "well", "suspect", "wedged" or "restarting",
    `evidence` says why it is not well. `retries` counts attempts that came to nothing and were
    tried again, `retries_left` is what it may have now; `restarts` are those by the operator's
    command. `loads_ahead`: models that were loaded beside one that left after them;
    `drains_given_up`: models that were to leave and serve on, as their last requests did not end;
    `memory_held`: models whose GPU memory was not seen to come back when they left; `vanished`:
    models of the broker's that left untold, `vanished_lately` of the last five minutes, as where
    another tool loads models there. `down_ms` says since when it does not answer, None where it
    does or that is not known.
    A broker older than these says nothing of them: `health` is empty.
    """

    name: str
    kind: str
    url: str
    up: bool
    problem: str
    version: str
    models: tuple[BackendModel, ...]
    loads: int
    loads_failed: int
    weight: float
    tags: tuple[str, ...]
    draining: bool
    health: str
    evidence: str
    running: int
    breakers: tuple[BreakerStatus, ...]
    retries: int
    retries_left: float
    sick_models: tuple[SickModel, ...]
    restarts: int
    down_ms: int | None = None
    loads_ahead: int = 0
    drains_given_up: int = 0
    memory_held: int = 0
    vanished: int = 0
    vanished_lately: int = 0


def backend_of(message: admin_pb2.BackendStatus) -> BackendStatus:
    """The wire's backend, typed."""
    return BackendStatus(
        name=message.name,
        kind=message.kind,
        url=message.url,
        up=message.up,
        problem=message.problem,
        version=message.version,
        models=tuple(
            BackendModel(name=each.name, place=place_of(each.place), queued=each.queued)
            for each in message.models
        ),
        loads=message.loads,
        loads_failed=message.loads_failed,
        weight=message.weight,
        tags=tuple(message.tags),
        draining=message.draining,
        health=message.health,
        evidence=message.evidence,
        running=message.running,
        breakers=tuple(breaker_of(each) for each in message.breakers),
        retries=message.retries,
        retries_left=message.retries_left,
        sick_models=tuple(
            SickModel(model=each.model, retry_ms=each.retry_ms, why=each.why)
            for each in message.sick_models
        ),
        restarts=message.restarts,
        down_ms=message.down_ms if message.HasField("down_ms") else None,
        loads_ahead=message.loads_ahead,
        drains_given_up=message.drains_given_up,
        memory_held=message.memory_held,
        vanished=message.vanished,
        vanished_lately=message.vanished_lately,
    )


def breaker_of(message: admin_pb2.BreakerStatus) -> BreakerStatus:
    """The wire's breaker, typed."""
    return BreakerStatus(
        model=message.model,
        state=message.state,
        failures=message.failures,
        calls=message.calls,
        until_ms=message.until_ms if message.HasField("until_ms") else None,
        why=message.why,
    )
