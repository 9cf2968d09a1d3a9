"""Requests that a loaded model shall answer rather than wait for a load (`prefer_loaded`).

Such a one waits in the line of the first that is loaded, of the model it asks for and the fallbacks
of its caller, in that order; where none is, of the first that is being loaded; else in its own.
When a model comes or goes, those that this concerns move. They keep the age that they have. Where
what was asked for cannot answer at all, `reassignment.py` decides, as for everybody.

Only this saves loads: what is worth most per second is worked out with those that would come
(`demands.py`), so that one load serves two models' work, and what they accept stays for longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.core.backlog import Backlog
from broker.core.failover import fallback_keys, line_if_able
from broker.core.ledger import Ledger
from broker.core.lifecycle import State
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.reassignment import Choice, Reassignment
from broker.core.record import Accepted, Record
from broker.core.requests import RequestSpec
from broker.core.residency import ResidencyState

# First what is there, then what is about to be.
_AT_HAND: Final = (ResidencyState.RESIDENT, ResidencyState.LOADING)

# What the backends hold and may serve, as far as it matters: (backend, runner, context, state);
# and whether the level has the say.
_Held = tuple[bool, tuple[tuple[str, str, int, ResidencyState], ...]]


class Flexible:
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        backlog: Backlog,
        reassignment: Reassignment,
        backends: Mapping[str, BackendState],
    ) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._reassignment = reassignment
        self._offers = backlog.offers
        self._backends = backends
        self._held: _Held | None = None  # as it was when all were where they belong

    def accepted(self, spec: RequestSpec) -> tuple[Accepted, ...]:
        """What may answer it, the model it asks for first; () where that is one model at most."""
        if not spec.prefer_loaded:
            return ()
        found = list[Accepted]()
        for key in (comparison_key(spec.model), *fallback_keys(spec)):
            line = self._line(spec, key)
            if line is not None and all(line[0] != each.line[0] for each in found):
                found.append(Accepted(key, line))
        return tuple(found) if len(found) > 1 else ()

    def find(self, spec: RequestSpec, accepts: tuple[Accepted, ...]) -> Choice | None:
        """Of these the one that is at hand; None where none is that the level lets run."""
        for state in _AT_HAND:
            for each in accepts:
                if self._is_at_hand(each, state) and self._offers.lets_answer(each.line[0]):
                    return _choice(spec, each)
        return None

    def place(self, record: Record, now_ns: int) -> None:
        """It is about to enter a line."""
        record.accepts = self.accepted(record.spec)
        self._place(record, now_ns)

    def models_changed(self) -> None:
        """What a backend has is another now, and so may be what is accepted."""
        for record in self._ledger.records.values():
            self.chosen_anew(record)
        self._held = None

    def chosen_anew(self, record: Record) -> None:
        """It asks for another model now, or for others in its place."""
        if record.spec.prefer_loaded and record.state is State.QUEUED:
            accepting = self._backlog.accepting
            accepting.drop(record)
            record.accepts = self.accepted(record.spec)
            accepting.add(record)

    def settle(self, now_ns: int) -> bool:
        """Moves whom it concerns where what is held has changed, in the order in which they came,
        so that nobody waits beside a free slot of what it accepts. Has anybody moved?"""
        if not self._backlog.accepting:
            self._held = None
            return False
        held = self._look()
        if held == self._held:
            return False
        self._held = held
        waiting = [
            each
            for each in self._ledger.records.values()
            if each.accepts and each.state is State.QUEUED
        ]
        return sum(self._place(each, now_ns) for each in waiting) > 0

    def _place(self, record: Record, now_ns: int) -> bool:
        """Has it another place now?"""
        if not record.may_join:
            return False
        choice = self.find(record.spec, record.accepts)
        if choice is None and record.is_at_hand:
            choice = self._reassignment.by_need(record.spec, now_ns) or _own(record)
        if choice is None or (choice.line == record.line and choice.model == record.model):
            return False
        self._reassignment.assign(record, choice, now_ns)
        return True

    def _line(self, spec: RequestSpec, key: str) -> LineKey | None:
        """That of the first model of this name that can do it, be its backend up or not."""
        having = (each.models.get(key) for each in self._backends.values())
        lines = (line_if_able(spec, each, self._backends) for each in having if each is not None)
        return next((line for line in lines if line is not None), None)

    def _is_at_hand(self, accepted: Accepted, state: ResidencyState) -> bool:
        runner, num_ctx = accepted.line
        for backend in self._backends.values():
            residency = backend.residents.get(runner)
            if residency is None or residency.state is not state or not residency.fits(num_ctx):
                continue
            if _is_sound(backend, runner) and accepted.model in backend.models:
                return True
        return False

    def _look(self) -> _Held:
        return self._offers.has_small_only, tuple(
            (name, runner, residency.num_ctx, residency.state)
            for name, backend in self._backends.items()
            for runner, residency in backend.residents.items()
            if residency.state in _AT_HAND and _is_sound(backend, runner)
        )


def _is_sound(backend: BackendState, runner: str) -> bool:
    """May work for it be started there? What has to prove itself first is left to its own."""
    return backend.takes(runner) and runner not in backend.broken_until_ns


def _own(record: Record) -> Choice | None:
    """What it asks for, be it that nobody takes it; None where that is not known any more."""
    if not record.accepts:
        return None
    first = record.accepts[0]
    is_own = first.model == comparison_key(record.spec.model)
    return _choice(record.spec, first) if is_own else None


def _choice(spec: RequestSpec, accepted: Accepted) -> Choice:
    if accepted.model == comparison_key(spec.model):
        return Choice(accepted.model, accepted.line, False)
    instead = f"{accepted.model} is loaded and {spec.model} is not"
    return Choice(accepted.model, accepted.line, False, instead, is_at_hand=True)
