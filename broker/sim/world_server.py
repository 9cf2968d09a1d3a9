"""One simulated Ollama on a timeline, as its clients see it: calls, endings, lists of residents.

Rules: a call has exactly one ending (Finished, Failed or CutOff) unless its client closed it first.
A server that is down cuts every call off at once. One that comes back is a new process: nothing is
resident, its counters begin at 0. Source: reference/OLLAMA.md §2, §3.7.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from broker.core.errors import BackendFailed, BackendUnreachable, BrokerError
from broker.core.ports import Resident
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_resident import PsRow
from broker.sim.ollama_work import (
    CutOff,
    ExchangeId,
    Failed,
    Finished,
    Signal,
    Work,
    WorkKind,
)
from broker.sim.timeline import Timeline

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
        self._start = start
        self._timeline = timeline
        self._witness = witness
        self._hearing: dict[ExchangeId, Hear] = {}
        self._alarm_ns: int | None = None
        self._process = 0  # which process this is: news of an earlier one is none of this

    # What a client does

    def open(self, work: Work, hear: Hear) -> Callable[[], None]:
        """Starts a call. Returns what closes it; closing one that has ended is no harm."""
        now_ns = self._timeline.now_ns
        if not self.is_up:
            refused = CutOff(exchange=ExchangeId(0), at_ns=now_ns)
            is_open = [True]

            def refuse() -> None:
                if is_open:
                    hear(refused)

            self._timeline.at(now_ns, refuse)
            return is_open.clear
        if work.kind is WorkKind.LOAD and self.spoil_load is not None:
            self.spoil_load(self.model, work.model)
        exchange = self.model.open(work, now_ns)
        self._hearing[exchange] = hear
        if self._witness is not None:
            self._witness.opened(self.name, exchange, work)
        self.plan()
        return partial(self._close, exchange, self._process)

    def _close(self, exchange: ExchangeId, process: int) -> None:
        if process == self._process and self._hearing.pop(exchange, None) is not None:
            if self._witness is not None:
                self._witness.closed(self.name, exchange)
            self.model.close(exchange, self._timeline.now_ns)
            self.plan()

    def ask_residents(self, hear: HearList) -> None:
        """What it lists now, said after `list_delay_ns`; an error where no answer comes."""
        self._ask_residents(hear, self._process, self._timeline.now_ns)

    def _ask_residents(self, hear: HearList, process: int, asked_ns: int) -> None:
        now_ns = self._timeline.now_ns
        answer: tuple[Resident, ...] | BrokerError
        if not self.is_up or process != self._process:
            answer = BackendUnreachable(f"{self.name} does not answer")
        elif isinstance(rows := self.model.ps(now_ns), int):
            given_up_ns = asked_ns + LIST_TIMEOUT_NS
            if rows < given_up_ns:
                again = partial(self._ask_residents, hear, process, asked_ns)
                self._timeline.at(max(rows, now_ns + 1), again)
            else:
                late = BackendFailed(f"{self.name} did not list its models in time")
                self._timeline.at(given_up_ns, partial(hear, late))
            return
        else:
            answer = tuple(
                Resident(
                    name=row.name,
                    digest=row.digest,
                    memory_bytes=row.size,
                    gpu_memory_bytes=row.size_vram,
                    num_ctx=row.context_length,
                )
                for row in rows
            )
        self._timeline.after(self.list_delay_ns, partial(self._answer, hear, process, answer))

    def _answer(
        self, hear: HearList, process: int, answer: tuple[Resident, ...] | BrokerError
    ) -> None:
        if process != self._process:
            answer = BackendUnreachable(f"{self.name} closed the connection")
        hear(answer)

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

    def come_back(self) -> None:
        """A new process in the place of one that stopped."""
        if not self.is_up:
            self.is_up = True
            self._alarm_ns = None
            self.model = self._start()

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
            if isinstance(signal, Finished | Failed | CutOff):
                del self._hearing[signal.exchange]
            hear(signal)
