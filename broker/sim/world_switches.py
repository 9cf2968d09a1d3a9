"""Loads, unloads and renewals on a virtual clock, each ending as runtime/switches.py ends it.

A load whose call failed may have been done all the same: the list of residents decides then. An
unload is answered before it is done: only the list proves it; renewals under way end first, lest
one of them loads the model again. All end within their limits, whatever the server does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from broker.core.effects import AbortLoad, Load, Renew, Unload
from broker.core.errors import BackendUnreachable, BrokerError, LoadFailed, LoadHung
from broker.core.ports import Resident
from broker.core.stimuli import LoadEnded, ResidentsSeen, Stimulus, UnloadEnded
from broker.sim.ollama_work import CutOff, Failed, Finished, RunnerOptions, Signal, Work, WorkKind
from broker.sim.timeline import Timeline
from broker.sim.world_server import Server

GONE_POLL_NS = 50_000_000
LOAD_TIMEOUT_NS = 600_000_000_000
UNLOAD_TIMEOUT_NS = 60_000_000_000
CURE_TIMEOUT_NS = 25_000_000_000

Feed = Callable[[Stimulus], None]


def work_of(kind: WorkKind, model: str, num_ctx: int | None, keep_alive_ns: int) -> Work:
    """An empty prompt: what loads, renews, or (with a keep_alive of 0) unloads."""
    options = RunnerOptions(num_ctx=num_ctx)
    return Work(kind=kind, model=model, options=options, keep_alive_ns=keep_alive_ns)


class Switches:
    """Performs what the engine says of residencies. `keep_alive_ns` is what loads ask for;
    `load_timeout_ns` how long each may take."""

    def __init__(
        self, servers: Mapping[str, Server], timeline: Timeline, feed: Feed, keep_alive_ns: int
    ) -> None:
        self._servers = servers
        self._timeline = timeline
        self._feed = feed
        self._keep_alive_ns = keep_alive_ns
        self.load_timeout_ns = LOAD_TIMEOUT_NS
        self._loading: dict[str, _Loading] = {}  # the last one of each backend
        self._renewals: dict[str, list[Callable[[], None]]] = {}  # what closes each, by backend

    def load(self, effect: Load) -> None:
        server = self._servers[effect.backend]
        work = work_of(WorkKind.LOAD, effect.model, effect.num_ctx, self._keep_alive_ns)
        loading = _Loading(effect, server, work, self._timeline, self._feed)
        self._timeline.after(self.load_timeout_ns, loading.give_up)
        self._loading[effect.backend] = loading

    def abort_load(self, effect: AbortLoad) -> None:
        self._loading[effect.backend].abort()

    def unload(self, effect: Unload) -> None:
        for close in self._renewals.pop(effect.backend, []):
            close()
        _Unloading(effect, self._servers[effect.backend], self._timeline, self._feed).look()

    def renew(self, effect: Renew) -> None:
        """Its end needs no word: the list of residents will tell."""
        work = work_of(WorkKind.LOAD, effect.model, effect.num_ctx, self._keep_alive_ns)
        close = self._servers[effect.backend].open(work, lambda signal: None)
        self._renewals.setdefault(effect.backend, []).append(close)
        self._timeline.after(UNLOAD_TIMEOUT_NS, partial(self._end_renewal, effect.backend, close))

    def _end_renewal(self, backend: str, close: Callable[[], None]) -> None:
        close()
        renewals = self._renewals.get(backend, [])
        if close in renewals:
            renewals.remove(close)


class _Loading:
    """One load from its call to its one LoadEnded."""

    def __init__(
        self, effect: Load, server: Server, work: Work, timeline: Timeline, feed: Feed
    ) -> None:
        self._effect = effect
        self._server = server
        self._timeline = timeline
        self._feed = feed
        self._is_called = False  # the call is over; a look at what it did may go on
        self._is_over = False
        self._error: BrokerError | None = None
        self._close = server.open(work, self._hear)

    def _hear(self, signal: Signal) -> None:
        match signal:
            case Finished():
                self._look(None)
            case Failed():
                self._look(LoadFailed(f"{self._effect.model} was not loaded: {signal.text}"))
            case CutOff():
                self._error = BackendUnreachable(f"{self._effect.backend} was terminated")
                self._end()

    def abort(self) -> None:
        """Closes the call. Its end is heard after this turn, as from a task; where the call had
        returned and only the look is cut short, it ends as the call did."""
        if not self._is_called:
            self._close()
            self._is_called = True
            self._error = LoadFailed(f"the load of {self._effect.model} was interrupted")
        self._timeline.after(0, self._end)

    def give_up(self) -> None:
        """Its time is over."""
        if not self._is_called:
            self._close()
            self._look(LoadHung(f"{self._effect.model} was not loaded in time"))

    def _look(self, error: LoadFailed | None) -> None:
        self._is_called = True
        self._error = error
        self._server.ask_residents(partial(self._looked, self._timeline.now_ns))

    def _looked(self, asked_ns: int, answer: tuple[Resident, ...] | BrokerError) -> None:
        if self._is_over:
            return
        if not isinstance(answer, BrokerError):
            self._feed(ResidentsSeen(self._effect.backend, answer, asked_ns))
            if _Known(self._effect.model).is_among(answer):
                self._error = None
        self._end()

    def _end(self) -> None:
        self._is_called = True
        if not self._is_over:
            self._is_over = True
            self._feed(LoadEnded(self._effect.backend, self._effect.runner, self._error))


class _Unloading:
    """One unload: look, tell it to leave, look until it is gone; then its one UnloadEnded."""

    def __init__(self, effect: Unload, server: Server, timeline: Timeline, feed: Feed) -> None:
        self._effect = effect
        self._server = server
        self._timeline = timeline
        self._feed = feed
        self._known_as = _Known(effect.model)
        self._is_told = False
        self._is_over = False
        self._close: Callable[[], None] | None = None
        limit_ns = CURE_TIMEOUT_NS if effect.is_cure else UNLOAD_TIMEOUT_NS
        timeline.after(limit_ns, self._give_up)

    def look(self) -> None:
        if not self._is_over:
            self._server.ask_residents(partial(self._looked, self._timeline.now_ns))

    def _looked(self, asked_ns: int, answer: tuple[Resident, ...] | BrokerError) -> None:
        if self._is_over:
            return
        if isinstance(answer, BrokerError):
            self._end(answer)
            return
        self._feed(ResidentsSeen(self._effect.backend, answer, asked_ns))
        if not self._known_as.is_among(answer):
            self._end(None)
        elif self._is_told:
            self._timeline.after(GONE_POLL_NS, self.look)
        else:
            self._is_told = True
            work = work_of(WorkKind.UNLOAD, self._effect.model, None, 0)
            self._close = self._server.open(work, self._hear)

    def _hear(self, signal: Signal) -> None:
        match signal:
            case _ if self._is_over:
                return
            case Finished():
                self.look()
            case Failed():
                self._end(LoadFailed(f"{self._effect.model} could not be unloaded: {signal.text}"))
            case CutOff():
                self._end(BackendUnreachable(f"{self._effect.backend} was terminated"))

    def _give_up(self) -> None:
        if not self._is_over:
            if self._close is not None:
                self._close()
            self._end(LoadFailed(f"{self._effect.model} did not leave in time"))

    def _end(self, error: BrokerError | None) -> None:
        self._is_over = True
        self._feed(UnloadEnded(self._effect.backend, self._effect.runner, error))


class _Known:
    """How lists may show a model: under its name, or another one with a digest that it had."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._digests: set[str] = set()

    def is_among(self, residents: tuple[Resident, ...]) -> bool:
        named = {each.digest for each in residents if each.name == self._model}
        self._digests |= named
        return bool(named) or any(each.digest in self._digests for each in residents)
