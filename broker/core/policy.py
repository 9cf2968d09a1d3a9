"""All that the operator decides about the engine, given once, at construction."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.core.agent_policy import OPEN_HOUSE, AgentsPolicy
from broker.core.level import DegradationPolicy
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.queueing import QueuePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePolicy:
    """Each part is owned by the module whose decisions it shapes."""

    backends: tuple[BackendPolicy, ...]
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    agents: AgentsPolicy = OPEN_HOUSE
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    degradation: DegradationPolicy = field(default_factory=DegradationPolicy)

    def __post_init__(self) -> None:
        names = [each.name for each in self.backends]
        if not names or len(set(names)) != len(names):
            raise ValueError("there must be at least one backend, and their names must differ")
