"""A model of an Ollama server without I/O: requests in, signals out, each with its moment.

Rules: time is handed in, in nanoseconds of the server's own clock, and never goes back; chance
comes from the seed; nothing is read from the world. The same calls give the same signals. A shell
opens a `Work`, calls `advance` whenever `next_event_ns` is due, and tells when a client leaves.
Sources: reference/OLLAMA.md §3 and §7 and the recordings under tests/data/recorded.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_loader import LoadFaults
from broker.sim.ollama_log import Ledger, LogKind
from broker.sim.ollama_machine import ServerSettings, Sizing, sizing
from broker.sim.ollama_model_request import Request, Stage
from broker.sim.ollama_model_scheduler import Scheduler
from broker.sim.ollama_resident import PsRow, Resident
from broker.sim.ollama_work import (
    CutOff,
    ExchangeId,
    Failed,
    RunnerOptions,
    Signal,
    Work,
    WorkKind,
)

HALF_CLOSED_TEXT = "error reading llama-server response: context canceled"
OOM_TEXT = "an error was encountered while running the model: CUDA error: out of memory"


class OllamaModel:
    """One simulated server.

    `tokens="first_and_last"` makes `Token` 0 and `Finished` the only signals of an answer, at the
    same moments as with "each": for worlds with thousands of requests.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: ServerSettings,
        seed: int = 0,
        *,
        tokens: Literal["each", "first_and_last"] = "each",
    ) -> None:
        self.catalogue = catalogue
        self.settings = settings
        self.terminated = False
        coarse = tokens == "first_and_last"
        self.tells_each_token = not coarse
        self._scheduler = Scheduler(settings, seed=seed, coarse=coarse)
        self._opened = 0
        self._now_ns = 0

    @property
    def ledger(self) -> Ledger:
        """Counters and the log of what was done."""
        return self._scheduler.ledger

    @property
    def now_ns(self) -> int:
        """How far it has come: nothing may be asked of it for a moment before."""
        return self._now_ns

    @property
    def runner_starts(self) -> int:
        return self.ledger.runner_starts

    @property
    def queued(self) -> int:
        """How many places of the loader's queue are taken."""
        return self._scheduler.loader.pending

    @property
    def loads_for(self) -> ExchangeId | None:
        """The exchange for which a runner is being started now: were its client to leave, that
        load would be given up (OLLAMA.md §3.6)."""
        loader = self._scheduler.loader
        return loader.held.id if loader.held is not None and loader.loads(None) else None

    @property
    def loading(self) -> str | None:
        """The model for which a runner is being started now."""
        loader = self._scheduler.loader
        return loader.held.model.name if loader.held and loader.loads(None) else None

    def sizing(self, model: str, options: RunnerOptions) -> Sizing:
        """The runner that a request with these options asks for; KeyError for no such model."""
        found = self.catalogue.find(model)
        if found is None:
            raise KeyError(model)
        return sizing(found, options, self.settings)

    # -- requests ------------------------------------------------------------------------------

    def open(self, work: Work, now_ns: int) -> ExchangeId:
        """Starts an exchange. Refusals, too, come as signals; none comes before `now_ns`."""
        self._run(now_ns)
        self._opened += 1
        exchange = ExchangeId(self._opened)
        scheduler = self._scheduler
        model = self.catalogue.find(work.model)
        if self.terminated:
            scheduler.signals.append(CutOff(exchange=exchange, at_ns=now_ns))
        elif model is None:
            at_ns = now_ns + self.settings.admission_ns
            text = f"model '{work.model.removesuffix(':latest')}' not found"
            unknown = Failed(exchange=exchange, at_ns=at_ns, status=404, text=text)
            scheduler.reminders.at(at_ns, lambda _at: scheduler.signals.append(unknown))
        else:
            asked = sizing(model, work.options, self.settings)
            request = Request(exchange, work, model, asked, now_ns)
            scheduler.open[exchange] = request
            scheduler.reminders.at(
                now_ns + self.settings.admission_ns, partial(scheduler.admit, request)
            )
        return exchange

    def close(self, exchange: ExchangeId, now_ns: int, *, body_unfinished: bool = False) -> None:
        """The client is gone, in one step. Nothing more is said of this exchange.

        `body_unfinished`: it left before the end of its own body, which loses the slot
        (OLLAMA.md §1.1). Closing one that has ended is no harm.
        """
        self._run(now_ns)
        request = self._scheduler.open.get(exchange)
        if request is None:
            return
        quirks = self.settings.quirks
        computing = request.stage is Stage.COMPUTING
        loses = computing and body_unfinished and quirks.leak_slot_on_unfinished_body
        if computing and not loses and request.work.kind is WorkKind.GENERATE:
            loses = self._scheduler.chance.random() < quirks.slot_leak_chance
        self._leave(request, now_ns, lose_slot=loses)

    def half_close(self, exchange: ExchangeId, now_ns: int) -> None:
        """The client shut its sending side. Ollama takes that for leaving: before the first token
        no answer comes, after it an error line (OLLAMA.md §1.1)."""
        self._run(now_ns)
        request = self._scheduler.open.get(exchange)
        quirks = self.settings.quirks
        if request is None or not quirks.silent_on_half_close:
            return
        stalled = any(sequence.stalled for sequence in request.sequences)
        spoke = request.tokens_said > 0
        self._leave(request, now_ns, lose_slot=stalled and quirks.leak_slot_on_slow_reader)
        if spoke:
            self._scheduler.signals.append(
                Failed(exchange=exchange, at_ns=now_ns, status=500, text=HALF_CLOSED_TEXT)
            )

    def stall(self, exchange: ExchangeId, now_ns: int) -> None:
        """The client does not read: its request keeps the slot and gets no further tokens."""
        self._run(now_ns)
        request = self._scheduler.open.get(exchange)
        if request is not None and request.resident is not None:
            for sequence in request.sequences:
                request.resident.runner.stall(sequence, now_ns)

    def resume(self, exchange: ExchangeId, now_ns: int) -> None:
        """The client reads again."""
        self._run(now_ns)
        request = self._scheduler.open.get(exchange)
        if request is not None and request.resident is not None:
            for sequence in request.sequences:
                request.resident.runner.resume(sequence, now_ns)

    # -- time ----------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> list[Signal]:
        """All signals up to now, in order of their moments, each once."""
        self._run(now_ns)
        signals, self._scheduler.signals = self._scheduler.signals, []
        return signals

    def next_event_ns(self) -> int | None:
        """When to call `advance` next; None while nothing will happen by itself."""
        signals = self._scheduler.signals
        return signals[0].at_ns if signals else self._scheduler.reminders.next_ns()

    def ps(self, now_ns: int) -> tuple[PsRow, ...] | int:
        """What /api/ps lists, latest expiry first; or the moment until which it hangs, behind a
        health check, and at which to ask again (OLLAMA.md §3.7)."""
        self._run(now_ns)
        until_ns = self._scheduler.residents.check_end_ns()
        if until_ns is not None and self.settings.quirks.ps_hangs_on_frozen_runner:
            return until_ns
        return self._scheduler.residents.rows(now_ns)

    def is_frozen(self, exchange: ExchangeId) -> bool:
        """Does this exchange compute on a runner that is frozen?"""
        request = self._scheduler.open.get(exchange)
        resident = None if request is None else request.resident
        return resident is not None and resident.runner.frozen_at_ns is not None

    # -- faults --------------------------------------------------------------------------------

    def kill_runner(self, model: str, now_ns: int) -> None:
        """The runner of this model dies, loading or loaded; "" means every runner."""
        self._run(now_ns)
        loader = self._scheduler.loader
        if loader.loads(self._blob_of(model)):
            loader.kill_load(now_ns)
        for resident in self._residents_of(model):
            self._scheduler.crash(resident, now_ns)

    def oom_runner(self, model: str, now_ns: int) -> None:
        """The runner runs out of memory at work: its requests fail, and every loaded model is
        unloaded as soon as it is idle (OLLAMA.md §2)."""
        self._run(now_ns)
        for resident in self._residents_of(model):
            self._scheduler.crash(resident, now_ns, OOM_TEXT)
        for resident in self._scheduler.residents:
            resident.keep_alive_ns = 0
            if resident.idle:
                self._scheduler.unload(resident, now_ns)

    def freeze_runner(self, model: str, now_ns: int) -> None:
        """The runner stops as by SIGSTOP: it says nothing and holds what it holds."""
        self._run(now_ns)
        loader = self._scheduler.loader
        if loader.loads(self._blob_of(model)):
            loader.freeze_load(now_ns)
        for resident in self._residents_of(model):
            resident.runner.freeze(now_ns)

    def thaw_runner(self, model: str, now_ns: int) -> None:
        self._run(now_ns)
        loader = self._scheduler.loader
        if loader.loads(self._blob_of(model)):
            loader.thaw_load(now_ns)
        for resident in self._residents_of(model):
            resident.runner.thaw(now_ns)
            self._scheduler.end_check_early(resident, now_ns)

    def hang_next_load(self, model: str = "") -> None:
        """The next process for this model (of any, if "") will say nothing while it loads."""
        self._scheduler.loader.faults.hangs.append(self._canonical(model))

    def kill_next_load(self, model: str = "") -> None:
        """The next process for this model (of any, if "") is killed half way through its load."""
        self._scheduler.loader.faults.deaths.append(self._canonical(model))

    def fail_load(self, model: str, text: str) -> None:
        """The next load of this model (of any, if "") ends in a 500 with this text."""
        self._scheduler.loader.faults.fails[self._canonical(model)] = text

    def oom_next_load(self, times: int = 1) -> None:
        """The next load runs out of memory: once is cured by a retry, twice is an error."""
        self._scheduler.loader.faults.ooms += times

    def heal_loads(self) -> None:
        """What was to befall coming loads and has not happened yet will not."""
        self._scheduler.loader.faults = LoadFaults()

    def set_pace(self, model: str, pace: float, now_ns: int) -> None:
        """From now on all that this model does, its loads too, takes so many times as long as it
        should; "" means every model. 1 is as it was."""
        self._run(now_ns)
        blob = self._blob_of(model)
        for card in self.catalogue:
            if blob in (None, card.blob):
                self._scheduler.loader.paces[card.blob] = pace
        for resident in self._residents_of(model):
            resident.runner.set_pace(pace, now_ns)

    def terminate(self, now_ns: int) -> None:
        """SIGTERM: every connection breaks at once, without a last chunk."""
        self._run(now_ns)
        self.terminated = True
        scheduler = self._scheduler
        scheduler.reminders.clear()
        for exchange in scheduler.open:
            scheduler.signals.append(CutOff(exchange=exchange, at_ns=now_ns))
        scheduler.open.clear()
        for resident in scheduler.residents:
            scheduler.residents.remove(resident)

    # -- inside --------------------------------------------------------------------------------

    def _run(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise ValueError(f"time goes back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns
        while self._scheduler.reminders.run_one(now_ns):
            pass

    def _leave(self, request: Request, now_ns: int, *, lose_slot: bool) -> None:
        """Ends a request without a word, wherever it stands (OLLAMA.md §3.6)."""
        scheduler, resident, stage = self._scheduler, request.resident, request.stage
        if lose_slot:
            scheduler.ledger.note(LogKind.SLOT_LOST, request.model.name, now_ns, request.id)
        if resident is not None:
            for sequence in request.sequences:
                resident.runner.leave(sequence, now_ns, lose_slot=lose_slot)
        scheduler.end(request, now_ns)
        if scheduler.loader.held is request:
            scheduler.loader.owner_left(now_ns)
        elif stage is Stage.PENDING and not self.settings.quirks.leak_cancelled_queue:
            scheduler.loader.forget(request)
        elif stage is Stage.CHECKING:
            for checked in scheduler.residents:
                if checked.checked_by == request.id:
                    scheduler.end_check_early(checked, now_ns)

    def _canonical(self, model: str) -> str:
        found = self.catalogue.find(model) if model else None
        return model if found is None else found.name

    def _blob_of(self, model: str) -> str | None:
        """The file behind a name; None for "", which means all, "" for a name that is not there."""
        if not model:
            return None
        found = self.catalogue.find(model)
        return "" if found is None else found.blob

    def _residents_of(self, model: str) -> tuple[Resident, ...]:
        blob = self._blob_of(model)
        residents = self._scheduler.residents
        return tuple(r for r in residents if blob in (None, r.model.blob) and not r.runner.dead)
