"""Asks a server of the world what it has and holds, as models/discovery.py asks a real one."""

from __future__ import annotations

from collections.abc import Callable
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

    def ask(self) -> None:
        """One round, and the next one is planned."""
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
        if isinstance(answer, BrokerError):
            self._listed_ns = None  # it may come back with other models
            self._feed(BackendSeen(name, up=False, problem=answer.message))
            self._timeline.after(RETRY_INTERVAL_NS, self.ask)
            return
        self._feed(ResidentsSeen(name, answer, asked_ns))
        self._feed(BackendSeen(name, up=True))
        self._timeline.after(POLL_INTERVAL_NS, self.ask)
