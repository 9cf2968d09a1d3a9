"""What happens to a request inside a simulated Ollama, from its arrival to its last signal.

Rules: a request for a loaded runner that suits it goes there directly, round the loader's queue;
every other one is offered to the loader. A runner is used by the requests that were handed it and
not yet ended; when the last one ends, its keep-alive begins. A runner that does not answer its
health check holds a lock meanwhile, behind which unloads, further requests and ps wait.
Sources: reference/OLLAMA.md §1.3, §1.5, §2, §3.1 to §3.7, §6.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Final

from broker.sim.ollama_loader import Loader
from broker.sim.ollama_log import Ledger, LogKind
from broker.sim.ollama_machine import (
    KEEP_FOREVER_NS,
    ServerSettings,
    gpu_share,
    needs_reload,
    resident_bytes,
    speed_share,
)
from broker.sim.ollama_model_card import BrokenFile
from broker.sim.ollama_model_request import Request, Stage
from broker.sim.ollama_reminders import Reminders
from broker.sim.ollama_resident import Resident, Residents, keep_alive_of
from broker.sim.ollama_runner import Runner, Sequence
from broker.sim.ollama_runner_apart import RunnerApart
from broker.sim.ollama_work import (
    ExchangeId,
    Failed,
    Finished,
    HandedOver,
    Signal,
    SlotTaken,
    Token,
    WorkKind,
)

BUSY_TEXT: Final = "server busy, please try again.  maximum pending requests exceeded"
NO_EMBEDDINGS_TEXT: Final = "This server does not support embeddings. Start it with `--embeddings`"
EOF_TEXT: Final = "an error was encountered while running the model: unexpected EOF"
STOPPED_TEXT: Final = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an "
    "internal error, check ollama server logs for details"
)
GONE_TEXT: Final = "llama-server process no longer running: unknown"
# llama-server's own clock does not run while there is nothing to time: 1 µs for one token.
_ONE_TOKEN_EVAL_NS: Final = 1000
_PORTS: Final = (32_768, 60_999)


class Scheduler:
    """The requests of one server. The loader and the runners call back into it."""

    def __init__(self, settings: ServerSettings, *, seed: int, coarse: bool) -> None:
        self.signals: list[Signal] = []
        self.reminders = Reminders()
        self.residents = Residents()
        self.ledger = Ledger(settings.log_entries_max)
        self.open: dict[ExchangeId, Request] = {}
        self.chance = Random(seed)
        self.loader = Loader(settings, self.residents, self.reminders, self.ledger, self)
        self._settings = settings
        self._coarse = coarse

    # -- arrival -------------------------------------------------------------------------------

    def admit(self, request: Request, at_ns: int) -> None:
        """The server has read the request and decides what to do with it."""
        if request.ended:
            return
        if request.work.kind is WorkKind.UNLOAD:
            self._unload_on_request(request, at_ns)
        elif request.model.broken is BrokenFile.MISSING:
            name = request.model.name.removesuffix(":latest")
            text = f'model "{name}" not found, try pulling it first'
            self.fail(request, 404, text, at_ns)
        else:
            self._fast_path(request, at_ns)

    def _fast_path(self, request: Request, at_ns: int) -> None:
        resident = self.residents.of(request.model.blob)
        if resident is None:
            self._offer(request, at_ns)
        elif resident.check is not None:
            self._wait_behind_check(request, resident)
        elif self._refuses(resident, request):
            self._offer(request, at_ns)
        elif resident.silent:
            if request.stage is Stage.ARRIVING:
                request.move(Stage.CHECKING)
            self.start_check(resident, request, at_ns)
        else:
            self.hand_over(request, resident, at_ns)

    def _refuses(self, resident: Resident, request: Request) -> bool:
        """Whether this runner is of no use to the request, so that the loader must see to it."""
        if resident.runner.dead or needs_reload(resident.size, request.asked):
            return True
        return resident.victim and not self._settings.quirks.resurrect_victim

    def _offer(self, request: Request, at_ns: int) -> None:
        if not self.loader.offer(request, at_ns) and not request.ended:
            self.ledger.note(LogKind.REFUSED, request.model.name, at_ns, request.id)
            self.fail(request, 503, BUSY_TEXT, at_ns)

    def _unload_on_request(self, request: Request, at_ns: int) -> None:
        """Answered at once; the runner goes when its last request has ended."""
        resident = self.residents.of(request.model.blob)
        if resident is not None:
            if resident.check is not None:
                self._wait_behind_check(request, resident)
                return
            self.reminders.cancel(resident.timer)
            resident.timer = None
            resident.expires_ns = at_ns
            resident.keep_alive_ns = 0
            if resident.idle:
                self.unload(resident, at_ns)
        self._finish(request, at_ns)

    # -- health checks -------------------------------------------------------------------------

    def start_check(self, resident: Resident, request: Request, at_ns: int) -> None:
        """Asks the runner whether it is well. Whoever comes while that goes on waits behind it."""
        if resident.check is not None:
            resident.behind_check.append(request.id)
            return
        resident.checked_by = request.id
        resident.check = self.reminders.at(
            at_ns + self._settings.health_check_ns, partial(self._end_check, resident)
        )

    def _wait_behind_check(self, request: Request, resident: Resident) -> None:
        if request.stage is Stage.ARRIVING:
            request.move(Stage.CHECKING)
        resident.behind_check.append(request.id)

    def end_check_early(self, resident: Resident, at_ns: int) -> None:
        """The runner answered after all, or is no more."""
        if resident.check is not None:
            self.reminders.cancel(resident.check)
            self._end_check(resident, at_ns)

    def _end_check(self, resident: Resident, at_ns: int) -> None:
        by, resident.check, resident.checked_by = resident.checked_by, None, None
        held = self.loader.held
        if held is not None and held.id == by:
            self.loader.checked(at_ns)
        else:
            request = self.open.get(by) if by is not None else None
            if request is not None and resident.silent:
                self._offer(request, at_ns)
            elif request is not None:
                self._fast_path(request, at_ns)
        # If the loader checks again at this very moment, they go on waiting.
        while resident.behind_check and resident.check is None:
            waiter = self.open.get(resident.behind_check.popleft())
            if waiter is None:
                continue
            if waiter is self.loader.held and resident.silent:
                self.start_check(resident, waiter, at_ns)
            elif waiter is self.loader.held:
                self.loader.checked(at_ns)
            elif waiter.work.kind is WorkKind.UNLOAD:
                self._unload_on_request(waiter, at_ns)
            else:
                self._fast_path(waiter, at_ns)

    # -- at work -------------------------------------------------------------------------------

    def hand_over(self, request: Request, resident: Resident, at_ns: int) -> None:
        work = request.work
        request.move(Stage.PREPARING)
        request.resident = resident
        request.handed_over_ns = at_ns
        resident.users.add(request.id)
        self.reminders.cancel(resident.timer)
        resident.timer = None
        if work.keep_alive_ns is not None:
            resident.keep_alive_ns = keep_alive_of(work.keep_alive_ns)
        self.signals.append(
            HandedOver(
                exchange=request.id,
                at_ns=at_ns,
                load_duration_ns=at_ns - request.opened_ns,
                num_ctx=resident.size.num_ctx,
            )
        )
        nothing_to_do = work.kind is WorkKind.EMBED and not work.prompts
        if work.kind is WorkKind.EMBED and not request.model.is_embedding:
            self.fail(request, 501, NO_EMBEDDINGS_TEXT, at_ns)
        elif work.kind is WorkKind.LOAD or nothing_to_do:
            self._finish(request, at_ns)
        elif work.prepare_ns > 0:
            self.reminders.at(at_ns + work.prepare_ns, partial(self._ask_for_slots, request))
        else:
            self._ask_for_slots(request, at_ns)

    def _ask_for_slots(self, request: Request, at_ns: int) -> None:
        """One runner call per prompt; all of them ask at once (OLLAMA.md §1.5)."""
        resident = request.resident
        if request.ended or resident is None:
            return
        if resident.runner.dead:
            self._fail_by_crash(request, at_ns, had_slot=False)
            return
        work = request.work
        tokens = 0 if work.kind is WorkKind.EMBED else max(1, work.output_tokens)
        request.sequences = tuple(
            Sequence(exchange=request.id, prompt=prompt, output_tokens=tokens)
            for prompt in work.prompts
        )
        request.sequences_left = len(request.sequences)
        request.move(Stage.WAITING)
        for sequence in request.sequences:
            resident.runner.ask(sequence, at_ns)

    def slot_taken(self, sequence: Sequence, at_ns: int) -> None:
        request = self.open[sequence.exchange]
        if request.stage is Stage.WAITING:
            request.move(Stage.COMPUTING)
            asked = len(sequence.prompt)
            known = max(0, asked - sequence.to_read)
            self.signals.append(
                SlotTaken(exchange=request.id, at_ns=at_ns, prompt_tokens=asked, known_tokens=known)
            )

    def token_made(self, sequence: Sequence, at_ns: int) -> None:
        index = sequence.produced - 1
        request = self.open[sequence.exchange]
        request.tokens_said = sequence.produced
        if index == 0 or not self._coarse:
            self.signals.append(Token(exchange=sequence.exchange, at_ns=at_ns, index=index))

    def sequence_done(self, sequence: Sequence, at_ns: int) -> None:
        request = self.open[sequence.exchange]
        request.tokens_read += len(sequence.prompt)
        request.read_ns += sequence.first_token_ns - (sequence.began_ns or 0)
        request.sequences_left -= 1
        if request.sequences_left == 0:
            made_ns = at_ns - sequence.first_token_ns
            eval_ns = max(made_ns, _ONE_TOKEN_EVAL_NS) if sequence.output_tokens else 0
            self._finish(request, at_ns, eval_count=sequence.produced, eval_ns=eval_ns)

    # -- the end -------------------------------------------------------------------------------

    def _finish(
        self, request: Request, at_ns: int, *, eval_count: int = 0, eval_ns: int = 0
    ) -> None:
        self.signals.append(
            Finished(
                exchange=request.id,
                at_ns=at_ns,
                total_duration_ns=at_ns - request.opened_ns,
                load_duration_ns=request.handed_over_ns - request.opened_ns,
                prompt_eval_count=request.tokens_read,
                prompt_eval_duration_ns=request.read_ns,
                eval_count=eval_count,
                eval_duration_ns=eval_ns,
            )
        )
        self.end(request, at_ns)

    def fail(self, request: Request, status: int, text: str, at_ns: int) -> None:
        self.signals.append(Failed(exchange=request.id, at_ns=at_ns, status=status, text=text))
        self.end(request, at_ns)

    def end(self, request: Request, at_ns: int) -> None:
        """The HTTP request is over, however it ended: its runner has one user less."""
        del self.open[request.id]
        request.move(Stage.ENDED)
        resident = request.resident
        if resident is None:
            return
        resident.users.discard(request.id)
        if resident.idle and self.residents.holds(resident):
            self._rest(resident, at_ns)

    def _rest(self, resident: Resident, at_ns: int) -> None:
        """A runner without users: unloaded at once, or when its keep-alive is over."""
        if resident.keep_alive_ns <= 0:
            self.unload(resident, at_ns)
            return
        resident.expires_ns = at_ns + resident.keep_alive_ns
        self.reminders.cancel(resident.timer)
        resident.timer = None
        if resident.keep_alive_ns < KEEP_FOREVER_NS:
            resident.timer = self.reminders.at(resident.expires_ns, partial(self._expire, resident))

    def _expire(self, resident: Resident, at_ns: int) -> None:
        resident.timer = None
        if resident.idle and self.residents.holds(resident):
            self.unload(resident, at_ns)

    def unload(self, resident: Resident, at_ns: int) -> None:
        """Kills an idle runner; its memory is back a little later."""
        settings = self._settings
        self.residents.remove(resident)
        self.reminders.cancel(resident.timer)
        resident.timer = None
        resident.runner.kill()
        self.ledger.note(LogKind.UNLOADED, resident.model.name, at_ns)
        recovery_ns = settings.vram_recovery_ns if resident.vram_bytes else 0
        self.loader.unloading()
        self.reminders.at(at_ns + settings.kill_ns + recovery_ns, self.loader.unloaded)
        self.end_check_early(resident, at_ns)

    def make_resident(self, request: Request, free_bytes: int) -> Resident:
        settings, model, size = self._settings, request.model, request.asked
        share = gpu_share(model, size, free_bytes, settings)
        total_bytes = resident_bytes(model, size)
        kind = RunnerApart if model.speed.is_apart else Runner
        runner = kind(
            model,
            size,
            settings,
            share=speed_share(share, settings),
            rank=-self.ledger.runner_starts,
            coarse=self._coarse,
            reminders=self.reminders,
            host=self,
        )
        if (pace := self.loader.paces.get(model.blob, 1.0)) != 1.0:
            runner.set_pace(pace, 0)  # it has nothing to do yet
        return Resident(
            model=model,
            size=size,
            runner=runner,
            keep_alive_ns=keep_alive_of(settings.keep_alive_ns),
            size_bytes=total_bytes,
            vram_bytes=int(total_bytes * share),
            port=self.chance.randint(*_PORTS),
        )

    # -- crashes -------------------------------------------------------------------------------

    def crash(self, resident: Resident, at_ns: int, text: str = EOF_TEXT) -> None:
        """The runner's process dies: all that it computed or that waited for it fails. It stays
        listed until somebody asks for it (OLLAMA.md §3.7)."""
        self.ledger.note(LogKind.KILLED, resident.model.name, at_ns)
        held, waited = resident.runner.kill()
        for sequence in held:
            request = self.open.get(sequence.exchange)
            if request is not None:
                self._fail_by_crash(request, at_ns, had_slot=True, text=text)
        for sequence in waited:
            request = self.open.get(sequence.exchange)
            if request is not None:
                self._fail_by_crash(request, at_ns, had_slot=False)
        self.end_check_early(resident, at_ns)

    def _fail_by_crash(
        self, request: Request, at_ns: int, *, had_slot: bool, text: str = EOF_TEXT
    ) -> None:
        """/api/embed says 400 for every failure of its runner, the others 500; which of the two
        texts a request without a token gets is a race (recorded: 67_killed_before_first_token)."""
        if request.work.kind is WorkKind.EMBED:
            port = 0 if request.resident is None else request.resident.port
            posted = f'Post "http://127.0.0.1:{port}/tokenize": EOF'
            self.fail(request, 400, posted if had_slot else GONE_TEXT, at_ns)
        elif not had_slot:
            self.fail(request, 500, f"{GONE_TEXT} ", at_ns)
        elif request.tokens_said == 0 and self.chance.random() < 0.5:
            self.fail(request, 500, STOPPED_TEXT, at_ns)
        else:
            self.fail(request, 500, text, at_ns)
