"""An engine whose level is the question: sensors that speak, and time that passes look by look."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import Effect, TellLevel
from broker.core.level import DegradationPolicy, Level
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.stimuli import GpusSensed, HostSensed, LevelAsked, LoadDue, PolicyChanged
from broker.core.views import LevelView, LoadPart
from tests.unit.core.scene import SECOND_NS, Scene, of
from tests.unit.core.sensed import card, gpus, host

DWELL_S, DWELL_MAX_S = 15, 240
HERE = BackendPolicy(name="b1", is_local=True)


class LevelScene(Scene):
    """One backend on this host. `told` are all words on the level so far. What others use counts
    at once, unless it is said after how long."""

    def __init__(
        self,
        *backends: BackendPolicy,
        degradation: DegradationPolicy | None = None,
        settle_ns: int = 0,
    ) -> None:
        super().__init__(*(backends or (HERE,)), queue=QueuePolicy(queued_max=10))
        self.told: list[TellLevel] = []
        self._settle_ns = settle_ns
        self.decide(degradation or DegradationPolicy())
        for name in self.engine.backends:
            self.seen(name)  # each has told that it holds no model

    @property
    def level(self) -> Level:
        return self.engine.level

    @property
    def memory_level(self) -> Level:
        return self.engine.degradation.memory_level

    def view(self) -> LevelView:
        return self.engine.degradation.view(self.now_ns)

    def part(self, name: str) -> LoadPart:
        [found] = [each for each in self.view().parts if each.name == name]
        return found

    def decide(self, degradation: DegradationPolicy) -> list[Effect]:
        settled = replace(degradation, settle_ns=self._settle_ns)
        policy: EnginePolicy = replace(self.engine.policy, degradation=settled)
        return self.keep(self.turn(PolicyChanged(policy)))

    def keep(self, effects: list[Effect]) -> list[Effect]:
        self.told += of(effects, TellLevel)
        return effects

    def gpu(self, load: float) -> Level:
        """Others use so much of the card."""
        used_gb = 16 * load
        reading = gpus(card(used_gb, ours_gb=0, others_gb=used_gb), at_ns=self.now_ns)
        self.keep(self.turn(GpusSensed(reading)))
        return self.level

    def memory(self, load: float) -> Level:
        """Others use so much of the host's memory."""
        reading = host(free_gb=64 * (1 - load), at_ns=self.now_ns)
        self.keep(self.turn(HostSensed(reading)))
        return self.level

    def cpu(self, load: float) -> Level:
        """Others use so much of the processor."""
        self.keep(self.turn(HostSensed(host(cpu=load, at_ns=self.now_ns))))
        return self.level

    def look(self) -> Level:
        """It is time, and no sensor has answered."""
        self.keep(self.turn(LoadDue()))
        return self.level

    def calm(self, seconds: float, load: float = 0.1) -> list[Level]:
        """So much time with a card that is used so little, a sample a second; each new level."""
        before, seen = self.level, list[Level]()
        for _ in range(int(seconds)):
            self.keep(self.wait(SECOND_NS))
            if self.gpu(load) is not before:
                seen.append(before := self.level)
        return seen

    def ask(self, level: Level | None, for_s: float | None = None) -> Level:
        """An operator's word."""
        until_ns = None if for_s is None else self.now_ns + int(for_s * SECOND_NS)
        self.keep(self.turn(LevelAsked(level=level, until_ns=until_ns)))
        return self.level

    def after(self, seconds: float) -> Level:
        """So much time in which nothing is heard but the engine's own alarm."""
        self.keep(self.wait(int(seconds * SECOND_NS)))
        return self.level
