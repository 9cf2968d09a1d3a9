"""The model of an Ollama on a real event loop: its clock, its timer, and who hears its signals.

Rules: one timer, set for the model's next event; everything that is due is taken in one turn and
then delivered once per exchange, so that many streams cost one wake-up. Model time is real time
times `speed`. The pump is the only caller of the model.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_exchange import Exchange
from broker.sim.ollama_faults import Fault, FaultKind, FaultPlan
from broker.sim.ollama_machine import ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import ExchangeId, Work

# A fault may raise new signals while others are handed out; more rounds than this in one turn
# would be a model that never comes to rest.
ROUNDS_MAX: Final = 10_000
# uvloop rounds a timer to whole milliseconds, down as well as up: a shorter wait would spin.
GRAIN_S: Final = 0.001


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
    ) -> None:
        self.catalogue = catalogue
        self.settings = settings
        self.seed = seed
        self.clock = clock
        self.faults = FaultPlan(seed)
        self._loop = loop
        self._model = OllamaModel(catalogue, settings, seed)
        self._live: dict[ExchangeId, Live] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._turn_is_due = False

    @property
    def model(self) -> OllamaModel:
        return self._model

    @property
    def active(self) -> int:
        return len(self._live)

    def open(self, work: Work, exchange: Exchange, deliver: Callable[[], None]) -> ExchangeId:
        """Starts a piece of work; `deliver` is called after each turn that had news of it."""
        now_ns = self.clock.now_ns()
        identity = self._model.open(work, now_ns)
        self._live[identity] = Live(exchange=exchange, deliver=deliver)
        self.wake()
        return identity

    def close(self, identity: ExchangeId) -> None:
        """The client left, or has its whole answer. Closing twice does nothing."""
        if self._live.pop(identity, None) is not None:
            self._model.close(identity, self.clock.now_ns())
            self.wake()

    def strike(self, fault: Fault) -> None:
        """Does to the machine what a fault says."""
        model, now_ns, name = self._model, self.clock.now_ns(), fault.model or ""
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
                model.oom_next_load()
            case _:
                self.faults.add(fault)
        self.wake()

    def reset(self) -> None:
        """A new machine: nothing resident, nothing queued, no faults; all connections break."""
        broken = list(self._live.values())
        self._live.clear()
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

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        self._turn_is_due = False
        touched: dict[ExchangeId, Live] = {}
        for _ in range(ROUNDS_MAX):
            signals = self._model.advance(self.clock.now_ns())
            if not signals:
                break
            for signal in signals:
                live = self._live.get(signal.exchange)
                if live is not None:
                    live.exchange.on(signal)
                    touched[signal.exchange] = live
        for live in touched.values():
            live.deliver()
        self._set_timer()

    def _set_timer(self) -> None:
        self.stop()
        next_ns = self._model.next_event_ns()
        if next_ns is not None:
            grains = math.ceil(self.clock.real_seconds(next_ns - self.clock.now_ns()) / GRAIN_S)
            self._timer = self._loop.call_later(max(0, grains) * GRAIN_S, self._turn)
