"""All that the operator decides about the engine, given once, at construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.core.agent_policy import OPEN_HOUSE, AgentsPolicy
from broker.core.breaker import BreakerPolicy
from broker.core.healing import HealingPolicy
from broker.core.level import DegradationPolicy
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.preemption import PreemptionPolicy
from broker.core.preload import PreloadPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requirements import Alias
from broker.core.retry import RetryPolicy
from broker.core.time_outs import TimeOutPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePolicy:
    """Each part is owned by the module whose decisions it shapes."""

    backends: tuple[BackendPolicy, ...]
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    agents: AgentsPolicy = OPEN_HOUSE
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    degradation: DegradationPolicy = field(default_factory=DegradationPolicy)
    time_outs: TimeOutPolicy = field(default_factory=TimeOutPolicy)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    healing: HealingPolicy = field(default_factory=HealingPolicy)
    preemption: PreemptionPolicy = field(default_factory=PreemptionPolicy)
    aliases: Mapping[str, Alias] = field(default_factory=dict)  # words for models, by name
    preload: PreloadPolicy = field(default_factory=PreloadPolicy)
    seed: int = 0  # of the chance in backoffs; drawn once by the shell

    def __post_init__(self) -> None:
        names = [each.name for each in self.backends]
        if not names or len(set(names)) != len(names):
            raise ValueError("there must be at least one backend, and their names must differ")
