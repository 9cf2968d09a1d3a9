"""The models on the backends: keeps what is known of them and drives the switch protocol.

How to switch: gate the victim, let it drain, unload it explicitly, hear it proven gone, one load
owned by the broker, open. `placement.py` says when and what; this file does it, one step a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from broker.core.backlog import Backlog
from broker.core.effects import AbortLoad, Effect, Load, Renew, Unload
from broker.core.errors import BackendUnreachable, BrokerError
from broker.core.estimates import Estimates
from broker.core.model_name import comparison_key
from broker.core.placement import (
    BackendState,
    Demand,
    PlacementPolicy,
    choose_victim,
    has_room,
    is_needlessly_large,
    is_wanted_first,
    rank_targets,
    serves,
    slots_for,
)
from broker.core.ports import Resident
from broker.core.queueing import Line, LineKey
from broker.core.residency import Residency, ResidencyState, ResidencyTrigger
from broker.core.stimuli import (
    BackendSeen,
    LoadEnded,
    ModelsListed,
    ResidentsSeen,
    UnloadEnded,
)
from broker.core.timers import Timers

_State, _Trigger = ResidencyState, ResidencyTrigger


class Residencies:
    """All backends. `emit` takes effects; `note` hears of runners for which what waits may stand
    elsewhere now; `on_load_failed` hears of loads that failed, `on_change` of what may run now."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        policy: PlacementPolicy,
        backlog: Backlog,
        timers: Timers,
        estimates: Estimates,
        emit: Callable[[Effect], None],
        note: Callable[[str], None],
        on_load_failed: Callable[[str, BrokerError, int], None],
        on_change: Callable[[int], None],
    ) -> None:
        self.backends = backends
        self.policy = policy
        self._backlog = backlog
        self._lines = backlog.ready
        self._timers = timers
        self._estimates = estimates
        self._emit = emit
        self._note = note
        self._on_load_failed = on_load_failed
        self._on_change = on_change

    # What is known

    def backend_seen(self, seen: BackendSeen, now_ns: int) -> None:
        backend = self.backends[seen.backend]
        if backend.up is not seen.up:
            self._note_all()
        backend.up, backend.problem = seen.up, seen.problem

    def lost(self, name: str, error: BackendUnreachable, now_ns: int) -> None:
        """A call found that the backend does not answer."""
        backend = self.backends[name]
        backend.up, backend.problem = False, error.message
        self._note_all()
        self._on_change(now_ns)

    def _note_all(self) -> None:
        for runner, _ in self._lines:
            self._note(runner)

    def models_listed(self, listed: ModelsListed, now_ns: int) -> None:
        self.backends[listed.backend].list_models(listed.models)

    def residents_seen(self, seen: ResidentsSeen, now_ns: int) -> None:
        """Compares what a backend says it holds with what we think it does.

        What changed here after the backend was asked is newer than its answer and stays.
        """
        backend = self.backends[seen.backend]
        backend.is_listed = True
        listed = {self._runner_of(backend, each): each for each in seen.residents}
        may_show_what_left = seen.asked_ns <= backend.left_ns
        for runner, residency in list(backend.residents.items()):
            row = listed.get(runner)
            if row is not None:
                residency.listed_ns = max(residency.listed_ns, seen.asked_ns)
                if residency.changed_ns < seen.asked_ns:
                    self._measured(backend, residency, row)
            elif residency.may_have_vanished(seen.asked_ns):
                self._expect_back(backend, residency)
                self._leave(backend, residency, _Trigger.VANISHED, now_ns)
                self._note_all()
        appeared = [] if may_show_what_left else [x for x in listed if x not in backend.residents]
        for runner in appeared:
            self._appeared(backend, runner, listed[runner], now_ns)
        if appeared:
            self._note_all()
            self._on_change(now_ns)

    def _runner_of(self, backend: BackendState, row: Resident) -> str:
        spec = backend.models.get(comparison_key(row.name))
        return spec.runner if spec else f"unlisted:{row.digest or row.name}"

    def _measured(self, backend: BackendState, residency: Residency, row: Resident) -> None:
        residency.model = row.name  # of its names the one that an unload can be told and proven by
        residency.memory_bytes = row.memory_bytes
        residency.gpu_memory_bytes = row.gpu_memory_bytes
        residency.expires_unix_s = row.expires_unix_s
        if row.num_ctx:
            residency.num_ctx = row.num_ctx
        if residency.state is not _State.LOADING:
            backend.has_loaded(residency.runner)
        if residency.runner in backend.by_runner:
            backend.memory_seen[residency.runner] = row.memory_bytes

    def _expect_back(self, backend: BackendState, residency: Residency) -> None:
        """A renewal that reaches a server which has just lost the model loads it again. What comes
        back so within the keep_alive that it asked for is the broker's, not a stranger's."""
        if residency.managed and residency.renewed_ns > residency.listed_ns:
            until_ns = residency.renewed_ns + self.policy.keep_alive_ns
            backend.expected_until_ns[residency.runner] = until_ns

    def _appeared(self, backend: BackendState, runner: str, row: Resident, now_ns: int) -> None:
        """Somebody else loaded it, or a renewal of ours did. Requests carry the context that it
        has, lest they reload it."""
        spec = backend.by_runner.get(runner)
        is_back = now_ns < backend.expected_until_ns.pop(runner, 0)
        residency = Residency(
            runner=runner,
            model=row.name,
            state=_State.ABSENT,
            managed=backend.policy.exclusive or is_back,
            slots=spec.slots if spec else 1,
            num_ctx_sent=row.num_ctx or None,
            num_ctx=row.num_ctx,
            used_ns=now_ns,
        )
        residency.move(_Trigger.APPEARED, now_ns)
        backend.residents[runner] = residency
        self._measured(backend, residency, row)
        if is_back:
            self._keep(backend, residency, now_ns)

    def _leave(
        self, backend: BackendState, residency: Residency, trigger: ResidencyTrigger, now_ns: int
    ) -> None:
        residency.move(trigger, now_ns)
        self._timers.cancel(residency.renew_timer)
        del backend.residents[residency.runner]
        backend.left_ns = now_ns

    # The switch protocol

    def load_ended(self, ended: LoadEnded, now_ns: int) -> None:
        """Opens the model; or forgets it, and holds off unless only the connection failed or the
        load was aborted, which says nothing of the model."""
        backend = self.backends[ended.backend]
        residency = backend.residents[ended.runner]
        backend.load_ns_sum += now_ns - residency.load_started_ns
        self._note(ended.runner)
        if ended.error is None:
            residency.move(_Trigger.LOADED, now_ns)
            residency.loaded_ns = residency.used_ns = now_ns
            backend.has_loaded(ended.runner)
            self._estimates.loaded(residency.runner, now_ns - residency.load_started_ns)
            self._keep(backend, residency, now_ns)
            self._on_change(now_ns)
            return
        backend.loads_failed += not residency.is_aborting
        self._leave(backend, residency, _Trigger.LOAD_FAILED, now_ns)
        if isinstance(ended.error, BackendUnreachable):
            self.lost(backend.name, ended.error, now_ns)
            return
        if residency.is_aborting:
            return
        hold_ns, why = self.policy.failed_load_hold_ns, ended.error.message
        until_ns = backend.hold_off(ended.runner, why, hold_ns, now_ns)
        self._timers.set(until_ns, partial(self._hold_over, backend), ended.runner)
        self._on_load_failed(ended.runner, ended.error, now_ns)

    def _hold_over(self, backend: BackendState, runner: str, now_ns: int) -> None:
        if not backend.holds_off(runner, now_ns):
            backend.held_until_ns.pop(runner, None)
            backend.held_because.pop(runner, None)
            self._on_change(now_ns)

    def unload_ended(self, ended: UnloadEnded, now_ns: int) -> None:
        """The model is proven gone, or the server is lost, or it would not leave."""
        backend = self.backends[ended.backend]
        residency = backend.residents[ended.runner]
        if ended.error is None:
            self._leave(backend, residency, _Trigger.GONE, now_ns)
            return
        residency.move(_Trigger.STAYED, now_ns)
        if isinstance(ended.error, BackendUnreachable):
            self.lost(backend.name, ended.error, now_ns)
            return
        # What does not leave when told to is not ours to plan with: its name may be deleted, or
        # somebody else may use it. It is forgotten as soon as the backend no longer lists it, and
        # its keep_alive is not renewed: that would hold it there.
        residency.managed = False
        self._timers.cancel(residency.renew_timer)

    def _keep(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        at_ns = now_ns + self.policy.keep_alive_ns // 2
        residency.renew_timer = self._timers.set(at_ns, partial(self._renew, backend), residency)

    def _renew(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """Renews the keep_alive while the residency lasts, but never of one that is to leave."""
        if residency.state is _State.RESIDENT and backend.up:
            residency.renewed_ns = now_ns
            self._emit(Renew(backend.name, residency.model, residency.num_ctx_sent))
        self._keep(backend, residency, now_ns)

    def settle(self, now_ns: int) -> bool:
        """Takes each backend one step towards what its queue wants. True where a gate was opened:
        what waits for it may start now.

        Room that is there is used first, on any backend, before anything is told to leave.
        """
        if self._is_settled():
            return False  # the usual turn
        ready = list[BackendState]()
        for backend in self.backends.values():
            if backend.is_switching:
                self._abort_unwanted(backend, now_ns)
            elif backend.up:
                ready.append(backend)
        wanting: set[str] = set()
        for backend in ready:
            targets = self._targets(backend, now_ns, with_promises=False)
            if targets:
                wanting.add(backend.name)
                self._use_room(backend, targets, now_ns)
        has_opened = False
        for backend in ready:
            targets = []  # promises and new loads only ever take targets away
            if backend.name in wanting:
                targets = self._targets(backend, now_ns, with_promises=True)
            has_opened |= self._gate_or_open(backend, targets, now_ns)
        return has_opened

    def _is_settled(self) -> bool:
        """Does nothing wait for a next step, and is all that waits for a slot served already?"""
        for backend in self.backends.values():
            if not backend.is_at_rest:
                return False
            if backend.up:
                for key in self._lines:
                    if key[0] in backend.by_runner and not serves(backend, key):
                        return False
        return True

    def _targets(self, backend: BackendState, now_ns: int, *, with_promises: bool) -> list[Demand]:
        targets = list[Demand]()
        if self._lines:
            lines, others = self._lines_for(backend, now_ns), self._others(backend)
            is_first = lines is not self._lines
            targets = rank_targets(
                backend, others, lines, now_ns, with_promises=with_promises, of_first=is_first
            )
        if all(each.runner != backend.promised for each in targets):
            backend.promised = ""  # nobody waits for it any more, or another backend took it on
        if not targets:
            backend.gated = ""
        return targets

    def _others(self, backend: BackendState) -> list[BackendState]:
        return [each for each in self.backends.values() if each is not backend]

    def _lines_for(self, backend: BackendState, now_ns: int) -> Mapping[LineKey, Line]:
        """Whose wants count here: what the level lets go after the others wants no model loaded,
        and keeps none, where anything that goes first is served or wants to be."""
        first = self._backlog.first
        is_for_first = self._backlog.is_holding and (
            any(slots_for(backend, key) for key in first) or self.is_wanted_first(backend, now_ns)
        )
        return first if is_for_first else self._lines

    def is_wanted_first(self, backend: BackendState, now_ns: int) -> bool:
        """Does anything that goes first want a model loaded here?"""
        return is_wanted_first(backend, self._others(backend), self._backlog.first, now_ns)

    def _use_room(self, backend: BackendState, targets: list[Demand], now_ns: int) -> None:
        """Loads the first that there is room for. While something is to leave, only what it leaves
        for: anything else might take the place."""
        for target in targets[:1] if backend.draining() else targets:
            if has_room(backend, target.runner):
                self._load(backend, target.runner, target.num_ctx, now_ns)
                return

    def _gate_or_open(self, backend: BackendState, targets: list[Demand], now_ns: int) -> bool:
        draining = backend.draining()
        if draining and (not targets or self._is_served_by(draining, targets[0])):
            for residency in draining:
                residency.move(_Trigger.UNGATE, now_ns)
            backend.gated = backend.promised = ""
            return True
        if backend.is_switching:
            return False
        if draining:
            backend.promised = targets[0].runner
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
        lines = self._lines_for(backend, now_ns)
        for target in targets:
            victim = choose_victim(backend, target, lines)
            if victim is not None:
                victim.move(_Trigger.GATE, now_ns)
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
                self._emit(Unload(backend.name, residency.runner, residency.model))
                return

    def _load(self, backend: BackendState, runner: str, num_ctx: int, now_ns: int) -> None:
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
            usual_ns = self._estimates.load_ns(residency.runner) or 0.0
            lines = self._lines_for(backend, now_ns)
            is_wanted = any(runner == residency.runner for runner, _ in lines)
            if is_wanted or now_ns - residency.load_started_ns < usual_ns:
                continue
            if self._targets(backend, now_ns, with_promises=True):
                residency.is_aborting = True
                self._emit(AbortLoad(backend.name, residency.runner))

    def _let_down(self, backend: BackendState, now_ns: int) -> None:
        """Unloads an idle model whose context was raised and is no longer needed: the next load
        is of the usual size."""
        for residency in backend.residents.values():
            if is_needlessly_large(residency, self._lines, now_ns, self.policy.num_ctx_hold_ns):
                residency.move(_Trigger.GATE, now_ns)
                self._unload_drained(backend, [residency], now_ns)
                return
