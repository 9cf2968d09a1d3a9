"""Loads that somebody wishes without a request.

Such a load has a place of its own behind what waits: it takes room that is there, or that of a
model which is ours, idle and wanted by nobody, and it obeys whatever keeps requests from a backend.
Where it never can be, it is refused at once, in words; where it cannot yet, it waits to its
deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.barriers import Bar, barrier
from broker.core.effects import AbortLoad, Effect, WishEnded
from broker.core.errors import (
    BackendRefused,
    BrokerError,
    CircuitOpen,
    LoadFailed,
    NoBackend,
    NoRoom,
    SmallModelsOnly,
    TimedOut,
)
from broker.core.estimates import Estimates
from broker.core.meant import Meant
from broker.core.model_name import comparison_key
from broker.core.offers import Offers
from broker.core.placement import (
    BackendState,
    has_room,
    may_get_room,
    may_leave,
    movable,
)
from broker.core.placement_rule import least_leaving
from broker.core.queueing import Line, LineKey
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import LoadAsked, LoadEnded
from broker.core.switching import Switching
from broker.core.targets import NO_BACKEND_RETRY_NS
from broker.core.time_outs import Phase
from broker.core.timers import Timers

# What was loaded on one wish does not make way for the next before somebody could have used it.
WISHED_KEEP_NS: Final = 10_000_000_000

_State = ResidencyState


@dataclass(slots=True)
class _Load:
    """`at` is the backend that loads it, once one does, and `coming` what it loads; `room_at` the
    one where something leaves for it."""

    asked: LoadAsked
    timer: int
    at: str = ""
    coming: Residency | None = None
    room_at: str = ""
    why: str = "nothing was tried yet"


class WishedLoads:
    """See the module. `meant` finds what a wish means; `emit` takes effects."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        meant: Meant,
        lines: Mapping[LineKey, Line],
        switching: Switching,
        offers: Offers,
        estimates: Estimates,
        timers: Timers,
        emit: Callable[[Effect], None],
    ) -> None:
        self._backends = backends
        self._meant = meant
        self._lines = lines
        self._switching = switching
        self._offers = offers
        self._estimates = estimates
        self._timers = timers
        self._emit = emit
        self._open: dict[int, _Load] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, asked: LoadAsked) -> None:
        """It is looked at when the turn settles."""
        timer = self._timers.set(asked.until_ns, self._late, asked.wish)
        self._open[asked.wish] = _Load(asked, timer)

    def withdraw(self, wish: int) -> None:
        """Nobody waits for it: a load that is under way is like any other from now on."""
        load = self._open.pop(wish, None)
        if load is not None:
            self._timers.cancel(load.timer)
            self._let_be(load.coming)

    def settle(self, now_ns: int) -> None:
        for load in list(self._open.values()):
            self._step(load, now_ns)

    def ended(self, ended: LoadEnded) -> None:
        """A load that failed ends the wishes for it; one that did not is seen when they settle."""
        for load in list(self._open.values()):
            if load.at != ended.backend or load.coming is None or ended.error is None:
                continue
            if load.coming.runner == ended.runner:
                self._end(load, ended.error)

    def refuse_all(self, error: BrokerError) -> None:
        for load in list(self._open.values()):
            self._end(load, error)

    def _step(self, load: _Load, now_ns: int) -> None:
        asked = load.asked
        missing = self._meant.missing(asked.model, asked.backend)
        if missing is not None:
            self._end(load, missing)
            return
        candidates = [
            (backend, backend.models[comparison_key(asked.model)].runner)
            for backend in self._meant.backends(asked.backend)
            if comparison_key(asked.model) in backend.models
        ]
        for backend, runner in candidates:
            residency = backend.residents.get(runner)
            is_there = residency is not None and residency.state is _State.RESIDENT
            if residency is not None and is_there and backend.takes(runner):
                residency.wished_ns = now_ns
                load_ns = residency.loaded_ns - residency.load_started_ns if load.at else 0
                self._end(load, None, backend.name, load_ns)
                return
        if not any(self._is_loading(load, backend, runner) for backend, runner in candidates):
            self._try(load, candidates, now_ns)

    def _is_loading(self, load: _Load, backend: BackendState, runner: str) -> bool:
        """Is it being loaded there, for whomever? Then that is what is waited for."""
        residency = backend.residents.get(runner)
        if residency is None or residency.state is not _State.LOADING or residency.is_aborting:
            return False
        self._comes(load, backend, residency)
        return True

    def _comes(self, load: _Load, backend: BackendState, residency: Residency) -> None:
        """From now on this load is what is waited for."""
        before, load.at, load.coming = load.coming, backend.name, residency
        if before is not None and before is not residency:
            self._let_be(before)
        load.why = f"it is being loaded on {backend.name}"
        residency.is_wished = True
        residency.is_ahead_of_need = False  # if it was: it is needed now

    def _try(
        self, load: _Load, candidates: Iterable[tuple[BackendState, str]], now_ns: int
    ) -> None:
        """Loads it where that takes least time, or has something leave for it."""
        errors = list[BrokerError]()
        ready = list[tuple[BackendState, str]]()
        for backend, runner in candidates:
            error = self._why_never(load, backend, runner, now_ns)
            if error is None:
                ready.append((backend, runner))
            else:
                errors.append(error)
        if not ready:
            self._end(load, errors[0])
            return
        if any(backend.name == load.room_at for backend, _ in ready):
            ready = [each for each in ready if each[0].name == load.room_at]
        ready.sort(key=lambda each: self._estimates.load_ns_on(each[0].name, each[1]) or 0.0)
        for backend, runner in ready:
            if not self._is_free(backend, runner, now_ns):
                load.why = f"{backend.name} is busy with other loads, or is being cured"
            elif has_room(backend, runner):
                residency = self._switching.load_unasked(backend, runner, now_ns)
                self._comes(load, backend, residency)
                return
            elif self._make_room(backend, runner, now_ns):
                load.room_at = backend.name
                load.why = f"another model leaves {backend.name} for it"
                return
            else:
                load.room_at = ""
                load.why = f"the models on {backend.name} have work, and there is no room beside"
        if any(self._ends_guess(backend) for backend, _ in ready):
            load.why = "a load ahead of need is ended for it"

    def _why_never(
        self, load: _Load, backend: BackendState, runner: str, now_ns: int
    ) -> BrokerError | None:
        """What keeps it from being loaded there, where waiting a little would not help."""
        model, name = load.asked.model, backend.name
        if not self._offers.lets_answer(runner):
            return SmallModelsOnly(
                f"the level is {self._offers.level.word}: until it falls only small models are "
                f"loaded, and {model} is not one"
            )
        if backend.policy.keeps_models and runner not in backend.residents:
            return BackendRefused(f"{name} keeps its models: none can be loaded", status=405)
        found = barrier(backend, runner, now_ns)
        if found is not None:
            wait_ns = int(found.wait_ns) if 0.0 < found.wait_ns < float("inf") else None
            if found.kind is Bar.AWAY:
                words = f"{name} does not answer: {backend.problem}"
                return NoBackend(words, retry_after_ns=NO_BACKEND_RETRY_NS)
            if found.kind is Bar.CLOSED:
                words = f"an operator drains {name}"
                return NoBackend(words, retry_after_ns=NO_BACKEND_RETRY_NS)
            if found.kind is Bar.BROKEN:
                words = f"calls of {model} on {name} have failed too often lately"
                return CircuitOpen(words, retry_after_ns=wait_ns)
            if found.kind is Bar.SICK:
                because = backend.held_because.get(runner, "its load has failed")
                return LoadFailed(because, retry_after_ns=wait_ns)
            if found.kind is Bar.WEDGED and wait_ns is not None:
                words = f"{name} loads nothing: {backend.evidence}"
                return LoadFailed(words, retry_after_ns=wait_ns)
        if not may_get_room(backend, runner) and runner not in backend.residents:
            return NoRoom(f"{model} does not fit on {name} beside what others have loaded there")
        return None

    def _is_free(self, backend: BackendState, runner: str, now_ns: int) -> bool:
        """Is nothing else under way there, nor the runner itself about to leave or to be cured?"""
        is_quiet = not backend.is_switching and not backend.draining() and not backend.promised
        is_sound = not backend.ahead_of and not backend.is_curing
        is_absent = runner not in backend.residents
        return is_quiet and is_sound and is_absent and barrier(backend, runner, now_ns) is None

    def _ends_guess(self, backend: BackendState) -> bool:
        """Is what is loaded there told to end, as that is a guess at what will be asked for? Not
        what somebody wants by now."""
        for each in backend.residents.values():
            is_guess = each.state is _State.LOADING and each.is_ahead_of_need
            if is_guess and not any(key[0] == each.runner for key in self._lines):
                if not each.is_aborting:
                    each.is_aborting = True
                    self._emit(AbortLoad(backend.name, each.runner))
                return True
        return False

    def _make_room(self, backend: BackendState, runner: str, now_ns: int) -> bool:
        """Has one leave of those that are ours, idle, and wanted by nothing that waits: of as few
        as are enough, those used longest ago. False where all would not be enough."""
        idle = [
            each
            for each in movable(backend, "")
            if not each.running and may_leave(each, self._lines) and not _is_new(each, now_ns)
        ]
        idle.sort(key=lambda each: (each.used_ns, each.runner))
        leaving = least_leaving(backend, runner, idle)
        if leaving:
            self._switching.let_go(backend, leaving[0], now_ns)
        return bool(leaving)

    def _late(self, wish: int, now_ns: int) -> None:
        load = self._open.get(wish)
        if load is None:
            return
        model = load.asked.model
        if load.at:
            words = f"{model} was not loaded in time: {load.why}"
            self._end(load, TimedOut(words, Phase.LOAD))
        else:
            self._end(load, NoRoom(f"{model} could not be loaded in time: {load.why}"))

    def _end(
        self, load: _Load, error: BrokerError | None, backend: str = "", load_ns: int = 0
    ) -> None:
        del self._open[load.asked.wish]
        self._timers.cancel(load.timer)
        self._let_be(load.coming)
        backends = (backend,) if backend else ()
        self._emit(WishEnded(load.asked.wish, error, backends, max(0, load_ns)))

    def _let_be(self, coming: Residency | None) -> None:
        """It is wished for by one less."""
        if coming is not None:
            coming.is_wished = any(each.coming is coming for each in self._open.values())


def _is_new(residency: Residency, now_ns: int) -> bool:
    """Was it loaded for another wish just now?"""
    at_ns = residency.wished_ns
    return at_ns is not None and now_ns - at_ns < WISHED_KEEP_NS
