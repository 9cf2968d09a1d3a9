"""Which servers are wedged or being restarted, as it was told, and what may be done there then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from broker.core.effects import Effect, Load, RestartBackend, StartAttempt, TellHealing, Unload
from broker.core.errors import LoadHung
from broker.core.healing import HealingStep
from broker.core.requests import AttemptId
from broker.core.stimuli import AttemptEnded, BackendSeen, LoadEnded, RestartEnded, Stimulus
from tests.property.server_books import Call
from tests.unit.core.scene import MINUTE_NS

# So long nothing is loaded on a server that was found wedged, or on which a load has hung again.
SHUT_NS: Final = MINUTE_NS


class HealthBooks:
    """Laws: a wedged server gets one load at a time, with pauses between those that hang; one that
    is being restarted gets nothing."""

    def __init__(self) -> None:
        self.restarting: set[str] = set()
        self._wedged_ns: dict[str, int] = {}  # since it was told, or a load hung there again
        self._missing: set[str] = set()  # the last look found them away

    @property
    def is_any_wedged(self) -> bool:
        return bool(self._wedged_ns)

    def turned(
        self,
        stimulus: Stimulus,
        effects: Sequence[Effect],
        calls: Mapping[AttemptId, Call],
        now_ns: int,
    ) -> None:
        """`calls`: as they were before this turn."""
        self._hear(stimulus, calls, now_ns)
        for effect in effects:
            self._judge(effect, now_ns)

    def _hear(self, stimulus: Stimulus, calls: Mapping[AttemptId, Call], now_ns: int) -> None:
        match stimulus:
            case AttemptEnded(error=None):
                self._wedged_ns.pop(calls[stimulus.attempt].backend, None)
            case LoadEnded(error=None):
                self._wedged_ns.pop(stimulus.backend, None)
            case LoadEnded(error=LoadHung()) if stimulus.backend in self._wedged_ns:
                self._wedged_ns[stimulus.backend] = now_ns
            case BackendSeen(up=True):
                if stimulus.backend in self._missing:
                    self._wedged_ns.pop(stimulus.backend, None)
                self._missing.discard(stimulus.backend)
            case BackendSeen():
                self._missing.add(stimulus.backend)
            case RestartEnded():
                self.restarting.remove(stimulus.backend)

    def _judge(self, effect: Effect, now_ns: int) -> None:
        match effect:
            case TellHealing(step=HealingStep.WEDGED):
                self._wedged_ns[effect.backend] = now_ns
            case RestartBackend():
                assert effect.backend in self._wedged_ns, "a restart of what is not wedged"
                del self._wedged_ns[effect.backend]
                self.restarting.add(effect.backend)
            case Load():
                since_ns = self._wedged_ns.get(effect.backend)
                waited = since_ns is None or now_ns >= since_ns + SHUT_NS
                assert waited, "a load on a wedged server, without a pause"
        if isinstance(effect, StartAttempt | Load | Unload):
            assert effect.backend not in self.restarting, "it is being restarted"
