"""What operators change while the broker runs: boosts, blocks, pauses, and the whole policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.core.agents import Agents, Override
from broker.core.announcements import Announcer
from broker.core.backlog import Backlog
from broker.core.effects import Effect, TellPriority
from broker.core.ledger import Ledger
from broker.core.lifecycle import WAITS
from broker.core.stimuli import (
    BlockAsked,
    BoostAsked,
    CancelCause,
    PauseAsked,
    ResumeAsked,
    Scope,
)
from broker.core.timers import Timers


class Operations:
    """Each change of a scope counts at once, for what waits as for what comes; what runs goes on.

    A change with an end is undone at that moment, unless it was made anew meanwhile.
    """

    def __init__(
        self,
        agents: Agents,
        backlog: Backlog,
        ledger: Ledger,
        announcer: Announcer,
        timers: Timers,
        emit: Callable[[Effect], None],
    ) -> None:
        self._agents = agents
        self._backlog = backlog
        self._ledger = ledger
        self._announcer = announcer
        self._timers = timers
        self._emit = emit
        self._ends: dict[tuple[Scope, str], int] = {}  # timers by scope and what they end

    def boost(self, asked: BoostAsked, now_ns: int) -> None:
        override = self._agents.override(asked.scope)
        override.weight_factor = asked.weight_factor
        override.rate_factor = asked.rate_factor
        override.priority_best = asked.priority_best
        self._until(asked.scope, "boost", asked.until_ns)
        self._agents.reapply(asked.scope, now_ns)
        self._backlog.look_again(now_ns)
        self._tell(asked.scope)

    def block(self, asked: BlockAsked, now_ns: int) -> None:
        self._agents.override(asked.scope).is_blocked = True
        self._until(asked.scope, "block", asked.until_ns)
        self._agents.reapply(asked.scope, now_ns)
        self._tell(asked.scope)
        if asked.cancels_waiting:
            meant = {each.id for each in self._agents.meant(asked.scope)}
            for record in list(self._ledger.records.values()):
                if record.state in WAITS and record.agent.id in meant:
                    self._ledger.cancel(record.spec.key, CancelCause.AGENT_BLOCKED, now_ns)

    def pause(self, asked: PauseAsked, now_ns: int) -> None:
        self._agents.override(asked.scope).is_paused = True
        self._until(asked.scope, "pause", asked.until_ns)
        self._paused_or_resumed(asked.scope, now_ns)
        self._tell(asked.scope)

    def resume(self, asked: ResumeAsked, now_ns: int) -> None:
        self._cancel_ends(asked.scope)
        was_changed = not self._agents.changed(asked.scope).is_void
        self._agents.forget_override(asked.scope)
        self._paused_or_resumed(asked.scope, now_ns)
        if was_changed:
            self._tell(asked.scope)

    def forgotten(self, scope: Scope) -> None:
        """A reload took this type away, and with it what was changed for it."""
        self._cancel_ends(scope)
        self._tell(scope)

    def _cancel_ends(self, scope: Scope) -> None:
        for what in _UNDO:
            self._timers.cancel(self._ends.pop((scope, what), 0))

    def _paused_or_resumed(self, scope: Scope, now_ns: int) -> None:
        meant = self._agents.meant(scope)
        held = [(each.is_paused, each.paused_whom) for each in meant]
        self._agents.reapply(scope, now_ns)
        self._backlog.look_again(now_ns)
        changed = [
            each
            for each, was in zip(meant, held, strict=True)
            if (each.is_paused, each.paused_whom) != was
        ]
        for record in self._backlog.waiting_of(changed):
            self._announcer.tell_again(record, now_ns)

    def _tell(self, scope: Scope) -> None:
        """What holds for this very scope now; what holds for a wider one is told as that one's."""
        override = self._agents.changed(scope)
        self._emit(
            TellPriority(
                scope=scope,
                weight_factor=override.weight_factor,
                rate_factor=override.rate_factor,
                priority_best=override.priority_best,
                is_blocked=override.is_blocked,
                is_paused=override.is_paused,
            )
        )

    def _until(self, scope: Scope, what: str, until_ns: int | None) -> None:
        self._timers.cancel(self._ends.pop((scope, what), 0))
        if until_ns is not None:
            self._ends[scope, what] = self._timers.set(until_ns, self._over, (scope, what))

    def _over(self, change: tuple[Scope, str], now_ns: int) -> None:
        del self._ends[change]
        scope, what = change
        _UNDO[what](self._agents.override(scope))
        self._paused_or_resumed(scope, now_ns)
        self._tell(scope)


def _unboost(override: Override) -> None:
    override.weight_factor = override.rate_factor = 1.0
    override.priority_best = 0


def _unblock(override: Override) -> None:
    override.is_blocked = False


def _unpause(override: Override) -> None:
    override.is_paused = False


_UNDO: Final[Mapping[str, Callable[[Override], None]]] = {
    "boost": _unboost,
    "block": _unblock,
    "pause": _unpause,
}
