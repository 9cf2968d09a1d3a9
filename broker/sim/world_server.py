"""One simulated Ollama on a timeline, as its clients see it: calls, endings, lists of residents.

Rules: a call has exactly one ending (Finished, Failed or CutOff) unless its client closed it first,
or the wire is half open: then it may have none. A server that is down cuts every call off at once.
One that comes back is a new process: nothing is resident, its counters begin at 0; what was deleted
from its disk stays deleted. Source: reference/OLLAMA.md §2, §3.7.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from broker.core.errors import BackendFailed, BackendUnreachable, BrokerError
from broker.core.ports import Resident
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel
from broker.sim.ollama_resident import PsRow
from broker.sim.ollama_work import (
    CutOff,
    ExchangeId,
    Failed,
    Finished,
    Signal,
    Token,
    Work,
    WorkKind,
)
from broker.sim.timeline import Timeline
from broker.sim.world_wire import BUSY, CONNECT_TIMEOUT_NS, IN_STREAM, Wire

LIST_TIMEOUT_NS = 25_000_000_000  # as the Ollama backend has it

Hear = Callable[[Signal], None]
HearList = Callable[[tuple[Resident, ...] | BrokerError], None]
Spoil = Callable[[OllamaModel, str], None]


class Witness(Protocol):
    """Somebody who sees what passes between the servers and all their clients."""

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None:
        """The client left before the end."""
        ...

    def signalled(self, server: str, signal: Signal) -> None: ...


class Call:
    """One call as its client holds it. Calling it closes it; closing one that has ended is no
    harm."""

    __slots__ = ("_process", "_server", "exchange")

    def __init__(self, server: Server, exchange: ExchangeId, process: int) -> None:
        self._server = server
        self.exchange = exchange
        self._process = process

    def __call__(self) -> None:
        self._server.close(self.exchange, self._process)

    @property
    def is_silent(self) -> bool:
        """Will nothing come of it as things are: its wire is dead, or its runner frozen?"""
        return self._server.is_silent(self.exchange, self._process)


class Server:
    """See the module. `start` makes a new process; `list_delay_ns` is how late lists arrive."""

    def __init__(
        self,
        name: str,
        start: Callable[[], OllamaModel],
        timeline: Timeline,
        witness: Witness | None = None,
    ) -> None:
        self.name = name
        self.model = start()
        self.is_up = True
        self.list_delay_ns = 0
        self.spoil_load: Spoil | None = None
        self.wire = Wire()
        self.deleted: dict[str, SimModel] = {}  # by name
        self.paces: dict[str, float] = {}  # how many times as long all takes, by name; "" for all
        self._start = start
        self._timeline = timeline
        self._witness = witness
        self._hearing: dict[ExchangeId, Hear] = {}
        self._dead: set[ExchangeId] = set()  # calls of which nothing is heard any more
        self._over: set[ExchangeId] = set()  # of those: what has ended on the server's side
        self._alarm_ns: int | None = None
        self._process = 0  # which process this is: news of an earlier one is none of this

    # What a client does

    def open(self, work: Work, hear: Hear) -> Callable[[], None]:
        """Starts a call. Returns what closes it; closing one that has ended is no harm."""
        now_ns = self._timeline.now_ns
        nobody = ExchangeId(0)
        wire = self.wire
        if wire.is_half_open:
            given_up_ns = now_ns + CONNECT_TIMEOUT_NS
            return self._answer_later(CutOff(exchange=nobody, at_ns=given_up_ns), hear)
        if not self.is_up or wire.refusal or wire.resets:
            return self._answer_later(CutOff(exchange=nobody, at_ns=now_ns), hear)
        if wire.is_busy and work.kind is not WorkKind.UNLOAD:
            text = "server busy, please try again.  maximum pending requests exceeded"
            busy = Failed(exchange=nobody, at_ns=now_ns, status=BUSY, text=text)
            return self._answer_later(busy, hear)
        if work.kind is WorkKind.LOAD and self.spoil_load is not None:
            self.spoil_load(self.model, work.model)
        exchange = self.model.open(work, now_ns)
        self._hearing[exchange] = hear
        if self._witness is not None:
            self._witness.opened(self.name, exchange, work)
        self.plan()
        return Call(self, exchange, self._process)

    def _answer_later(self, signal: Signal, hear: Hear) -> Callable[[], None]:
        """An answer that no model had a part in. Returns what closes the call."""
        is_open = [True]

        def answer() -> None:
            if is_open:
                hear(signal)

        self._timeline.at(signal.at_ns, answer)
        return is_open.clear

    def close(self, exchange: ExchangeId, process: int) -> None:
        if process != self._process or self._hearing.pop(exchange, None) is None:
            return
        self._dead.discard(exchange)
        if exchange in self._over:
            self._over.discard(exchange)
            return
        if self._witness is not None:
            self._witness.closed(self.name, exchange)
        self.model.close(exchange, self._timeline.now_ns)
        self.plan()

    def is_silent(self, exchange: ExchangeId, process: int) -> bool:
        """Of a call that has not ended for its client."""
        if process != self._process:
            return True
        return exchange in self._dead or self.model.is_frozen(exchange)

    def ask_residents(self, hear: HearList) -> None:
        """What it lists now, said after `list_delay_ns`; an error where no answer comes."""
        self._ask_residents(hear, self._process, self._timeline.now_ns)

    def _ask_residents(self, hear: HearList, process: int, asked_ns: int) -> None:
        now_ns = self._timeline.now_ns
        answer: tuple[Resident, ...] | BrokerError
        if self.wire.is_half_open:
            late = BackendUnreachable(f"{self.name} takes no connection: it took too long")
            self._timeline.after(CONNECT_TIMEOUT_NS, partial(hear, late))
            return
        if not self.is_up or process != self._process or self.wire.refusal or self.wire.resets:
            answer = BackendUnreachable(self.wire.refusal or f"{self.name} does not answer")
        elif isinstance(rows := self.model.ps(now_ns), int):
            given_up_ns = asked_ns + LIST_TIMEOUT_NS
            if rows < given_up_ns:
                again = partial(self._ask_residents, hear, process, asked_ns)
                self._timeline.at(max(rows, now_ns + 1), again)
            else:
                self._timeline.at(given_up_ns, partial(hear, self._late_list()))
            return
        else:
            held = tuple(
                Resident(
                    name=row.name,
                    digest=row.digest,
                    memory_bytes=row.size,
                    gpu_memory_bytes=row.size_vram,
                    num_ctx=row.context_length,
                )
                for row in rows
            )
            answer = self.wire.told(held)
        self._timeline.after(self.list_delay_ns, partial(self._answer, hear, process, answer))

    def _answer(
        self, hear: HearList, process: int, answer: tuple[Resident, ...] | BrokerError
    ) -> None:
        if self.wire.is_half_open:  # it left the server, and never arrives
            self._timeline.after(LIST_TIMEOUT_NS, partial(hear, self._late_list()))
            return
        if process != self._process:
            answer = BackendUnreachable(f"{self.name} closed the connection")
        hear(answer)

    def _late_list(self) -> BackendFailed:
        return BackendFailed(f"{self.name} did not list its models in time")

    def rows(self) -> tuple[PsRow, ...]:
        """What it really holds now, for those who judge; nothing while it is down or its list
        hangs."""
        rows = self.model.ps(self._timeline.now_ns) if self.is_up else ()
        return () if isinstance(rows, int) else rows

    def holds(self, model: str) -> bool:
        """Is the file behind this name loaded now?"""
        found = self.model.catalogue.find(model)
        return found is not None and any(row.model.blob == found.blob for row in self.rows())

    # What happens to it

    def stop(self) -> None:
        """SIGTERM: every call breaks at once."""
        if self.is_up:
            self.is_up = False
            self._process += 1
            self.model.terminate(self._timeline.now_ns)
            self._hear_all()
            self._hearing.clear()
            self._dead.clear()
            self._over.clear()

    def cut(self) -> None:
        """Every call breaks at once; the server goes on."""
        now_ns = self._timeline.now_ns
        for exchange, hear in list(self._hearing.items()):
            if exchange not in self._dead and exchange in self._hearing:
                self.close(exchange, self._process)
                hear(CutOff(exchange=exchange, at_ns=now_ns))

    def lose_wire(self) -> None:
        """From here on nothing of the calls under way is heard: they have no end any more."""
        self.wire.is_half_open = True
        self._dead.update(self._hearing)

    def slow_down(self, model: str, pace: float) -> None:
        """All that this model does takes so many times as long, "" for every model; 1 ends it. The
        machine is slow, so that another process is, too."""
        self.paces[model] = pace
        if self.is_up:
            self.model.set_pace(model, pace, self._timeline.now_ns)
            self.plan()

    def delete(self, model: str) -> None:
        """Takes a model off the disk; what is loaded of it stays."""
        found = self.model.catalogue.find(model)
        if found is not None:
            self.deleted[found.name] = found
            self.model.catalogue.remove(found.name)

    def undelete(self) -> None:
        for found in self.deleted.values():
            self.model.catalogue.put(found)
        self.deleted.clear()

    def come_back(self) -> None:
        """A new process in the place of one that stopped."""
        if not self.is_up:
            self.is_up = True
            self._alarm_ns = None
            self.model = self._start()
            for model, pace in self.paces.items():
                self.model.set_pace(model, pace, self._timeline.now_ns)
            for name in self.deleted:
                self.model.catalogue.remove(name)

    def plan(self) -> None:
        """Arranges to look again when the model next has something to say."""
        next_ns = self.model.next_event_ns()
        if next_ns is not None and (self._alarm_ns is None or next_ns < self._alarm_ns):
            self._alarm_ns = max(next_ns, self._timeline.now_ns)
            self._timeline.at(self._alarm_ns, partial(self._look, self._alarm_ns, self._process))

    def _look(self, alarm_ns: int, process: int) -> None:
        if self._alarm_ns != alarm_ns or process != self._process:
            return  # an earlier look was planned meanwhile and has been
        self._alarm_ns = None
        self._hear_all()
        self.plan()

    def _hear_all(self) -> None:
        for signal in self.model.advance(self._timeline.now_ns):
            hear = self._hearing.get(signal.exchange)
            if hear is None:
                continue
            if self._witness is not None:
                self._witness.signalled(self.name, signal)
            is_last = isinstance(signal, Finished | Failed | CutOff)
            if signal.exchange in self._dead:
                if is_last:
                    self._over.add(signal.exchange)
                continue
            if is_last:
                del self._hearing[signal.exchange]
            elif self.wire.spoils and isinstance(signal, Token):
                self._spoil(signal, hear)
                continue
            hear(signal)

    def _spoil(self, token: Token, hear: Hear) -> None:
        """The answer's bytes cannot be read from here on, and its client leaves."""
        if not self.wire.spoils_first:
            hear(token)
        if token.exchange in self._hearing:  # else it left upon the token
            self.close(token.exchange, self._process)
            text = self.wire.spoils
            at_ns = self._timeline.now_ns
            hear(Failed(exchange=token.exchange, at_ns=at_ns, status=IN_STREAM, text=text))
