"""What the operator says of agents: types, their rates, weights and ceilings, and the bulkheads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Final

from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST

# The compartments of work that says so itself, whatever its agent's type.
CRITICAL: Final = "critical"
BATCH: Final = "batch"

# A compartment is a bit of a 64-bit mask in the queue. One bit stands for "no bulkhead", ten for
# the priorities; batch work has one of its own, with a bulkhead or without: levels hold it back.
COMPARTMENTS_MAX: Final = 53
BULKHEADS_MAX: Final = COMPARTMENTS_MAX - 1  # as batch work may have none


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPolicy:
    """A token bucket: how much comes per minute, and how much may be saved up. The burst is one
    minute's worth unless it is given. Units are requests or model tokens."""

    per_minute: float
    burst: float = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.per_minute) and self.per_minute > 0):
            raise ValueError(f"per_minute must be positive and finite, not {self.per_minute}")
        if not (isfinite(self.burst) and self.burst >= 0):
            raise ValueError(f"burst must not be negative, not {self.burst}")

    @property
    def capacity(self) -> float:
        return self.burst or self.per_minute


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTypePolicy:
    """A kind of agent, and the ids that belong to it as globs.

    `requests` and `tokens` are the buckets of each of its agents, `all_requests` and `all_tokens`
    those of all of them together; None: no bucket. `priority_best`: a better one is lowered to it.
    `compartment`: the bulkhead its ordinary work runs in; "" is the one named as the type.
    """

    name: str
    match: tuple[str, ...]
    weight: float = 1.0
    requests: BucketPolicy | None = None
    tokens: BucketPolicy | None = None
    all_requests: BucketPolicy | None = None
    all_tokens: BucketPolicy | None = None
    priority_best: int = PRIORITY_HIGHEST
    may_be_critical: bool = True
    compartment: str = ""

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight must be positive and finite, not {self.weight}")
        if not PRIORITY_HIGHEST <= self.priority_best <= PRIORITY_LOWEST:
            raise ValueError(f"priority_best must be a priority, not {self.priority_best}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsPolicy:
    """All types; the first with a glob that fits is an agent's. `default_type` "" refuses the rest.

    `requests` and `tokens` are buckets of all agents together. `remembered_max` agents are kept in
    memory: of those without work the one not seen for longest is forgotten first. `bulkheads`: how
    many requests of a compartment run at once; one that is not named has no limit.
    """

    types: tuple[AgentTypePolicy, ...] = ()
    default_type: str = ""
    requests: BucketPolicy | None = None
    tokens: BucketPolicy | None = None
    remembered_max: int = 10_000
    bulkheads: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        names = [each.name for each in self.types]
        if len(set(names)) != len(names):
            raise ValueError("two types of agents have the same name")
        if self.default_type and self.default_type not in names:
            raise ValueError(f"there is no type {self.default_type!r} for the default")
        if self.remembered_max < 1:
            raise ValueError("remembered_max must be at least 1")
        if any(limit < 1 for limit in self.bulkheads.values()):
            raise ValueError("a bulkhead must let at least 1 request run")
        if len(self.bulkheads) > BULKHEADS_MAX:
            raise ValueError(f"there may be at most {BULKHEADS_MAX} bulkheads")


# What an engine has that is told nothing of agents: one type, nothing limited.
OPEN_HOUSE: Final = AgentsPolicy(
    types=(AgentTypePolicy(name="any", match=("*",)),), default_type="any"
)
