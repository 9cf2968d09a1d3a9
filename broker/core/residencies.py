"""The models on the backends: what is known of them, and what comes of each load and unload.

`switching.py` takes the steps that lead to those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Final

from broker.core.backlog import Backlog
from broker.core.barriers import barrier
from broker.core.effects import Effect, Renew, TellSwitch
from broker.core.errors import BackendUnreachable
from broker.core.estimates import Estimates
from broker.core.freed_memory import FreedMemory
from broker.core.load_charges import LoadCharges
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState, PlacementPolicy
from broker.core.ports import Resident
from broker.core.residency import Residency, ResidencyState, ResidencyTrigger, SwitchStep
from broker.core.stimuli import (
    BackendSeen,
    LoadEnded,
    ModelsListed,
    ResidentsSeen,
    UnloadEnded,
)
from broker.core.timers import Timers
from broker.core.vanishings import Vanishings

_State, _Trigger = ResidencyState, ResidencyTrigger

# Who waits for a model does so for another try of its load, until so many in a row have failed.
LOADS_FAILED_MAX: Final = 3


class Residencies:
    """All backends. `emit` takes effects; `note` hears of runners for which what waits may stand
    elsewhere now; `on_load_failed` of loads that failed, by which name, and when the next may be
    tried; `on_change` of what may run now. `on_loaded` hears of loads that ended well, `on_left` of
    what is there no longer, or not at all."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        policy: PlacementPolicy,
        backlog: Backlog,
        timers: Timers,
        estimates: Estimates,
        load_charges: LoadCharges,
        freed: FreedMemory,
        emit: Callable[[Effect], None],
        note: Callable[[str], None],
        on_load_failed: Callable[[BackendState, str, LoadEnded, int, int], None],
        on_change: Callable[[int], None],
    ) -> None:
        self.backends = backends
        self.policy = policy
        self._backlog = backlog
        self._lines = backlog.ready
        self._timers = timers
        self._estimates = estimates
        self._load_charges = load_charges
        self._freed = freed
        self._emit = emit
        self._note = note
        self._on_load_failed = on_load_failed
        self._on_change = on_change
        self._vanishings = Vanishings(emit, self._hold, lambda: self.policy)
        self.on_loaded: Callable[[Residency], None] = _nobody
        self.on_left: Callable[[Residency], None] = _nobody

    # What is known

    def backend_seen(self, seen: BackendSeen, now_ns: int) -> None:
        backend = self.backends[seen.backend]
        if backend.up is not seen.up:
            self._note_all()
            backend.back_ns = now_ns
        backend.up, backend.problem = seen.up, seen.problem
        backend.is_mute, backend.is_missing = seen.is_mute, not seen.up

    def lost(self, name: str, error: BackendUnreachable, now_ns: int) -> None:
        """A call found that the backend does not answer. Where many run, many find that."""
        backend = self.backends[name]
        was_up = backend.up
        backend.up, backend.is_mute, backend.problem = False, False, error.message
        if was_up:
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
        if backend.is_leaving or _is_taken_back(backend):
            return  # its models are forgotten: what it holds could not be told by their names
        backend.is_listed = True
        listed = {self._runner_of(backend, each): each for each in seen.residents}
        may_show_what_left = seen.asked_ns <= backend.left_ns
        vanished = list[Residency]()  # that nobody told to leave
        for runner, residency in list(backend.residents.items()):
            row = listed.get(runner)
            if row is not None:
                residency.listed_ns = max(residency.listed_ns, seen.asked_ns)
                if residency.changed_ns < seen.asked_ns:
                    self._measured(backend, residency, row)
            elif residency.may_have_vanished(seen.asked_ns):
                self._expect_back(backend, residency)
                if residency.state is _State.RESIDENT and not residency.is_ahead_of_need:
                    vanished.append(residency)  # else nobody has lost anything by that
                self._leave(backend, residency, _Trigger.VANISHED, now_ns)
                self._note_all()
        appeared = [] if may_show_what_left else [x for x in listed if x not in backend.residents]
        for runner in appeared:
            self._appeared(backend, runner, listed[runner], now_ns)
        if vanished:  # who may be the cause is known by now
            self._vanishings.vanished(backend, vanished, now_ns)
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
        is_ours = backend.policy.exclusive and not backend.policy.keeps_models
        residency = Residency(
            runner=runner,
            model=row.name,
            state=_State.ABSENT,
            managed=is_ours or is_back,
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

    def own(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """The broker before this one had loaded it: it is ours. How long it would stay by itself is
        not known, so it is renewed at once."""
        residency.managed = True
        residency.renewed_ns = now_ns
        self._emit(Renew(backend.name, residency.model, residency.num_ctx_sent))
        self._timers.cancel(residency.renew_timer)
        self._keep(backend, residency, now_ns)

    def _leave(
        self, backend: BackendState, residency: Residency, trigger: ResidencyTrigger, now_ns: int
    ) -> None:
        self.on_left(residency)
        residency.move(trigger, now_ns)
        self._timers.cancel(residency.renew_timer)
        self._timers.cancel(residency.drain_timer)
        self._load_charges.left(residency)
        del backend.residents[residency.runner]
        backend.left_ns = now_ns

    def forget(self, backend: BackendState) -> None:
        """It is no more: nothing that it held is renewed, or told to leave."""
        for residency in backend.residents.values():
            self._timers.cancel(residency.renew_timer)
            self._timers.cancel(residency.drain_timer)
            self.on_left(residency)

    # What came of a step

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
            load_ns = now_ns - residency.load_started_ns
            self._estimates.loaded(residency.runner, load_ns, backend.name, now_ns)
            self._load_charges.loaded(residency, load_ns)
            self.on_loaded(residency)
            self._keep(backend, residency, now_ns)
            self._on_change(now_ns)
            return
        backend.ahead_of = ""  # nothing need leave for it
        for each in backend.residents.values():
            if each.replaced_by == ended.runner:
                each.replaced_by = ""
        backend.loads_failed += not residency.is_aborting
        self._leave(backend, residency, _Trigger.LOAD_FAILED, now_ns)
        if isinstance(ended.error, BackendUnreachable):
            self.lost(backend.name, ended.error, now_ns)
            return
        if residency.is_aborting:
            return
        hold_ns, why = self.policy.failed_load_hold_ns, ended.error.message
        until_ns = self._hold(backend, ended.runner, why, hold_ns, now_ns)
        self._on_load_failed(backend, residency.model, ended, until_ns, now_ns)

    def _hold(self, backend: BackendState, runner: str, why: str, hold_ns: int, now_ns: int) -> int:
        """It is not loaded there for a while; until when is returned."""
        until_ns = backend.hold_off(runner, why, hold_ns, now_ns)
        self._timers.set(until_ns, partial(self._hold_over, backend), runner)
        return until_ns

    def keep_away(self, backend: BackendState, runner: str, why: str, until_ns: int) -> None:
        """It is not loaded there before then, though nothing is wrong with it."""
        backend.held_until_ns[runner], backend.held_because[runner] = until_ns, why
        self._timers.set(until_ns, partial(self._hold_over, backend), runner)

    def next_try_ns(self, runner: str, now_ns: int) -> int | None:
        """When the load of a runner is tried next, or now where some backend has it; None where it
        has failed so often in a row, wherever it could be loaded, that nobody should wait."""
        tries = list[int]()
        for backend in self.backends.values():
            if runner not in backend.by_runner:
                continue
            found = barrier(backend, runner, now_ns)
            if found is None and runner in backend.residents:
                return now_ns
            wait_ns = 0.0 if found is None else found.wait_ns
            if wait_ns < inf and backend.failed_in_row.get(runner, 0) < LOADS_FAILED_MAX:
                tries.append(now_ns + int(wait_ns))
        return min(tries, default=None)

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
            if not self._freed.awaits(backend, residency, now_ns):
                self._leave(backend, residency, _Trigger.GONE, now_ns)
            return
        residency.move(_Trigger.STAYED, now_ns)
        replaced_by, residency.replaced_by = residency.replaced_by, ""
        if isinstance(ended.error, BackendUnreachable):
            if replaced_by:  # it is told again
                backend.ahead, backend.ahead_of = replaced_by, ended.runner
            self.lost(backend.name, ended.error, now_ns)
            return
        if ended.runner in backend.healing:
            return  # it is told to again
        # What does not leave when told to is not ours to plan with: its name may be deleted, or
        # somebody else may use it. It is forgotten as soon as the backend no longer lists it, and
        # its keep_alive is not renewed: that would hold it there.
        residency.managed = False
        self._timers.cancel(residency.renew_timer)

    def memory_over(
        self, backend: BackendState, residency: Residency, is_back: bool, words: str, now_ns: int
    ) -> None:
        """The memory of a model that is not listed any more is back, or will not be."""
        if not is_back:
            backend.memory_held += 1
            step = SwitchStep.MEMORY_HELD
            name, model = backend.name, residency.model
            self._emit(TellSwitch(backend=name, model=model, step=step, detail=words))
        self._leave(backend, residency, _Trigger.GONE, now_ns)

    def _keep(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        at_ns = now_ns + self.policy.keep_alive_ns // 2
        residency.renew_timer = self._timers.set(at_ns, partial(self._renew, backend), residency)

    def _renew(self, backend: BackendState, residency: Residency, now_ns: int) -> None:
        """Renews the keep_alive while the residency lasts, but never of one that is to leave or is
        being cured, nor on a backend that gets nothing more."""
        is_sound = residency.runner not in backend.healing
        if residency.state is _State.RESIDENT and backend.is_open and is_sound:
            residency.renewed_ns = now_ns
            self._emit(Renew(backend.name, residency.model, residency.num_ctx_sent))
        self._keep(backend, residency, now_ns)


def _nobody(residency: Residency) -> None:
    """Hears of nothing."""


def _is_taken_back(backend: BackendState) -> bool:
    """Is what it holds known, and not yet anew what it has?"""
    return bool(backend.residents) and not backend.is_listed and not backend.by_runner
