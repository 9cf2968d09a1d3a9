"""Where the time of the slots goes, in a run of the engine: at work, or lost, and to what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.core.engine import Engine
from broker.core.residency import ResidencyState

KINDS = ("busy", "switching", "draining", "waited_for", "idle")


@dataclass(slots=True)
class Profile:
    """Slots times time by kind, in ns: `busy`; `switching`, the slots of places whose model is
    loaded or unloaded; `draining`, free slots of a model that is to leave; `waited_for`, free slots
    of a model that stays while others wait for another; `idle`, free slots while nobody waits.

    It is told of each turn and takes what it saw after the one before to have lasted until then.
    """

    slots: int
    resident_max: int
    until_ns: int
    spent_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    _held: Mapping[str, int] = field(default_factory=dict)
    _since_ns: int = 0

    def turned(self, engine: Engine, now_ns: int) -> None:
        """What the engine holds counts from now on."""
        lasted_ns = min(now_ns, self.until_ns) - self._since_ns
        if lasted_ns > 0:
            for kind, slots in self._held.items():
                self.spent_ns[kind] += slots * lasted_ns
            self._since_ns += lasted_ns
        self._held = self._look(engine)

    def shares(self) -> dict[str, float]:
        """Of all slots over the whole time."""
        total_ns = max(1, self.slots * self.resident_max * self._since_ns)
        return {kind: spent_ns / total_ns for kind, spent_ns in self.spent_ns.items()}

    def _look(self, engine: Engine) -> dict[str, int]:
        held = dict.fromkeys(KINDS, 0)
        free = "waited_for" if engine.lines else "idle"
        places, is_switching = 0, False
        for backend in engine.backends.values():
            is_switching = is_switching or backend.is_switching
            for residency in backend.residents.values():
                is_there = residency.state in (ResidencyState.RESIDENT, ResidencyState.DRAINING)
                if not is_there:
                    continue
                places += 1
                held["busy"] += residency.running
                kind = "draining" if residency.state is ResidencyState.DRAINING else free
                held[kind] += self.slots - residency.running
        held["switching" if is_switching else free] += (self.resident_max - places) * self.slots
        return held
