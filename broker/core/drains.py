"""Gates: shut for a model that is to leave, and opened again where it does not drain in time.

What runs on a gated model may take as long as its deadline lets it, and meanwhile its free slots
idle and another model waits. So a drain has a time-out: then the gate opens, what waits for the
model is served, and it is not told to leave again for as long as was waited for it. Another of the
residents may leave instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from broker.core.effects import Effect, TellSwitch
from broker.core.placement import BackendState
from broker.core.residency import Residency, ResidencyState, ResidencyTrigger, SwitchStep
from broker.core.timers import Timers

_State, _Trigger = ResidencyState, ResidencyTrigger


class Drains:
    """See the module. `timeout_ns` is asked for with each gate; `emit` takes effects; `note` hears
    of runners for which what waits may stand elsewhere now."""

    def __init__(
        self,
        timers: Timers,
        timeout_ns: Callable[[], int],
        emit: Callable[[Effect], None],
        note: Callable[[str], None],
    ) -> None:
        self._timers = timers
        self._timeout_ns = timeout_ns
        self._emit = emit
        self._note = note

    def gate(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """From now on nothing is started on it."""
        residency.move(_Trigger.GATE, now_ns)
        if residency.running:
            over = partial(self._over, backend, self._timeout_ns())
            residency.drain_timer = self._timers.set(now_ns + self._timeout_ns(), over, residency)

    def ungate(self, residency: Residency, now_ns: int) -> None:
        """What it was to leave for is not wanted any more."""
        residency.move(_Trigger.UNGATE, now_ns)
        self.ended(residency)

    def ended(self, residency: Residency) -> None:
        """It has drained, or has left, or nobody wants it to leave any more."""
        self._timers.cancel(residency.drain_timer)
        residency.drain_timer, residency.is_kept = 0, False

    def _over(
        self, backend: BackendState, timeout_ns: int, residency: Residency, now_ns: int
    ) -> None:
        """Its last requests have not ended in time. A cure has its own: it closes them."""
        residency.drain_timer = 0
        is_drained = residency.state is not _State.DRAINING or not residency.running
        if is_drained or residency.runner in backend.healing:
            return
        residency.move(_Trigger.UNGATE, now_ns)
        if residency.is_dismissed:
            residency.is_dismissed = False  # whoever asked hears that it serves on
        elif residency.replaced_by:
            backend.ahead, backend.ahead_of = residency.replaced_by, residency.runner
            residency.replaced_by = ""
        else:
            backend.gated = backend.promised = ""
        residency.is_kept = True
        residency.drain_timer = self._timers.set(now_ns + timeout_ns, self._again, residency)
        backend.drains_given_up += 1
        self._note(residency.runner)
        words = (
            f"{residency.running} of its requests still run {timeout_ns / 1e9:.0f} s after it was "
            f"gated: it serves on, and is not told to leave for as long"
        )
        step = SwitchStep.DRAIN_GIVEN_UP
        self._emit(TellSwitch(backend=backend.name, model=residency.model, step=step, detail=words))

    def _again(self, residency: Residency, now_ns: int) -> None:
        """It may be told to leave again."""
        residency.drain_timer, residency.is_kept = 0, False
