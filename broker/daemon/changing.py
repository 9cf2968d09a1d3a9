"""Puts together what changes models: downloads, deletes, loads and unloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from broker.config.address import is_loopback
from broker.config.schema import Config
from broker.core.effects import Effect, ListAgain, WishEnded
from broker.core.pull_hours import Hours
from broker.core.stimuli import Stimulus
from broker.daemon.pooling import Pool
from broker.models.catalog import Catalog
from broker.models.index import ModelIndex
from broker.models.pulls import PullPolicy, Pulls
from broker.monitors.disk import HostDisk
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver
from broker.runtime.supervisor import Supervisor
from broker.runtime.wish_desk import WishDesk
from broker.services.model_access import ModelAccess, ModelChange
from broker.services.model_changes import ModelChangesService
from broker.services.pulls import PullService, PullSources
from broker.state.pull_list import PullList, file_name

_S = 1_000_000_000


def pulls_file(config: Config) -> Path:
    """Where the broker of this configuration keeps its downloads."""
    folder = config.server.state_dir or platformdirs.user_state_dir("ollama-broker", False)
    return Path(folder) / file_name(config.server.grpc_address)


def pull_policy(config: Config) -> PullPolicy:
    """[pulls] in the words of the models."""
    wanted = config.pulls
    return PullPolicy(
        concurrent_max=wanted.concurrent_max,
        pulls_max=wanted.pulls_max,
        listeners_max=wanted.listeners_max,
        hours=Hours.parse(wanted.hours),
        tries_max=wanted.tries_max,
        retry_ns=int(wanted.retry_s * _S),
        retry_ns_max=int(wanted.retry_max_s * _S),
        stall_ns=int(wanted.stall_timeout_s * _S),
        verify_ns=int(wanted.verify_timeout_s * _S),
        reserve_bytes=int(wanted.disk_reserve_gb * 1e9),
        stops_unheard=wanted.stop_when_unheard,
    )


def allowed(config: Config) -> Mapping[ModelChange, tuple[str, ...]]:
    """[model_access] by what is asked for."""
    return {each: getattr(config.model_access, each.value) for each in ModelChange}


def model_folders(config: Config) -> dict[str, str]:
    """Where the backends of this host keep their models; those of others are not in it."""
    return {
        each.name: each.models_folder
        for each in config.backends
        if (is_loopback(each.url) if each.local is None else each.local)
    }


def local_minute() -> int:
    """Of the day, by this host's clock."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


class Changing:
    """See the module. `driver` is asked for when it is needed first; `resolve` says which model a
    name or an alias means."""

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        clock: Clock,
        catalog: Catalog,
        pool: Pool,
        index: ModelIndex,
        driver: Callable[[], Driver],
        resolve: Callable[[str], str],
    ) -> None:
        def feed(stimulus: Stimulus) -> None:
            driver().feed(stimulus)

        def size_of(name: str) -> int:
            known = index.get(name)
            return 0 if known is None else known.size_bytes

        def list_again(backend: str) -> None:
            if backend in pool:
                pool.list_again(ListAgain(backend))

        self._desk = WishDesk(feed, clock)
        self.pulls = PullService(
            Pulls(pull_policy(config)),
            PullSources(
                backends=pool,
                is_up=lambda name: driver().is_up(name),
                is_leaving=lambda: driver().is_leaving,
                size_of=size_of,
                local_minute=local_minute,
                list_again=list_again,
                disk=HostDisk(model_folders(config)),
                store=PullList(pulls_file(config)),
            ),
            supervisor,
            clock,
        )
        self._access = ModelAccess(allowed(config), lambda agent: driver().type_of(agent))
        self._driver = driver
        self._pool = pool
        self._catalog = catalog
        self._clock = clock
        self._list_again = list_again
        self._resolve = resolve

    def service(self) -> ModelChangesService:
        """To be asked for once the driver is there."""
        return ModelChangesService(
            self._driver(),
            self._desk,
            self._pool,
            self._catalog,
            self.pulls,
            self._access,
            self._list_again,
            self._meant,
            self._clock,
        )

    def _meant(self, name: str) -> str:
        """The model that a name or an alias means."""
        is_named = self._catalog.get(name) is not None and not self._driver().is_alias(name)
        return name if is_named else self._resolve(name)

    def performers(self) -> Mapping[type[Effect], Callable[[Any], None]]:
        """Who does what the engine says of wishes."""
        return {WishEnded: self._desk.ended}

    def configure(self, config: Config) -> None:
        """From now on this configuration holds."""
        self.pulls.configure(pull_policy(config))
        self._access.configure(allowed(config))
