"""Which models there are, where, and in what state."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.errors import ModelUnknown
from broker.core.model_name import comparison_key
from broker.core.requirements import Requirements
from broker.core.resolution import Resolution
from broker.core.snapshot import ResidencyView, Snapshot
from broker.models.catalog import Catalog, CatalogEntry
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A model on one backend; `residency` None means that it is on disk only. `is_up`: does the
    backend answer? Else both are what was known last."""

    backend: str
    is_up: bool
    residency: ResidencyView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model and all its places."""

    entry: CatalogEntry
    places: tuple[ModelPlace, ...]


class ModelsService:
    """See the module."""

    def __init__(self, driver: Driver, catalog: Catalog, clock: Clock) -> None:
        self._driver = driver
        self._clock = clock
        self._catalog = catalog

    def page(self, after: str, size: int) -> tuple[list[ModelView], str]:
        """Up to `size` models that come after the name `after`, in order of the names, and the name
        to go on from, or "" where these were the last."""
        key = comparison_key(after) if after else ""
        rest = [each for each in self._catalog.entries() if comparison_key(each.facts.name) > key]
        snapshot = self._driver.snapshot()
        chosen = [_view(each, snapshot) for each in rest[:size]]
        return chosen, chosen[-1].entry.facts.name if len(rest) > size else ""

    def unix_s(self) -> float:
        """The clock on the wall, in seconds since 1970, as backends tell when models expire."""
        return self._clock.unix_ns() / 1e9

    def get(self, name: str) -> ModelView:
        """One model. ModelUnknown with the nearest names where there is none."""
        entry = self._catalog.get(name)
        if entry is None:
            raise ModelUnknown(name, self._catalog.nearest(name))
        return _view(entry, self._driver.snapshot())

    def resolve(self, name: str, wants: Requirements | None) -> Resolution:
        """Which model would answer a request that names this model or alias, or says only what it
        wants. Raises what such a request would be refused with."""
        return self._driver.resolve(name, wants)


def _view(entry: CatalogEntry, snapshot: Snapshot) -> ModelView:
    places = []
    for backend in snapshot.backends:
        runner = entry.runners.get(backend.name)
        if runner is not None:
            residency = next((each for each in backend.residents if each.runner == runner), None)
            places.append(ModelPlace(backend=backend.name, is_up=backend.up, residency=residency))
    return ModelView(entry=entry, places=tuple(places))
