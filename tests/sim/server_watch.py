"""Sees each call to the servers of a world and judges it from their side of the wire.

Some rules hold always. The strict ones hold where the broker is a server's only client and nothing
has harmed it: then the server must never have to decide anything by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from broker.sim.ollama_log import LogKind
from broker.sim.ollama_work import (
    CutOff,
    ExchangeId,
    Failed,
    Finished,
    HandedOver,
    Signal,
    SlotTaken,
    Work,
    WorkKind,
)
from broker.sim.world_server import Server
from tests.sim.books import must
from tests.sim.scenario import Scenario

# What a server does when more is asked of it at once than it can hold, or queue.
OWN_DECISIONS = (LogKind.VICTIM, LogKind.QUEUED, LogKind.REFUSED)


@dataclass(slots=True)
class _Call:
    work: Work
    blob: str
    loads: bool  # it asked for a model that was not there
    handed_over_ns: int | None = None


class ServerWatch:
    """`is_strict` says whether the strict rules hold now; `be_strict` begins with them."""

    def __init__(self, scenario: Scenario) -> None:
        self.is_strict = False
        self._scenario = scenario
        self._servers: Mapping[str, Server] = {}
        self._calls: dict[tuple[str, ExchangeId], _Call] = {}
        self._before: dict[str, Counter[LogKind]] = {}
        self._given_up: Counter[str] = Counter()  # loads whose calls were closed, by server

    def attend(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers

    def be_strict(self) -> None:
        self.is_strict = True
        self._given_up.clear()
        for name, server in self._servers.items():
            self._before[name] = Counter(server.model.ledger.counts)

    # Calls

    def opened(self, name: str, exchange: ExchangeId, work: Work) -> None:
        server = self._servers[name]
        found = server.model.catalogue.find(work.model)
        blob = found.blob if found else ""
        loads = work.kind is not WorkKind.UNLOAD and not server.holds(work.model)
        self._calls[name, exchange] = _Call(work, blob, loads)
        if work.kind is WorkKind.GENERATE:
            self._check_slots(name, blob, work)
        if self.is_strict:
            self._check_open(name, server, work, loads=loads)

    def closed(self, name: str, exchange: ExchangeId) -> None:
        self._given_up[name] += self._calls.pop((name, exchange)).loads

    def signalled(self, name: str, signal: Signal) -> None:
        call = self._calls[name, signal.exchange]
        if isinstance(signal, Finished | Failed | CutOff):
            del self._calls[name, signal.exchange]
        if not self.is_strict or call.work.kind is not WorkKind.GENERATE:
            return
        server = self._servers[name]
        match signal:
            case HandedOver():
                call.handed_over_ns = signal.at_ns
                at_once = signal.load_duration_ns == server.model.settings.admission_ns
                must(at_once, f"{call.work.model} on {name}: a request waited for a load")
            case SlotTaken():
                at_once = signal.at_ns == call.handed_over_ns
                must(at_once, f"{call.work.model} on {name}: a request waited for a slot")
            case Failed():
                must(False, f"{call.work.model} on {name}: {signal.text}")

    # Rules

    def _check_slots(self, name: str, blob: str, work: Work) -> None:
        """Never more in flight than slots, as the server counts them."""
        spec = self._scenario.spec(name, work.model)
        slots = spec.slots if spec else 0
        running = sum(
            key[0] == name and each.blob == blob and each.work.kind is WorkKind.GENERATE
            for key, each in self._calls.items()
        )
        must(running <= slots, f"{running} requests run on {slots} slots of {work.model}")

    def _check_open(self, name: str, server: Server, work: Work, *, loads: bool) -> None:
        """One load at a time, by a load call of its own, with room left for it."""
        if not loads:
            return
        must(work.kind is WorkKind.LOAD, f"{work.model} is not on {name}, and was asked to answer")
        loading = sum(key[0] == name and each.loads for key, each in self._calls.items())
        must(loading == 1, f"{loading} loads at once on {name}")
        policy = self._scenario.site(name).policy
        room = policy.loaded_max or policy.resident_max
        held = [row.name for row in server.rows()]
        must(len(held) < room, f"{work.model} is loaded on {name} beside {held}")

    def check(self) -> None:
        """Nothing that a server had to decide by itself."""
        if not self.is_strict:
            return
        for name, server in self._servers.items():
            done = Counter(server.model.ledger.counts)
            done.subtract(self._before[name])
            # What takes the place of a load that was aborted waits until that process is dead.
            done[LogKind.QUEUED] -= max(done[LogKind.ABORTED], self._given_up[name])
            for kind in OWN_DECISIONS:
                must(done[kind] <= 0, f"{name} had to decide by itself: {kind.value}")
