"""Loading ahead of need, held against its laws as seen from outside the decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from broker.core.effects import Effect, KeepLearned, TellSwitch
from broker.core.engine import Engine
from broker.core.level import Level
from broker.core.residency import ResidencyState, SwitchStep


class PreloadBooks:
    """`told` counts the loads that were begun so. Of `TOLD` nothing is to be done."""

    TOLD: ClassVar[tuple[type[Effect], ...]] = (KeepLearned,)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.told = 0

    def turned(self, effects: Sequence[Effect]) -> None:
        """After each turn."""
        for each in effects:
            if isinstance(each, TellSwitch) and each.step is SwitchStep.PRELOADED:
                self._begun(each)
        self._check()

    def _begun(self, told: TellSwitch) -> None:
        """Only at the normal level, by a broker and on a backend that stay, and where nothing waits
        that the backend could run: it would stand behind the load."""
        self.told += 1
        engine = self._engine
        backend = engine.backends[told.backend]
        assert engine.level is Level.NORMAL, "a load ahead of need above the normal level"
        assert not engine.draining, "a load ahead of need by a broker that leaves"
        assert backend.is_open, "a load ahead of need on a backend that gets nothing more"
        waiting = {key[0] for key in engine.lines}
        assert not waiting & backend.by_runner.keys(), "a load ahead of need while others wait"

    def _check(self) -> None:
        """Each has come to one end, or is still there."""
        preloads = self._engine.preloads
        there = sum(
            each.is_ahead_of_need and each.state is not ResidencyState.LOADING
            for backend in self._engine.backends.values()
            for each in backend.residents.values()
        )
        assert preloads.made == preloads.used + preloads.wasted + there
        under_way = sum(
            each.is_ahead_of_need and each.state is ResidencyState.LOADING
            for backend in self._engine.backends.values()
            for each in backend.residents.values()
        )
        ended = preloads.made + preloads.aborted + preloads.failed
        assert self.told == ended + under_way, "one that was begun has no end, or two"
