"""Puts together the list of models: where it comes from, where it is kept, when it is refreshed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import platformdirs

from broker.config.schema import Config
from broker.core.library import Library
from broker.core.model_list import ListState
from broker.daemon.library import make_library
from broker.models.catalog import Catalog
from broker.models.gathering import Gathering
from broker.models.index import ModelIndex
from broker.models.keeping import Keeping
from broker.models.refresh import HOUR_MS, RefreshPolicy
from broker.models.refreshing import Refreshing
from broker.runtime.clock import Clock
from broker.runtime.supervisor import Supervisor
from broker.state.model_cache import FILE_NAME, ModelCache

_MS = 1_000_000


def cache_file(config: Config) -> Path:
    """Where the list is kept: of each broker on this host apart, unless it says otherwise."""
    if config.model_list.cache_file:
        return Path(config.model_list.cache_file).expanduser()
    address = config.server.grpc_address
    folder = "".join(each if each.isalnum() or each in ".-" else "_" for each in address)
    return Path(platformdirs.user_cache_dir("ollama-broker", False)) / folder / FILE_NAME


def refresh_policy(config: Config) -> RefreshPolicy:
    """[model_list] in the words of the models."""
    wanted = config.model_list
    return RefreshPolicy(
        fresh_ms=round(wanted.fresh_h * HOUR_MS),
        expired_ms=round(wanted.expired_h * HOUR_MS),
        is_local=config.library.source == "file",
        is_metered=wanted.metered,
        busy_share=wanted.busy_percent_max / 100,
        retry_ms=wanted.retry_s * 1000,
        retry_max_ms=wanted.retry_max_s * 1000,
    )


class Listing:
    """The list of models of a configuration. `problems` names the backends that do not answer."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        catalog: Catalog,
        problems: Callable[[], Mapping[str, str]],
    ) -> None:
        self._urls = {each.name: each.url for each in config.backends}
        self.index = ModelIndex(_named(config))
        self._gathering = Gathering(self.index, lambda: self._urls, lambda: _unix_ms(clock))
        self._library: Library | None = make_library(
            config.library, clock.monotonic_ns, lambda: clock.unix_ns() / 1e9
        )
        self._keeping: Keeping | None = None
        if config.model_list.cache:
            keeper = ModelCache(cache_file(config))
            self._keeping = Keeping(self._gathering, keeper, clock.sleep)
        self._refreshing = Refreshing(
            self._gathering,
            self._library,
            refresh_policy(config),
            backends=lambda: tuple(self._urls),
            problems=problems,
            unix_ms=lambda: _unix_ms(clock),
            sleep=clock.sleep,
            chance=Random(),
            file=str(cache_file(config)) if self._keeping else "",
        )
        catalog.listener = self._gathering

    def read(self) -> None:
        """What the last run knew: to be called before anybody is served."""
        if self._keeping is not None:
            self._keeping.read()

    def start(self, supervisor: Supervisor) -> None:
        """Keeps it, and asks the library, from now on."""
        supervisor.start(self._refreshing.run(), "library")
        supervisor.start(self._refreshing.watch_clock(), "library-clock")
        if self._keeping is not None:
            supervisor.start(self._keeping.run(), "model-list")

    def apply(self, config: Config) -> None:
        """From now on this configuration holds."""
        self._urls = {each.name: each.url for each in config.backends}
        self._gathering.name(_named(config))
        self._refreshing.configure(refresh_policy(config))

    def state(self) -> ListState:
        """How well it is known which models there are."""
        return self._refreshing.state()

    async def close(self) -> None:
        """What has changed is kept for the next run."""
        self._refreshing.close()
        if self._keeping is not None:
            await self._keeping.close()
        if self._library is not None:
            await self._library.close()


def _named(config: Config) -> Iterator[str]:
    """The models that an operator wrote down somewhere."""
    yield from config.models
    for alias in config.aliases.values():
        yield from alias.models


def _unix_ms(clock: Clock) -> int:
    return clock.unix_ns() // _MS
