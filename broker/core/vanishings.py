"""Models of ours that leave though nobody here told them to: another tool loads models on the same
server, and the server evicts ours for it.

One such loss is taken as it comes. Where it happens again and again two tools take turns loading,
and a server that only loads serves neither: from the third loss within five minutes on, the model
is left alone for a while, longer each time, as after a load that failed. The operator is told.
A server that restarts between two looks loses all its models at once: one loss, not several. What
nobody has kept for so long that it leaves by itself, as on a server that is drained, is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from broker.core.effects import Effect, TellSwitch
from broker.core.placement import HOLD_DOUBLED_MAX, BackendState, PlacementPolicy
from broker.core.residency import Residency, SwitchStep

WINDOW_NS: Final = 300_000_000_000
CONTESTED_MIN: Final = 3  # losses within the window


def losses_lately(backend: BackendState, now_ns: int) -> int:
    """How often models of ours vanished from it within the window."""
    return sum(now_ns - each < WINDOW_NS for each in backend.vanished_ns)


class Vanishings:
    """See the module. `policy` is asked for what holds now; `emit` takes effects; `hold` keeps a
    runner from being loaded, for which reason and for how long."""

    def __init__(
        self,
        emit: Callable[[Effect], None],
        hold: Callable[[BackendState, str, str, int, int], int],
        policy: Callable[[], PlacementPolicy],
    ) -> None:
        self._emit = emit
        self._hold = hold
        self._policy = policy

    def vanished(self, backend: BackendState, gone: Collection[Residency], now_ns: int) -> None:
        """One look at what a backend holds found these missing."""
        ours = [each for each in gone if each.managed and self._is_loss(each, backend, now_ns)]
        if not ours:
            return
        backend.vanished += len(ours)
        backend.vanished_ns.append(now_ns)
        count = losses_lately(backend, now_ns)
        beside = _strangers(backend)
        for residency in ours:
            words = f"nobody here told it to leave{beside}"
            self._tell(backend, residency, SwitchStep.VANISHED, words)
            if count >= CONTESTED_MIN:
                doublings = min(count - CONTESTED_MIN, HOLD_DOUBLED_MAX)
                hold_ns = self._policy().failed_load_hold_ns << doublings
                why = (
                    f"models left {backend.name} {count} times within "
                    f"{WINDOW_NS // 60_000_000_000} minutes though nobody here told them to{beside}"
                )
                self._tell(backend, residency, SwitchStep.CONTESTED, why)
                self._hold(backend, residency.runner, why, hold_ns, now_ns)

    def _is_loss(self, residency: Residency, backend: BackendState, now_ns: int) -> bool:
        """Was it there, as far as is known, since the server last came back, and kept so lately
        that it would have stayed? Another process has none of what the one before had."""
        if not residency.renew_timer:
            return False  # others loaded it, and nobody has kept it
        kept_ns = max(residency.loaded_ns, residency.renewed_ns)
        is_of_this_process = max(residency.listed_ns, kept_ns) >= backend.back_ns
        return is_of_this_process and now_ns - kept_ns < self._policy().keep_alive_ns

    def _tell(
        self, backend: BackendState, residency: Residency, step: SwitchStep, words: str
    ) -> None:
        self._emit(TellSwitch(backend=backend.name, model=residency.model, step=step, detail=words))


def _strangers(backend: BackendState) -> str:
    """Who may have been the cause, in words."""
    names = sorted(each.model for each in backend.residents.values() if not each.managed)
    return f"; others held {', '.join(names)} there" if names else ""
