"""Finds models that hang and cures them: nothing new, close all, unload, load again when wanted.

The cure is the one that OLLAMA.md §3.7 found; any new request for a frozen runner would hold the
server up for 20 s. A runner that has lost a slot is unloaded too, but only when it is idle, or
would never be. What does not leave is told to again, after a growing pause; whether the server as a
whole still serves is for `servers.py` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.effects import Effect, Unload
from broker.core.errors import (
    BackendFrozen,
    BackendUnreachable,
    BrokerError,
    ClosedForCure,
    LoadHung,
    TimedOut,
)
from broker.core.estimates import Estimates
from broker.core.healing import HealingStep, Health
from broker.core.lost_slots import has_lost_slot
from broker.core.placement import BackendState
from broker.core.policy import EnginePolicy
from broker.core.queueing import LineKey
from broker.core.record import Attempt
from broker.core.requests import AttemptId
from broker.core.residency import Residency, ResidencyState, ResidencyTrigger
from broker.core.servers import Servers
from broker.core.silence import Silences
from broker.core.stimuli import AttemptEnded, LoadEnded, Quiet, UnloadEnded
from broker.core.time_outs import Phase
from broker.core.timers import Timers

_Step, _State, _Trigger = HealingStep, ResidencyState, ResidencyTrigger

# What would not leave is told to again after this, doubled so often at most: eight minutes then.
AGAIN_NS: Final = 30_000_000_000
AGAIN_DOUBLED_MAX: Final = 4

# A runner that has lost a slot and is never idle is gated after this; and is not unloaded for such
# a loss again before that.
IDLE_WAIT_NS: Final = 60_000_000_000
LOST_AGAIN_NS: Final = 600_000_000_000

# No first token for less than this is no sign of a frozen runner, whoever's time-out it was.
MUTE_NS_MIN: Final = 10_000_000_000

_Key = tuple[str, str]  # backend, runner

GiveUp = Callable[[AttemptId, BrokerError, int], None]
Reset = Callable[[BackendState, str, str, int], None]


@dataclass(slots=True, kw_only=True)
class _Cure:
    """A runner that is to leave."""

    backend: BackendState
    runner: str
    model: str
    why: str
    failed: int = 0
    again_ns: int = 0


class Healer:
    """See the module. `give_up` closes the call of an attempt, `reset` its breaker's count;
    `note` hears of runners for which what waits may stand elsewhere now, `on_change` of what may
    run now and could not, or may no longer. `lines`: what waits."""

    def __init__(
        self,
        servers: Servers,
        silences: Silences,
        backends: Mapping[str, BackendState],
        lines: Collection[LineKey],
        timers: Timers,
        give_up: GiveUp,
        reset: Reset,
        note: Callable[[str], None],
        on_change: Callable[[int], None],
        emit: Callable[[Effect], None],
    ) -> None:
        self.servers = servers
        self.silences = silences
        self._backends = backends
        self._lines = lines
        self._timers = timers
        self._give_up = give_up
        self._reset = reset
        self._note = note
        self._on_change = on_change
        self._emit = emit
        self._cures: dict[_Key, _Cure] = {}
        self._lost: dict[_Key, _Cure] = {}  # have lost a slot; gated by `again_ns` at the latest
        self._lost_ns: dict[_Key, int] = {}  # when that was last found

    def __len__(self) -> int:
        """How many runners it remembers, for whatever they did."""
        return len(self._cures.keys() | self._lost.keys() | self._lost_ns.keys())

    # What is heard of attempts

    def quiet(self, quiet: Quiet, now_ns: int) -> None:
        """No piece of an attempt has come for a while."""
        attempt = self._attempt(quiet.attempt)
        if attempt is None or not attempt.first_token_ns:
            return
        why = self.silences.judge(quiet, attempt, now_ns)
        if why is None:
            return
        frozen = BackendFrozen(f"{attempt.residency.model} on {attempt.backend} {why}")
        neighbours = self.silences.neighbours(attempt)
        if any(self.silences.is_streaming(each, now_ns) for each in neighbours):
            # The runner works: it is this one call that will never go on.
            self._give_up(attempt.id, frozen, now_ns)
        else:
            self._freeze(attempt, frozen, now_ns)

    def _attempt(self, attempt_id: AttemptId) -> Attempt | None:
        """An attempt that runs on, as far as anybody has said."""
        attempt = self.silences.attempts.get(attempt_id)
        if attempt is None or attempt.ending is not None or attempt.given_up is not None:
            return None
        return attempt

    def attempt_ended(self, attempt: Attempt, ended: AttemptEnded, now_ns: int) -> None:
        """An attempt is over; it holds its slot until after this."""
        backend = self._backends.get(attempt.backend)
        is_whole = ended.error is None
        self.silences.ended(attempt, ended.gap_ns, now_ns, is_whole=is_whole)
        if backend is None:
            return
        if is_whole:
            self.servers.served(backend, now_ns)
        if has_lost_slot(attempt, ended.slot_wait_ns, now_ns, is_whole=is_whole):
            self._found_lost(backend, attempt, ended.slot_wait_ns, now_ns)
        residency = attempt.residency
        if attempt.first_token_ns or is_whole:
            if attempt.first_token_ns > residency.mute_since_ns or is_whole:
                residency.mute_since_ns = -1
        elif self._is_mute(attempt, now_ns):
            self._found_mute(attempt, now_ns)

    def _is_mute(self, attempt: Attempt, now_ns: int) -> bool:
        """Was it given up without a first token, after longer than any prompt there takes?"""
        late = attempt.given_up
        if not isinstance(late, TimedOut) or late.phase is not Phase.FIRST_TOKEN:
            return False
        if attempt.ending is not None:
            return False
        waited_ns = now_ns - attempt.started_ns - self.silences.stalled_ns(attempt, now_ns)
        return waited_ns >= max(MUTE_NS_MIN, self.silences.reading_ns(attempt))

    def _found_mute(self, attempt: Attempt, now_ns: int) -> None:
        """The second such call in a row, with no first token from that runner in between."""
        residency = attempt.residency
        neighbours = self.silences.neighbours(attempt)
        since_ns = residency.mute_since_ns
        if since_ns < 0 or any(each.first_token_ns > since_ns for each in neighbours):
            residency.mute_since_ns = attempt.started_ns
            return
        residency.mute_since_ns = -1
        for_s = (now_ns - since_ns) / 1e9
        words = f"has given no first token for {for_s:.1f} s, to two calls in a row"
        frozen = BackendFrozen(f"{residency.model} on {attempt.backend} {words}")
        self._freeze(attempt, frozen, now_ns)

    # Frozen runners

    def _freeze(self, attempt: Attempt, frozen: BackendFrozen, now_ns: int) -> None:
        """Its runner does nothing: every call that uses it is closed, and it is to leave."""
        backend, residency = self._backends[attempt.backend], attempt.residency
        if residency.runner in backend.healing:
            self._close_all(attempt, frozen, now_ns)
        elif backend.policy.keeps_models:
            words = "; this backend can neither load nor unload, so only its breaker helps"
            self.servers.tell(backend, residency.model, _Step.CURE_FAILED, frozen.message + words)
            for each in self.silences.on(residency):
                self._give_up(each.id, frozen, now_ns)
        else:
            self.servers.tell(backend, residency.model, _Step.FROZEN, frozen.message)
            self._begin(self._cure(backend, residency, frozen.message), now_ns)
            self._close_all(attempt, frozen, now_ns)

    def _close_all(self, attempt: Attempt, frozen: BackendFrozen, now_ns: int) -> None:
        """This one is known to be frozen; the others are closed for the sake of the cure."""
        closed = ClosedForCure(f"closed to cure its model: {frozen.message}")
        for each in self.silences.on(attempt.residency):
            self._give_up(each.id, frozen if each is attempt else closed, now_ns)

    def _cure(self, backend: BackendState, residency: Residency, why: str) -> _Cure:
        return _Cure(backend=backend, runner=residency.runner, model=residency.model, why=why)

    def _begin(self, cure: _Cure, now_ns: int) -> None:
        """From now on nothing new is started on it."""
        key = cure.backend.name, cure.runner
        self._lost.pop(key, None)
        self._cures[key] = cure
        cure.backend.healing.add(cure.runner)
        self._note(cure.runner)
        self._on_change(now_ns)

    # Lost slots

    def _found_lost(
        self, backend: BackendState, attempt: Attempt, wait_ns: int, now_ns: int
    ) -> None:
        residency = attempt.residency
        key = backend.name, residency.runner
        if backend.policy.keeps_models or residency.runner in backend.healing:
            return
        if not residency.managed:
            return  # others use it as well: their calls explain the wait
        before_ns = self._lost_ns.get(key)
        if before_ns is not None and now_ns - before_ns < LOST_AGAIN_NS:
            return  # never in a loop: something else may hold it up
        self._lost_ns[key] = now_ns
        words = (
            f"calls wait for a slot there ({wait_ns / 1e9:.1f} s of the last one) though no more "
            f"than {residency.slots} run; it is unloaded when it is idle"
        )
        self.servers.tell(backend, residency.model, _Step.SLOT_LOST, words)
        cure = self._lost[key] = self._cure(backend, residency, words)
        cure.again_ns = now_ns + IDLE_WAIT_NS
        self._timers.set(cure.again_ns, self._wake)

    def _look_at_lost(self, now_ns: int) -> None:
        for key, cure in list(self._lost.items()):
            residency = cure.backend.residents.get(cure.runner)
            if residency is None or cure.backend.is_leaving:
                del self._lost[key]
                continue
            is_idle = residency.running == 0 and not self._is_wanted(residency)
            if residency.state is _State.RESIDENT and (is_idle or now_ns >= cure.again_ns):
                cure.again_ns = 0
                self._begin(cure, now_ns)

    def _is_wanted(self, residency: Residency) -> bool:
        return any(runner == residency.runner for runner, _ in self._lines)

    # The steps of a cure

    def settle(self, now_ns: int) -> None:
        """Takes each cure a step further, as far as it can go now."""
        if self._lost:
            self._look_at_lost(now_ns)
        for cure in list(self._cures.values()):
            self._step(cure, now_ns)

    def _step(self, cure: _Cure, now_ns: int) -> None:
        backend = cure.backend
        residency = backend.residents.get(cure.runner)
        if residency is None:
            self._cured(cure, now_ns)
            return
        if backend.is_leaving:
            return  # nothing is started there, so nothing needs it unless it is taken back
        is_away = not backend.up and not backend.is_mute  # a frozen model may be why it is mute
        if is_away or backend.health is Health.RESTARTING or now_ns < cure.again_ns:
            return
        if residency.state is _State.RESIDENT:
            residency.move(_Trigger.GATE, now_ns)
        if residency.state is not _State.DRAINING or residency.running:
            return
        if not backend.is_switching:
            residency.move(_Trigger.DRAINED, now_ns)
            self._emit(Unload(backend.name, cure.runner, residency.model, is_cure=True))

    def unload_ended(self, ended: UnloadEnded, now_ns: int) -> None:
        """Of whatever unload. One that failed is tried again; where the server is lost, as soon as
        that is back."""
        cure = self._cures.get((ended.backend, ended.runner))
        if cure is None or ended.error is None or isinstance(ended.error, BackendUnreachable):
            return
        cure.again_ns = now_ns + (AGAIN_NS << min(cure.failed, AGAIN_DOUBLED_MAX))
        cure.failed += 1
        self._timers.set(cure.again_ns, self._wake)
        words = f"{ended.error.message}; it was to leave because {cure.why}"
        self.servers.tell(cure.backend, cure.model, _Step.CURE_FAILED, words)
        self.servers.cure_failed(cure.backend, words, now_ns)

    def _wake(self, _: None, now_ns: int) -> None:
        """For the turn alone: its end takes the next steps."""

    def _cured(self, cure: _Cure, now_ns: int) -> None:
        backend = cure.backend
        del self._cures[backend.name, cure.runner]
        backend.healing.discard(cure.runner)
        words = "it has left the backend, and is loaded again when it is wanted"
        self.servers.tell(backend, cure.model, _Step.CURED, words)
        self._reset(backend, cure.runner, "its runner was cured", now_ns)
        self._note(cure.runner)
        self._on_change(now_ns)

    def back(self, backend: BackendState, now_ns: int) -> None:
        """The backend is back, maybe as another process: what would not leave is told to again at
        once, if it is still there."""
        for cure in self._cures.values():
            if cure.backend is backend:
                cure.again_ns = 0

    # What comes of loads

    def load_ended(self, ended: LoadEnded, now_ns: int) -> None:
        if ended.error is None:
            self.servers.served(self._backends[ended.backend], now_ns)

    def load_failed(
        self, backend: BackendState, model: str, ended: LoadEnded, until_ns: int, now_ns: int
    ) -> None:
        """A load came to nothing, and is not tried before then."""
        if ended.error is None:
            return
        failed = backend.failed_in_row.get(ended.runner, 0)
        wait_s = (until_ns - now_ns) / 1e9
        words = f"{ended.error.message}; failed {failed} times in a row, next try in {wait_s:.0f} s"
        self.servers.tell(backend, model, _Step.SICK, words)
        if isinstance(ended.error, LoadHung):
            self.servers.tell(backend, model, _Step.CURE_FAILED, ended.error.message)
            self.servers.cure_failed(backend, ended.error.message, now_ns)

    # Which are kept

    def forget(self, backend: BackendState) -> None:
        """It is gone for good; another one may have its name."""
        for kept in (self._cures, self._lost, self._lost_ns):
            for key in [each for each in kept if each[0] == backend.name]:
                del kept[key]
        self.servers.forget(backend)

    def tidy(self, backend: BackendState) -> None:
        """It lists other models than before."""
        for key in [each for each in self._lost_ns if each[0] == backend.name]:
            if key[1] not in backend.by_runner:
                del self._lost_ns[key]

    def configure(self, policy: EnginePolicy, now_ns: int) -> None:
        self.servers.configure(policy.healing, now_ns)
        self.silences.configure(policy.healing, policy.time_outs)


def new_healer(
    policy: EnginePolicy,
    backends: Mapping[str, BackendState],
    attempts: Mapping[AttemptId, Attempt],
    lines: Collection[LineKey],
    estimates: Estimates,
    timers: Timers,
    give_up: GiveUp,
    reset: Reset,
    note: Callable[[str], None],
    on_change: Callable[[int], None],
    emit: Callable[[Effect], None],
) -> Healer:
    """A healer with its parts."""
    servers = Servers(policy.healing, backends, timers, emit, on_change)
    silences = Silences(policy.healing, policy.time_outs, attempts, estimates)
    healer = Healer(
        servers, silences, backends, lines, timers, give_up, reset, note, on_change, emit
    )
    servers.on_back = healer.back
    return healer
