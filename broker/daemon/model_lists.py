"""Puts together how models are listed and watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import replace

from broker.config.schema import Config
from broker.core.engine import Engine
from broker.core.events import Bus
from broker.core.model_list import ListState
from broker.core.topics import MODELS
from broker.daemon.listing import Listing
from broker.models.catalog import Catalog
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver
from broker.services.model_judge import ModelLore
from broker.services.model_news import ModelNews
from broker.services.models import ModelsService


class ModelLists:
    """The list of models as it is asked for and watched, by calls or by the topic of the bus.
    `on_watched` is called when somebody begins to."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        driver: Driver,
        listing: Listing,
        clock: Clock,
        bus: Bus,
        catalog: Catalog,
        on_watched: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._driver = driver
        self._listing = listing
        self._index = index = listing.index
        self._clock = clock
        self._bus = bus
        self._on_watched = on_watched
        self.news = ModelNews(
            index,
            driver.snapshot,
            surroundings=self._surroundings,
            watchers_max=config.model_list.watchers_max,
            on_watched=on_watched,
        )
        lore = ModelLore(
            memory=catalog.memory_needs,
            memory_revision=lambda: catalog.memory_revision,
            degradation=lambda: engine.degradation.policy,
            room_bytes=self._room_bytes,
            aliases=lambda: engine.choosing.aliases,
        )
        self.service = ModelsService(driver, index, clock, lore, self.news)

    def is_watched(self) -> bool:
        """Does anybody watch, or listen to the topic?"""
        return self.news.is_watched or self._bus.is_heard(MODELS)

    def state(self) -> ListState:
        """How well the list is known, and how many watch it."""
        news, known = self.news, self._listing.state()
        return replace(known, watchers=news.watchers, watchers_max=news.watchers_max)

    def expect_listener(self) -> None:
        """Somebody is about to listen to some topic."""
        if not self.is_watched():
            asyncio.get_running_loop().call_soon(self._tell_if_watched)

    def _tell_if_watched(self) -> None:
        if self.is_watched():
            self._on_watched()

    def _surroundings(self) -> Hashable:
        """What of a list is not of one model: who answers, and how old that is in words."""
        sources = self._index.sources(self._clock.unix_ns() // 1_000_000)
        told = tuple((each.name, each.up, each.freshness, each.problem) for each in sources)
        return told, self._index.is_loading

    def _room_bytes(self) -> dict[str, int]:
        """The memory of backends: what the configuration says, else, of those on this host, that of
        its GPUs."""
        policies = [each.policy for each in self._engine.backends.values()]
        found = {each.name: each.memory_bytes for each in policies if each.memory_bytes}
        local = [each.name for each in policies if each.is_local and each.name not in found]
        gpus = self._driver.level().gpus if local else ()
        room_bytes = sum(each.memory_total_bytes for each in gpus)
        return {**found, **dict.fromkeys(local, room_bytes)} if room_bytes else found
