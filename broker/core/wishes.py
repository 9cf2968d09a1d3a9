"""What operators and agents ask of models without a request: that one is loaded, that one leaves.

Every wish is answered exactly once, unless it is withdrawn. Nothing here costs a turn anything
while no wish is open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.core.arrivals import DRAIN_RETRY_NS
from broker.core.effects import Effect, WishEnded
from broker.core.errors import BrokerError, Draining, QueueFull
from broker.core.stimuli import LoadAsked, LoadEnded, UnloadAsked, UnloadEnded, WishWithdrawn
from broker.core.wished_loads import WishedLoads
from broker.core.wished_unloads import WishedUnloads

# More are refused: an operator's box asks for few, and each is looked at in every turn.
WISHES_MAX: Final = 64
FULL_RETRY_NS: Final = 5_000_000_000  # about as long as a load takes


class Wishes:
    """See the module. `emit` takes effects."""

    def __init__(
        self, loads: WishedLoads, unloads: WishedUnloads, emit: Callable[[Effect], None]
    ) -> None:
        self._loads = loads
        self._unloads = unloads
        self._emit = emit
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._loads) + len(self._unloads)

    def load_asked(self, asked: LoadAsked, now_ns: int) -> None:
        """It is answered in this turn where it can be, or never can."""
        if not self._is_refused(asked.wish):
            self._loads.ask(asked)

    def unload_asked(self, asked: UnloadAsked, now_ns: int) -> None:
        """It is answered in this turn where nothing is there to leave, or may not."""
        if not self._is_refused(asked.wish):
            self._unloads.ask(asked, now_ns)

    def withdrawn(self, withdrawn: WishWithdrawn, now_ns: int) -> None:
        """Nobody waits for it any more. One that has ended is no error."""
        self._loads.withdraw(withdrawn.wish)
        self._unloads.withdraw(withdrawn.wish, now_ns)

    def _is_refused(self, wish: int) -> bool:
        error: BrokerError | None = None
        if self._is_closed:
            error = _leaving()
        elif len(self) >= WISHES_MAX:
            words = f"{WISHES_MAX} loads and unloads are asked for already"
            error = QueueFull(words, retry_after_ns=FULL_RETRY_NS)
        if error is not None:
            self._emit(WishEnded(wish, error))
        return error is not None

    def settle(self, now_ns: int) -> bool:
        """Takes each wish one step further, behind what waits. True where a gate was opened."""
        has_opened = self._unloads.settle(now_ns)
        self._loads.settle(now_ns)
        return has_opened

    def load_ended(self, ended: LoadEnded) -> None:
        """To be told after what is resident was changed."""
        self._loads.ended(ended)

    def unload_ended(self, ended: UnloadEnded, now_ns: int) -> None:
        """The same."""
        self._unloads.ended(ended, now_ns)

    def close(self, now_ns: int) -> None:
        """The broker leaves: nothing is done for anybody who has no request."""
        self._is_closed = True
        error = _leaving()
        self._loads.refuse_all(error)
        self._unloads.refuse_all(error, now_ns)


def _leaving() -> Draining:
    return Draining("the broker is leaving", retry_after_ns=DRAIN_RETRY_NS)
