"""The pool of backends that a configuration describes, and what a reload changes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from broker.config.schema import Config
from broker.config.serving import BackendConfig
from broker.core.effects import BackendGone, Effect, ListAgain, Own, RestartBackend
from broker.core.ports import Backend
from broker.core.stimuli import OwnedBefore
from broker.daemon.backends import make_backend
from broker.models.catalog import Catalog
from broker.models.discovery import Discovery, DiscoveryPolicy
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver
from broker.runtime.pool import BackendPool, Place
from broker.runtime.restarts import Restarts
from broker.runtime.supervisor import Supervisor
from broker.state.owned_models import OwnedModels, file_name

_MS = 1_000_000
_S = 1_000_000_000

Pool = BackendPool[DiscoveryPolicy]


def state_file(config: Config) -> Path:
    """Where the broker of this configuration keeps which models it had loaded."""
    folder = config.server.state_dir or platformdirs.user_state_dir("ollama-broker", False)
    return Path(folder) / file_name(config.server.grpc_address)


class Pooling:
    """The backends of a configuration with what is known of them here: how they are asked, how they
    are restarted, which of their models are ours. `driver` is asked for when it is needed first, as
    it is made with the pool. `stand_ins` take the place of adapters, by the names of backends.
    `is_watched`: does anybody watch the list of models?"""

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        clock: Clock,
        catalog: Catalog,
        driver: Callable[[], Driver],
        stand_ins: Mapping[str, Backend] | None,
        is_watched: Callable[[], bool],
    ) -> None:
        self._backends = _by_name(config)
        self._supervisor = supervisor
        self._clock = clock
        self._catalog = catalog
        self._driver = driver
        self._stand_ins = stand_ins
        self._is_watched = is_watched
        self._owned = OwnedModels(state_file(config), config.placement.keep_alive_s)
        self._restarts = Restarts(
            lambda: {name: each.restart_command for name, each in self._backends.items()},
            lambda: config.healing.restart_timeout_s,
            supervisor,
            lambda stimulus: driver().feed(stimulus),
        )
        self.pool = Pool(supervisor, self._make, self._new, self._gone)
        self.pool.apply(_places(config))

    def performers(self) -> Mapping[type[Effect], Callable[[Any], None]]:
        """Who does what the engine wants of backends as a whole."""
        return {
            Own: self._own,
            ListAgain: self.pool.list_again,
            BackendGone: self.pool.gone,
            RestartBackend: self._restarts.restart,
        }

    def start(self) -> None:
        """Reads what the broker before has left, keeps it up to date, and asks the backends."""
        self._owned.read()
        self._supervisor.start(self._owned.run(), "owned-models")
        self.pool.start()

    def check(self, config: Config) -> None:
        """InvalidRequest where `apply` could not be."""
        self.pool.check(_places(config))

    def apply(self, config: Config) -> None:
        """From now on there are these backends. To be told after the engine."""
        self._backends = _by_name(config)
        self.pool.apply(_places(config))

    def _make(self, place: Place[DiscoveryPolicy]) -> tuple[Backend, Discovery]:
        name = place.name
        adapter = self._stand_ins[name] if self._stand_ins else make_backend(self._backends[name])
        discovery = Discovery(
            adapter,
            place.asking,
            self._catalog,
            lambda stimulus: self._driver().feed(stimulus),
            self._clock.monotonic_ns,
            self._clock.sleep,
            self._is_watched,
        )
        return adapter, discovery

    def _new(self, name: str, backend: Backend) -> None:
        runners = self._owned.owned(backend.url)
        if runners:
            self._driver().feed(OwnedBefore(name, runners))

    def _own(self, effect: Own) -> None:
        self._owned.own(self.pool[effect.backend].url, effect.runners)

    def _gone(self, name: str, backend: Backend) -> None:
        self._driver().forget(name)
        self._catalog.forget(name)
        self._owned.leave(backend.url)


def _by_name(config: Config) -> dict[str, BackendConfig]:
    return {each.name: each for each in config.backends}


def _places(config: Config) -> tuple[Place[DiscoveryPolicy], ...]:
    return tuple(
        Place(
            name=each.name,
            identity=(each.kind, each.url, each.api_key_env, each.connect_timeout_ms),
            asking=DiscoveryPolicy(
                slots=each.slots,
                tags=frozenset(each.tags),
                poll_interval_ns=each.poll_interval_ms * _MS,
                catalog_interval_ns=each.catalogue_interval_s * _S,
                retry_interval_ns=each.retry_interval_ms * _MS,
                mute_ns=config.healing.mute_s * _S,
                watch_interval_ns=config.model_list.watch_interval_ms * _MS,
            ),
        )
        for each in config.backends
    )
