"""A small box under levels, second by second: arrivals, a queue, service, memory that others take.

A model of what levels do, not of how the engine does it: amounts instead of requests, so that what
is seen is the loop and nothing else. `test_level_world.py` closes the same loop around the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from broker.core.level import DegradationPolicy, Level
from broker.core.level_steps import JoinedSteps

SECOND_NS = 1_000_000_000
QUEUED_MAX = 1_000.0
WAIT_TARGET_S = 600.0
SERVED_PER_S = 2.0  # at NORMAL; what is offered is told as a share of it

# Of what is offered: priority 3 and better, priority 7 and better, the rest.
URGENT, NORMAL, NON_CRITICAL = 0.2, 0.5, 0.3

# How much faster a level makes each request: shorter answers, then small models as well.
FASTER = {Level.NORMAL: 1.0, Level.LEVEL_1: 1.6, Level.LEVEL_2: 4.0, Level.CRITICAL: 4.0}


@dataclass(slots=True)
class Plant:
    """`rho` is offered all the time; others take `memory(second)` of what is not ours. With
    `has_levels` False nothing is ever shed, and the load is only looked at."""

    rho: float
    memory: Callable[[int], float] = lambda second: 0.0
    has_levels: bool = True
    urgent: float = 0.0  # that waits
    others: float = 0.0
    second: int = 0
    loads: list[float] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    steps: JoinedSteps = field(default_factory=lambda: JoinedSteps(DegradationPolicy()))

    @property
    def level(self) -> Level:
        return self.steps.level if self.has_levels else Level.NORMAL

    @property
    def holds_absolutely(self) -> bool:
        """Critical, and memory alone asks for it."""
        return self.has_levels and self.steps.memory.level is Level.CRITICAL

    def run(self, seconds: int) -> Plant:
        for _ in range(seconds):
            self._arrive()
            self._serve()
            memory, waiting = self.memory(self.second), self._waiting()
            self.loads.append(max(memory, waiting))
            self.steps.look(memory, waiting, self.second * SECOND_NS)
            self.levels.append(self.level)
            self.second += 1
        return self

    def rises(self, since_s: int = 0) -> int:
        """How often the level went up since then."""
        seen = self.levels[since_s:]
        return sum(after > before for before, after in pairwise(seen))

    def _arrive(self) -> None:
        offered = self.rho * SERVED_PER_S
        room = QUEUED_MAX - self.urgent - self.others
        taken = NORMAL + (NON_CRITICAL if self.level < Level.LEVEL_2 else 0.0)
        scale = min(1.0, room / (offered * (URGENT + taken))) if offered else 0.0
        self.urgent += offered * URGENT * scale
        self.others += offered * taken * scale

    def _serve(self) -> None:
        left = SERVED_PER_S * FASTER[self.level]
        if self.level is Level.CRITICAL:
            served = min(left, self.urgent)
            self.urgent -= served
            left -= served
            if not self.holds_absolutely:
                self.others -= min(left, self.others)
            return
        waiting = self.urgent + self.others
        share = min(1.0, left / waiting) if waiting else 0.0
        self.urgent -= self.urgent * share
        self.others -= self.others * share

    def _waiting(self) -> float:
        """The load that the queue is."""
        counted = self.urgent + (0.0 if self.holds_absolutely else self.others)
        wait_s = counted / (SERVED_PER_S * FASTER[self.level])
        return max(counted / QUEUED_MAX, wait_s / WAIT_TARGET_S)
