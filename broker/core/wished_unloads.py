"""Unloads that somebody wishes: the gate is shut, what runs ends, the model leaves, proven gone.

Whoever comes meanwhile waits, and may have it loaded again afterwards. What is not the broker's is
not unloaded. A model that does not come to rest in time serves on, and whoever asked hears so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.core.effects import Effect, WishEnded
from broker.core.errors import BackendRefused, BrokerError, LoadFailed, ModelInUse
from broker.core.healing import Health
from broker.core.meant import Meant
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import UnloadAsked, UnloadEnded
from broker.core.switching import Switching
from broker.core.timers import Timers

_State = ResidencyState


@dataclass(slots=True)
class _Leaving:
    """One runner on one backend that is to leave."""

    backend: str
    residency: Residency
    is_gated: bool = False


@dataclass(slots=True)
class _Unload:
    asked: UnloadAsked
    timer: int
    leaving: list[_Leaving] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Hold:
    """Runners by their backends that are not loaded before a moment."""

    until_ns: int
    places: tuple[tuple[str, str], ...]


_NO_HOLD: Final = _Hold(0, ())


class WishedUnloads:
    """See the module. `meant` finds what a wish means; `hold` keeps a runner from being loaded
    until a moment; `emit` takes effects; `note` hears of runners for which what waits may stand
    elsewhere now."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        meant: Meant,
        switching: Switching,
        timers: Timers,
        hold: Callable[[BackendState, str, str, int], None],
        emit: Callable[[Effect], None],
        note: Callable[[str], None],
    ) -> None:
        self._backends = backends
        self._meant = meant
        self._switching = switching
        self._timers = timers
        self._hold = hold
        self._emit = emit
        self._note = note
        self._open: dict[int, _Unload] = {}
        self._holds: dict[int, _Hold] = {}  # by wish, be it open or answered
        self._has_opened = False

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, asked: UnloadAsked, now_ns: int) -> None:
        """Whatever of it is there and ours is to leave; nothing does where some is not ours."""
        found, strangers = self._there(asked)
        error: BrokerError | None = None
        if strangers:
            error = ModelInUse(
                f"{asked.model} was loaded on {', '.join(strangers)} by somebody else: what is not "
                f"the broker's it does not unload, unless backends.exclusive says that all is"
            )
        elif not found:
            error = self._meant.missing(asked.model, asked.backend) or self._kept(asked)
        if error is not None:
            self._emit(WishEnded(asked.wish, error))
            return
        timer = self._timers.set(asked.until_ns, self._late, asked.wish)
        self._open[asked.wish] = _Unload(asked, timer, found)
        for wish in [of for of, each in self._holds.items() if each.until_ns <= now_ns]:
            del self._holds[wish]  # its time is over
        if asked.hold_until_ns > now_ns:
            self._hold_off(asked)

    def _kept(self, asked: UnloadAsked) -> BackendRefused | None:
        """Where it is only on backends that keep their models."""
        key = comparison_key(asked.model)
        having = [each for each in self._meant.backends(asked.backend) if key in each.models]
        if any(not each.policy.keeps_models for each in having):
            return None
        names = ", ".join(each.name for each in having)
        return BackendRefused(f"{names} keeps its models: none can be unloaded", status=405)

    def withdraw(self, wish: int, now_ns: int) -> None:
        """Nobody waits for it: what has not drained yet stays. What has left and is held away may
        come again."""
        unload = self._open.pop(wish, None)
        if unload is not None:
            self._timers.cancel(unload.timer)
            self._let_stay(unload, now_ns)
        self._release(wish, now_ns)

    def settle(self, now_ns: int) -> bool:
        """One step of each. True where a gate was opened: what waits for it may start now."""
        self._has_opened = False
        for unload in list(self._open.values()):
            if unload.asked.wish in self._open:
                self._step(unload, now_ns)
        return self._has_opened

    def ended(self, ended: UnloadEnded, now_ns: int) -> None:
        """What would not leave ends the wishes that it does."""
        if ended.error is None:
            return
        for unload in list(self._open.values()):
            if any(
                each.backend == ended.backend and each.residency.runner == ended.runner
                for each in unload.leaving
            ):
                self._end(unload, LoadFailed(ended.error.message), now_ns)
        backend = self._backends.get(ended.backend)
        residency = None if backend is None else backend.residents.get(ended.runner)
        if residency is not None:
            residency.is_dismissed = False

    def refuse_all(self, error: BrokerError, now_ns: int) -> None:
        for unload in list(self._open.values()):
            self._end(unload, error, now_ns)

    def _there(self, asked: UnloadAsked) -> tuple[list[_Leaving], list[str]]:
        """What is there of it that is ours, and the backends where it is somebody else's."""
        key = comparison_key(asked.model)
        found, strangers = list[_Leaving](), list[str]()
        for backend in self._meant.backends(asked.backend):
            spec = backend.models.get(key)
            if backend.policy.keeps_models:
                continue
            for residency in backend.residents.values():
                is_meant = comparison_key(residency.model) == key
                if not is_meant and (spec is None or spec.runner != residency.runner):
                    continue
                if residency.managed:
                    found.append(_Leaving(backend.name, residency))
                else:
                    strangers.append(backend.name)
        return found, strangers

    def _step(self, unload: _Unload, now_ns: int) -> None:
        for each in list(unload.leaving):
            backend = self._backends.get(each.backend)
            runner = each.residency.runner
            if backend is None or backend.residents.get(runner) is not each.residency:
                unload.leaving.remove(each)
                unload.gone.append(each.backend)
                continue
            problem = self._step_leaving(backend, each, now_ns)
            if problem:
                self._end(unload, ModelInUse(problem), now_ns)
                return
        if not unload.leaving:
            self._end(unload, None, now_ns)

    def _step_leaving(self, backend: BackendState, each: _Leaving, now_ns: int) -> str:
        """One step of one that is to leave; why it does not, "" where it still may."""
        residency = each.residency
        if residency.runner in backend.healing:
            return ""  # it leaves by itself, for its cure
        if backend.health is Health.RESTARTING:
            return ""  # whether it leaves with its server is seen when that is over
        if residency.state is _State.RESIDENT:
            if each.is_gated:
                return f"{residency.model} on {backend.name} did not come to rest: it serves on"
            if not residency.managed:
                return f"{residency.model} on {backend.name} is not the broker's any more"
            residency.is_dismissed = each.is_gated = True
            self._switching.dismiss(backend, residency, now_ns)
            self._note(residency.runner)
        elif residency.state is _State.DRAINING:
            residency.is_dismissed = each.is_gated = True
            self._switching.finish_drain(backend, residency, now_ns)
        elif residency.state is not _State.LOADING:
            each.is_gated = True
        return ""

    def _late(self, wish: int, now_ns: int) -> None:
        unload = self._open.get(wish)
        if unload is not None:
            names = ", ".join(each.backend for each in unload.leaving)
            words = f"{unload.asked.model} did not leave {names} in time: it still works there"
            self._end(unload, ModelInUse(words), now_ns)

    def _end(self, unload: _Unload, error: BrokerError | None, now_ns: int) -> None:
        asked = unload.asked
        del self._open[asked.wish]
        self._timers.cancel(unload.timer)
        self._let_stay(unload, now_ns)
        if error is not None:
            self._release(asked.wish, now_ns)
        backends = tuple(dict.fromkeys(unload.gone)) if error is None else ()
        self._emit(WishEnded(asked.wish, error, backends))

    def _hold_off(self, asked: UnloadAsked) -> None:
        """What is to be deleted is not loaded again before it is: from now on, as it may be wanted
        in the very turn in which it leaves."""
        places = list[tuple[str, str]]()
        for backend in self._meant.backends(asked.backend):
            spec = backend.models.get(comparison_key(asked.model))
            if spec is None:
                continue
            places.append((backend.name, spec.runner))
            if not backend.holds_off(spec.runner, asked.hold_until_ns):
                words = f"{spec.name} is about to be deleted"
                self._hold(backend, spec.runner, words, asked.hold_until_ns)
        self._holds[asked.wish] = _Hold(asked.hold_until_ns, tuple(places))

    def _release(self, wish: int, now_ns: int) -> None:
        """It stays, or nobody deletes it any more; whatever it is called by now. What another wish
        holds away as well stays away for that."""
        hold = self._holds.pop(wish, _NO_HOLD)
        for place in hold.places:
            backend, runner = self._backends.get(place[0]), place[1]
            if backend is None or backend.held_until_ns.get(runner) != hold.until_ns:
                continue
            others = (each.until_ns for each in self._holds.values() if place in each.places)
            until_ns = max(others, default=now_ns)
            self._hold(backend, runner, backend.held_because.get(runner, ""), until_ns)

    def _let_stay(self, unload: _Unload, now_ns: int) -> None:
        """What has not drained yet serves on, unless another wants it to leave."""
        others = [each.residency for other in self._open.values() for each in other.leaving]
        for each in unload.leaving:
            residency = each.residency
            if not residency.is_dismissed or any(residency is other for other in others):
                continue
            residency.is_dismissed = False
            backend = self._backends.get(each.backend)
            is_cured = backend is not None and residency.runner in backend.healing
            if residency.state is _State.DRAINING and not is_cured:
                self._switching.stay(residency, now_ns)
                self._has_opened = True
                self._note(residency.runner)
