"""The level: what the load asks for, what an operator has set, and when it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from broker.core.backlog import Backlog
from broker.core.effects import Effect
from broker.core.estimates import Estimates
from broker.core.level import DegradationPolicy, Level
from broker.core.placement import BackendState
from broker.core.stimuli import GpusSensed, HostSensed, LevelAsked, LoadDue, Stimulus
from broker.core.tally import Tally
from broker.core.timers import Timers
from broker.core.views import LevelView


class Degradation:
    """See the module. `level` is what holds now. `memory_is_cause`: memory alone holds it up, so
    that work which the level holds back must not run even in a slot that would idle. `on_change`
    is called when either has changed, before the engine looks for what can start."""

    def __init__(
        self,
        policy: DegradationPolicy,
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        tally: Tally,
        estimates: Estimates,
        timers: Timers,
        emit: Callable[[Effect], None],
        on_change: Callable[[int], None],
    ) -> None:
        self.policy = policy
        self.level = Level.NORMAL
        self.memory_is_cause = False
        self._since_ns = 0

    def handlers(self) -> dict[type[Stimulus], Callable[[Any, int], None]]:
        """What the engine calls it for."""
        return dict.fromkeys((HostSensed, GpusSensed, LoadDue, LevelAsked), _nothing)

    def configure(self, policy: DegradationPolicy, now_ns: int) -> None:
        """From now on this holds."""
        self.policy = policy

    def retry_after_ns(self, now_ns: int) -> int:
        """When the level may be lower at the earliest: what a request that it refuses is told."""
        return self.policy.dwell_ns

    def view(self, now_ns: int) -> LevelView:
        """The level, and what decides it."""
        return LevelView(
            level=self.level,
            before=None,
            is_automatic=True,
            since_ns=self._since_ns,
            until_ns=None,
            why="",
            load=None,
            parts=(),
            sensors=(),
            host=None,
            gpus=(),
        )


def _nothing(asked: Stimulus, now_ns: int) -> None:
    """Until the load is looked at."""
