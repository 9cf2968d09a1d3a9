"""The switch protocol: from the model that a backend holds to the one that is wanted.

How to switch: gate the victim, let it drain, unload it explicitly, hear it proven gone, one load
owned by the broker, open. A rule behind `placement_rule.py` says when and what; this file does it,
one step a turn. One load at a time; the victim is gated and drained first. Where the server holds
one more and its memory is proven to, the next is loaded beside the others, and the victim is gated
once that is there: no slot idles for a load then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.core.backlog import Backlog
from broker.core.demands import Demand, View, find_demands, no_loss
from broker.core.drains import Drains
from broker.core.effects import AbortLoad, Effect, Load, TellSwitch, Unload
from broker.core.estimates import Estimates
from broker.core.placement import (
    BackendState,
    PlacementPolicy,
    has_room,
    has_room_ahead,
    is_needlessly_large,
    movable,
    serves,
    slots_for,
)
from broker.core.placement_rule import PlacementRule, choose_victim
from broker.core.queueing import Line, LineKey
from broker.core.record import Record
from broker.core.residency import Residency, ResidencyState, ResidencyTrigger, SwitchStep

_State, _Trigger = ResidencyState, ResidencyTrigger

# How often it is looked at whether a backend that is full of work has better to do.
LOOK_NS: Final = 500_000_000


class Switching:
    """All backends. `emit` takes effects; `note` hears of runners for which what waits may stand
    elsewhere now."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        policy: PlacementPolicy,
        rule: PlacementRule,
        backlog: Backlog,
        estimates: Estimates,
        starts_until_ns: Callable[[Record], int],
        drains: Drains,
        emit: Callable[[Effect], None],
        note: Callable[[str], None],
    ) -> None:
        self.backends = backends
        self.policy = policy
        self.rule = rule
        self._backlog = backlog
        self._lines = backlog.ready
        self._estimates = estimates
        self._starts_until_ns = starts_until_ns
        self._drains = drains
        self._emit = emit
        self._note = note
        self.losses: Callable[[BackendState, Residency, int], float] = no_loss

    def settle(self, now_ns: int) -> bool:
        """Takes each backend one step towards what its queue wants. True where a gate was opened:
        what waits for it may start now.

        Room that is there is used first, on any backend, before anything is told to leave. What
        several could load is loaded where that takes least time, then where less runs for its
        weight, then where the weight is larger, then by the first configured.
        """
        if self._is_settled():
            return False  # the usual turn
        ready = list[BackendState]()
        for backend in self.backends.values():
            if backend.is_switching:
                self._abort_unwanted(backend, now_ns)
            elif backend.is_open and not backend.is_curing and not self._is_busy(backend, now_ns):
                ready.append(backend)
        if len(ready) > 1:
            ready.sort(key=lambda each: self._cost_of_next(each, now_ns))
        wanted: dict[str, list[Demand]] = {}
        for backend in ready:
            targets = wanted[backend.name] = self._targets(backend, now_ns, with_promises=False)
            if targets:
                self._use_room(backend, targets, now_ns)
        has_opened = False
        for backend in ready:
            targets = wanted[backend.name]
            # What is loaded now, or others promise, takes of these away, and adds none.
            if targets and (backend.is_switching or len(self.backends) > 1):
                targets = self._targets(backend, now_ns, with_promises=True)
            has_opened |= self._gate_or_open(backend, targets, now_ns)
        return has_opened

    def _is_busy(self, backend: BackendState, now_ns: int) -> bool:
        """Is it full of models that all have work, and was it looked at just now? Then nothing but
        a better use of it could change anything, and that need not be found in the same turn."""
        residents = backend.residents.values()
        if backend.promised or backend.ahead_of or backend.broken or backend.healing:
            return False
        if len(residents) < backend.policy.resident_max:
            return False
        if self._backlog.is_holding or now_ns - backend.looked_ns >= LOOK_NS:
            backend.looked_ns = now_ns
            return False
        return all(
            each.state is _State.RESIDENT
            and any(key[0] == each.runner and each.fits(key[1]) for key in self._lines)
            for each in residents
        )

    def _cost_of_next(self, backend: BackendState, now_ns: int) -> tuple[float, float, float]:
        """By which backends come in their order: of what each would load next."""
        targets = self._targets(backend, now_ns, with_promises=False)
        load_ns = self._estimates.load_ns_on(backend.name, targets[0].runner) if targets else 0.0
        running = sum(each.running for each in backend.residents.values())
        weight = backend.policy.weight
        return load_ns, running / weight, -weight

    def _is_settled(self) -> bool:
        """Does nothing wait for a next step, and is all that waits for a slot served already?"""
        for backend in self.backends.values():
            if not backend.is_at_rest:
                return False
            if backend.is_open:
                for key in self._lines:
                    if key[0] in backend.by_runner and not serves(backend, key):
                        return False
        return True

    def _targets(self, backend: BackendState, now_ns: int, *, with_promises: bool) -> list[Demand]:
        targets = list[Demand]()
        if self._lines and backend.may_load:
            view = self._view(backend, now_ns)
            targets = self._ranked(view, with_promises=with_promises)
        if all(each.runner != backend.promised for each in targets):
            backend.promised = ""  # nobody waits for it any more, or another backend took it on
        if not targets:
            backend.gated = ""
        return targets

    def _ranked(self, view: View, *, with_promises: bool) -> list[Demand]:
        demands = find_demands(view, with_promises=with_promises)
        return self.rule.rank(view, demands) if demands else demands

    def _view(self, backend: BackendState, now_ns: int) -> View:
        lines = self._lines_for(backend, now_ns)
        return self._view_of(backend, lines, now_ns, is_first=lines is not self._lines)

    def _view_of(
        self,
        backend: BackendState,
        lines: Mapping[LineKey, Line],
        now_ns: int,
        *,
        is_first: bool,
    ) -> View:
        others = [each for each in self.backends.values() if each is not backend]
        return View(
            backend,
            others,
            lines,
            is_first,
            self._estimates,
            now_ns,
            self._backlog.forward,
            self._starts_until_ns,
            self._backlog.joining,
            self._backlog.accepting.count,
            self.losses,
        )

    def _lines_for(self, backend: BackendState, now_ns: int) -> Mapping[LineKey, Line]:
        """Whose wants count here: what the level lets go after the others wants no model loaded,
        and keeps none, where anything that goes first is served or wants to be."""
        first = self._backlog.first
        is_for_first = self._backlog.is_holding and (
            any(slots_for(backend, key) for key in first) or self.is_wanted_first(backend, now_ns)
        )
        return first if is_for_first else self._lines

    def is_wanted_first(self, backend: BackendState, now_ns: int) -> bool:
        """Does anything that goes before what the level holds back want a model loaded here?"""
        view = self._view_of(backend, self._backlog.first, now_ns, is_first=True)
        return bool(self._ranked(view, with_promises=False))

    def _use_room(self, backend: BackendState, targets: list[Demand], now_ns: int) -> None:
        """Loads the first that there is room for. While something is to leave, only what it leaves
        for: anything else might take the place."""
        leaving = [each for each in backend.draining() if not each.leaves_anyhow]
        for target in targets[:1] if leaving else targets:
            if has_room(backend, target.runner):
                self._load(backend, target, now_ns)
                return
            if leaving and has_room_ahead(backend, target.runner):
                leaving[0].replaced_by = target.runner
                self._load_ahead(backend, target, leaving[0], now_ns)
                return

    def _gate_or_open(self, backend: BackendState, targets: list[Demand], now_ns: int) -> bool:
        draining = backend.draining()
        leaving = [each for each in draining if not each.leaves_anyhow]
        if leaving and (not targets or self._is_served_by(leaving, targets[0])):
            for residency in leaving:
                self._drains.ungate(residency, now_ns)
            backend.gated = backend.promised = ""
            return True
        if backend.is_switching:
            return False
        if backend.ahead_of and self._gate_replaced(backend, now_ns):
            return False
        if leaving:
            backend.promised = targets[0].runner
            self._unload_drained(backend, draining, now_ns)
        elif draining and any(each.running == 0 for each in draining):
            self._unload_drained(backend, draining, now_ns)
        elif targets:
            self._gate_for_first(backend, targets, now_ns)
        else:
            self._let_down(backend, now_ns)
        return False

    def _is_served_by(self, draining: list[Residency], target: Demand) -> bool:
        """Is what waits longest now the very runner that was to leave?"""
        return any(r.runner == target.runner and r.fits(target.num_ctx) for r in draining)

    def _gate_for_first(self, backend: BackendState, targets: list[Demand], now_ns: int) -> None:
        """Gates what has to leave for the first target that room can be made for now."""
        view = self._view(backend, now_ns)
        for target in targets:
            victim = choose_victim(self.rule, view, target)
            if not backend.ahead_of and has_room_ahead(backend, target.runner):
                victim = victim or self._least_used(view, target.runner)
                if victim is not None:
                    backend.ahead, backend.ahead_of = target.runner, victim.runner
                    self._load_ahead(backend, target, victim, now_ns)
                    return
            elif victim is not None:
                self._drains.gate(backend, victim, now_ns)
                backend.gated = victim.runner if victim.runner != target.runner else ""
                backend.promised = target.runner
                self._unload_drained(backend, [victim], now_ns)
                return

    def _unload_drained(
        self, backend: BackendState, draining: list[Residency], now_ns: int
    ) -> None:
        for residency in draining:
            if residency.running == 0:
                residency.move(_Trigger.DRAINED, now_ns)
                self._drains.ended(residency)
                self._emit(Unload(backend.name, residency.runner, residency.model))
                return

    # Loading ahead

    def _least_used(self, view: View, runner: str) -> Residency | None:
        """Of those whose queue is exhausted. One that still works need not be nearly idle to be
        replaced: it serves whoever comes until the next is there."""
        exhausted = [each for each in movable(view.backend, runner) if view.is_exhausted(each)]
        return min(exhausted, key=_use, default=None)

    def _load_ahead(
        self, backend: BackendState, target: Demand, victim: Residency, now_ns: int
    ) -> None:
        backend.loads_ahead += 1
        self._load(backend, target, now_ns)
        words = f"loaded while {victim.model} still works, which leaves for it"
        name = backend.by_runner[target.runner].name
        step = SwitchStep.LOADED_AHEAD
        self._emit(TellSwitch(backend=backend.name, model=name, step=step, detail=words))

    def _gate_replaced(self, backend: BackendState, now_ns: int) -> bool:
        """What was loaded beside the others is there: one of them leaves now. The one that was
        meant to, or another whose queue is exhausted by now; the new one only if nobody uses it."""
        view = self._view(backend, now_ns)
        newest = backend.residents.get(backend.ahead)
        meant = backend.residents.get(backend.ahead_of)
        if newest is None or meant is None or not meant.managed:
            backend.ahead_of = ""  # one has left by itself, or will not leave
            return False
        candidates = movable(backend, "")
        idle = [
            each
            for each in candidates
            if view.is_exhausted(each) and (each is not newest or not each.running)
        ]
        victim = min(idle, key=_use, default=meant if meant in candidates else None)
        if victim is None:
            return False  # it could not be drained, or is being cured
        self._drains.gate(backend, victim, now_ns)
        victim.replaced_by = newest.runner if victim is not newest else meant.runner
        backend.ahead_of = ""
        self._unload_drained(backend, [victim], now_ns)
        return True

    # Loads

    def _load(self, backend: BackendState, target: Demand, now_ns: int) -> None:
        runner, num_ctx = target.runner, target.num_ctx
        spec = backend.by_runner[runner]
        sent = num_ctx or spec.num_ctx
        residency = Residency(
            runner=runner,
            model=spec.name,
            state=_State.ABSENT,
            managed=True,
            slots=spec.slots,
            num_ctx_sent=sent,
            num_ctx=sent or 0,
            is_large=num_ctx > 0,
            load_started_ns=now_ns,
            large_used_ns=now_ns,
        )
        residency.move(_Trigger.LOAD, now_ns)
        backend.residents[runner] = residency
        backend.gated = backend.promised = ""
        self._note(runner)
        backend.loads += 1
        self._emit(Load(backend.name, runner, spec.name, sent))

    def _abort_unwanted(self, backend: BackendState, now_ns: int) -> None:
        """Ends a load that nobody waits for any more and that keeps another from its turn: a hung
        one would do so until its time is up. One that has not yet lasted as long as such loads do
        is left alone, as it should be over in a moment. Looked at in each turn; whenever anyone
        waits there is one at least at every regular look at the residents."""
        for residency in backend.residents.values():
            if residency.state is not _State.LOADING or residency.is_aborting:
                continue
            # What was loaded ahead of need makes way at once.
            known_ns = self._estimates.load_ns(residency.runner) or 0.0
            usual_ns = 0.0 if residency.is_ahead_of_need else known_ns
            lines = self._lines_for(backend, now_ns)
            is_wanted = residency.is_wished or any(key[0] == residency.runner for key in lines)
            if is_wanted or now_ns - residency.load_started_ns < usual_ns:
                continue
            if self._targets(backend, now_ns, with_promises=True):
                residency.is_aborting = True
                self._emit(AbortLoad(backend.name, residency.runner))

    def _let_down(self, backend: BackendState, now_ns: int) -> None:
        """Unloads an idle model whose context was raised and is no longer needed: the next load
        is of the usual size."""
        for residency in backend.residents.values():
            if residency.runner in backend.healing:
                continue  # it leaves by itself
            if is_needlessly_large(residency, self._lines, now_ns, self.policy.num_ctx_hold_ns):
                self.let_go(backend, residency, now_ns)
                return

    # What nobody waits for

    def load_unasked(self, backend: BackendState, runner: str, now_ns: int) -> Residency:
        """Loads it though nothing waits for it. The caller has looked whether that may be."""
        self._load(backend, Demand(runner), now_ns)
        return backend.residents[runner]

    def let_go(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """Has something idle leave, for nothing that waits."""
        self._drains.gate(backend, residency, now_ns)
        self._unload_drained(backend, [residency], now_ns)

    def dismiss(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """Has it leave when what runs there has ended, for nothing that waits."""
        self._drains.gate(backend, residency, now_ns)
        self.finish_drain(backend, residency, now_ns)

    def finish_drain(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """Unloads it if it has drained and nothing else is under way: also where the backend gets
        no work, so that no turn takes it further."""
        if not backend.is_switching:
            self._unload_drained(backend, [residency], now_ns)

    def stay(self, residency: Residency, now_ns: int) -> None:
        """What was told to leave and has not drained serves on."""
        self._drains.ungate(residency, now_ns)


def _use(residency: Residency) -> tuple[int, int, str]:
    """The least used first, then the one idle longest."""
    return residency.running, residency.used_ns, residency.runner
