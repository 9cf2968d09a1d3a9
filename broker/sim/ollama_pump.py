"""The model of an Ollama on a real event loop: its clock, its timer, and who hears its signals.

Rules: one timer, set for the model's next event; everything that is due is taken in one turn and
then delivered once per exchange, so that many streams cost one wake-up. Model time is real time
times `speed`. The pump is the only caller of the model.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_exchange import Exchange
from broker.sim.ollama_faults import Fault, FaultKind, FaultPlan
from broker.sim.ollama_gojson import Json
from broker.sim.ollama_machine import ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_registry import Registry
from broker.sim.ollama_resident import PsRow
from broker.sim.ollama_work import ExchangeId, Work, WorkKind

# A fault may raise new signals while others are handed out; more rounds than this in one turn
# would be a model that never comes to rest.
ROUNDS_MAX: Final = 10_000
# uvloop rounds a timer to whole milliseconds, down as well as up: a shorter wait would spin.
GRAIN_S: Final = 0.001
OOM_ATTEMPTS: Final = 2  # Ollama tries a load that ran out of memory once more


@dataclass(slots=True, kw_only=True)
class Live:
    """An exchange that the model still works for, and what to call when it has news."""

    exchange: Exchange
    deliver: Callable[[], None]


class Clock:
    """Nanoseconds of the server's own clock, which runs `speed` times as fast as ours."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._started_ns = time.monotonic_ns()
        self._wall_ns = time.time_ns()

    def now_ns(self) -> int:
        return int((time.monotonic_ns() - self._started_ns) * self.speed)

    def wall_ns(self, now_ns: int) -> int:
        """The date, as nanoseconds since 1970, at a moment of this clock."""
        return self._wall_ns + now_ns

    def real_seconds(self, length_ns: int) -> float:
        return length_ns / self.speed / 1e9


class Pump:
    """Drives one `OllamaModel` and hands its signals to the exchanges they belong to."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: ServerSettings,
        *,
        seed: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        registry: Registry | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.registry = Registry(catalogue) if registry is None else registry
        self.settings = settings
        self.seed = seed
        self.clock = clock
        self.faults = FaultPlan(seed)
        self._loop = loop
        self._cards = tuple(catalogue)  # as they were before any fault
        self._turned: asyncio.Future[None] | None = None
        self._model = OllamaModel(catalogue, settings, seed)
        self._listed: dict[str, PsRow] = {}  # of each model, as it was when it was last there
        self._live: dict[ExchangeId, Live] = {}
        self._armed: set[ExchangeId] = set()  # exchanges that a fault waits in
        self._stalled: set[ExchangeId] = set()  # exchanges whose client does not read
        self._moment_ns: int | None = None  # the model's time while signals are handed out
        self._timer: asyncio.TimerHandle | None = None
        self._turn_is_due = False

    @property
    def active(self) -> int:
        """How many requests are open."""
        return len(self._live)

    def state(self) -> dict[str, Json]:
        """A snapshot for /sim/state; `resident` is null while /api/ps hangs."""
        model, now_ns = self._model, self.clock.now_ns()
        listed = model.ps(now_ns)
        names: Json = None if isinstance(listed, int) else [row.name for row in listed]
        loads: dict[str, Json] = dict(sorted(model.ledger.loads_by_model.items()))
        return {
            "now_ns": now_ns,
            "speed": self.clock.speed,
            "active": self.active,
            "stalled": len(self._stalled),
            "queue": model.queued,
            "resident": names,
            "runner_starts": model.runner_starts,
            "loading": model.loading,
            "loading_ns": model.ledger.loading_ns(now_ns),
            "loads": loads,
            "pulls": self.registry.pulls_started,
            "files_pulled": self.registry.files_started,
            "files_coming": self.registry.files_coming,
        }

    async def residents(self) -> tuple[PsRow, ...]:
        """What ps lists, once the server is able to say it (OLLAMA.md §3.7: up to 20 s); what it
        was told to lie of, otherwise than it is."""
        while isinstance(listed := self._model.ps(self.clock.now_ns()), int):
            if self._turned is None:
                self._turned = self._loop.create_future()
            await asyncio.shield(self._turned)
        self._listed.update((row.name, row) for row in listed)
        there = {row.name for row in listed}
        hides, lingers = frozenset({FaultKind.HIDE}), frozenset({FaultKind.LINGER})
        gone = [row for name, row in self._listed.items() if name not in there]
        shown = [row for row in listed if not self.faults.take(hides, row.name)]
        return (*shown, *(row for row in gone if self.faults.take(lingers, row.name)))

    def open(self, work: Work, exchange: Exchange, deliver: Callable[[], None]) -> ExchangeId:
        """Starts a piece of work; `deliver` is called after each turn that had news of it."""
        now_ns = self.clock.now_ns()
        identity = self._model.open(work, now_ns)
        self._live[identity] = Live(exchange=exchange, deliver=deliver)
        if exchange.is_armed:
            self._armed.add(identity)
        self.wake()
        return identity

    def close(self, identity: ExchangeId) -> None:
        """The client left, or has its whole answer. Closing twice does nothing."""
        self._armed.discard(identity)
        self._stalled.discard(identity)
        if self._live.pop(identity, None) is not None:
            self._model.close(identity, self.clock.now_ns())
            self.wake()

    def stall(self, identity: ExchangeId, *, stalled: bool) -> None:
        """The client does not read, or reads again; meanwhile it keeps its slot."""
        if identity in self._live:
            act = self._model.stall if stalled else self._model.resume
            act(identity, self.clock.now_ns())
            (self._stalled.add if stalled else self._stalled.discard)(identity)
            self.wake()

    def strike(self, fault: Fault) -> None:
        """Does to the machine what a fault says."""
        model, name = self._model, fault.model or ""
        now_ns = self.clock.now_ns() if self._moment_ns is None else self._moment_ns
        match fault.kind:
            case FaultKind.DIE_MID_STREAM | FaultKind.DIE_BEFORE_FIRST:
                model.kill_runner(name, now_ns)
            case FaultKind.FREEZE:
                model.freeze_runner(name, now_ns)
            case FaultKind.THAW:
                model.thaw_runner(name, now_ns)
            case FaultKind.HANG_LOAD:
                model.hang_next_load(name)
            case FaultKind.FAIL_LOAD:
                model.fail_load(name, fault.text)
            case FaultKind.OOM_LOAD:
                model.oom_next_load(OOM_ATTEMPTS)
            case FaultKind.DIE_MID_LOAD:
                model.kill_next_load(name)
            case FaultKind.EVICT:
                model.open(Work(kind=WorkKind.UNLOAD, model=name, keep_alive_ns=0), now_ns)
            case FaultKind.DELETE:
                self.catalogue.remove(name)
            case FaultKind.WRONG_DIGEST:
                self._replace_file(name)
            case FaultKind.SLOW:
                model.set_pace(name, fault.factor, now_ns)
            case _:
                raise ValueError(f"{fault.kind.value} strikes an answer, not the machine")
        self.wake()

    def _replace_file(self, name: str) -> None:
        """As a pull does: what is loaded keeps the digest that it had."""
        card = self.catalogue.find(name)
        if card is not None:
            other = hashlib.sha256(card.digest.encode()).hexdigest()
            self.catalogue.put(replace(card, digest=other))

    def reset(self) -> None:
        """A new machine: nothing resident, nothing queued, no faults; all connections break."""
        broken = list(self._live.values())
        self._live.clear()
        self._armed.clear()
        self._stalled.clear()
        self._listed.clear()
        for name in [card.name for card in self.catalogue]:
            self.catalogue.remove(name)
        for card in self._cards:
            self.catalogue.put(card)
        self.clock = Clock(self.clock.speed)
        self.registry = Registry(self.registry.models, bytes_per_s=self.registry.bytes_per_s)
        self._model = OllamaModel(self.catalogue, self.settings, self.seed)
        self.faults = FaultPlan(self.seed)
        for live in broken:
            live.exchange.cut()
            live.deliver()
        self.wake()

    def wake(self) -> None:
        """Asks for a turn as soon as the loop is free; many asks make one turn."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def terminate(self) -> None:
        """The server is told to end: every open answer breaks off (80_server_terminated)."""
        self._model.terminate(self.clock.now_ns())
        self._turn()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        self._turn_is_due = False
        turned, self._turned = self._turned, None
        touched: dict[ExchangeId, Live] = {}
        for _ in range(ROUNDS_MAX):
            self._moment_ns = self._next_moment_ns()
            signals = self._model.advance(self._moment_ns)
            if not signals and not self._is_due():
                break
            for signal in signals:
                live = self._live.get(signal.exchange)
                if live is not None:
                    live.exchange.on(signal)
                    touched[signal.exchange] = live
        self._moment_ns = None
        for live in touched.values():
            live.deliver()
        if turned is not None:
            turned.set_result(None)
        self._set_timer()

    def _next_moment_ns(self) -> int:
        """How far to go in one step: to now, but event by event while a fault waits for one."""
        now_ns = self.clock.now_ns()
        due_ns = self._model.next_event_ns() if self._armed else None
        if due_ns is None:
            return now_ns
        # What a call that came meanwhile has brought about already is of the past.
        return min(now_ns, max(due_ns, self._model.now_ns))

    def _is_due(self) -> bool:
        due_ns = self._model.next_event_ns()
        return due_ns is not None and due_ns <= self.clock.now_ns()

    def _set_timer(self) -> None:
        self._stop_timer()
        next_ns = self._model.next_event_ns()
        if next_ns is not None:
            grains = math.ceil(self.clock.real_seconds(next_ns - self.clock.now_ns()) / GRAIN_S)
            self._timer = self._loop.call_later(max(0, grains) * GRAIN_S, self._turn)
