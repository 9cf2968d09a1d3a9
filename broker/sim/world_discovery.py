"""Asks the servers of a world what they have and hold, as runtime/pool.py and models/discovery.py
ask real ones: those of the configuration, and those that it named once until they are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from broker.core.errors import BrokerError
from broker.core.ports import Resident
from broker.core.stimuli import BackendSeen, ModelsListed, ModelSpec, ResidentsSeen, Stimulus
from broker.sim.timeline import Timeline
from broker.sim.world_server import Server

POLL_INTERVAL_NS = 5_000_000_000
CATALOG_INTERVAL_NS = 60_000_000_000
RETRY_INTERVAL_NS = 2_000_000_000


class Discovery:
    """One server. Residents are asked for often, the catalogue seldom; one that is down is asked
    again soon, and when it is back everything is asked anew."""

    def __init__(
        self,
        server: Server,
        specs: tuple[ModelSpec, ...],
        timeline: Timeline,
        feed: Callable[[Stimulus], None],
    ) -> None:
        self._server = server
        self._specs = specs
        self._timeline = timeline
        self._feed = feed
        self._listed_ns: int | None = None
        self._is_over = False

    def end(self) -> None:
        """Nobody asks it any more."""
        self._is_over = True

    def ask(self) -> None:
        """One round, and the next one is planned."""
        if self._is_over:
            return
        now_ns = self._timeline.now_ns
        stale = self._listed_ns is None or now_ns - self._listed_ns >= CATALOG_INTERVAL_NS
        if self._server.is_up and stale:
            self._listed_ns = now_ns
            there = tuple(each for each in self._specs if each.name not in self._server.deleted)
            self._feed(ModelsListed(self._server.name, there))
        self._server.ask_residents(partial(self._hear, now_ns))

    def list_again(self) -> None:
        """What it listed is not so: the next round asks for that, too."""
        self._listed_ns = None

    def _hear(self, asked_ns: int, answer: tuple[Resident, ...] | BrokerError) -> None:
        name = self._server.name
        if self._is_over:
            return
        if isinstance(answer, BrokerError):
            self._listed_ns = None  # it may come back with other models
            self._feed(BackendSeen(name, up=False, problem=answer.message))
            self._timeline.after(RETRY_INTERVAL_NS, self.ask)
            return
        self._feed(ResidentsSeen(name, answer, asked_ns))
        self._feed(BackendSeen(name, up=True))
        self._timeline.after(POLL_INTERVAL_NS, self.ask)


class Discoveries:
    """All of them. `specs` are the models of each server, as the engine plans."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        specs: Mapping[str, tuple[ModelSpec, ...]],
        timeline: Timeline,
        feed: Callable[[Stimulus], None],
    ) -> None:
        self._servers = servers
        self._specs = specs
        self._timeline = timeline
        self._feed = feed
        self._asking: dict[str, Discovery] = {}
        self._wanted: frozenset[str] = frozenset()

    def apply(self, names: Iterable[str]) -> None:
        """From now on there are these; one that leaves is asked until it is gone."""
        wanted = frozenset(names)
        for name in sorted(wanted - self._wanted):
            if name in self._asking:  # taken back: the engine has forgotten what it has
                self.list_again(name)
                continue
            specs = self._specs[name]
            asking = Discovery(self._servers[name], specs, self._timeline, self._feed)
            self._asking[name] = asking
            self._timeline.after(0, asking.ask)
        self._wanted = wanted

    def list_again(self, name: str) -> None:
        self._asking[name].list_again()

    def gone(self, name: str) -> None:
        self._asking.pop(name).end()
