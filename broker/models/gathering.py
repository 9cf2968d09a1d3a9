"""What all sources say of models, gathered into the list: backends, the library, the last run.

Each source is whole: a backend's listing takes the place of what it said before, and one that fails
changes nothing. What the last run knew counts until the source itself has spoken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from broker.core.kept_models import KeptBackend, KeptList, KeptModel, KeptTimes
from broker.core.library import LibraryModel
from broker.core.ports import ModelFacts
from broker.models.index import ModelIndex
from broker.models.known import KnownModel
from broker.models.library_query import keys_of
from broker.models.library_rows import LibraryRows, library_rows
from broker.models.merge import (
    Checked,
    Oddities,
    kept_models,
    library_of,
    local_models,
    local_of,
)
from broker.models.slices import Steps, at_once

_log = structlog.get_logger(__name__)

# What was on some backend in the last run, and it was not written down on which.
SOMEWHERE: Final = ""


@dataclass(slots=True)
class _Told:
    """What a backend told last, when, and whether it did so in this run."""

    facts: dict[str, ModelFacts]
    listed_unix_ms: int | None
    is_of_this_run: bool


class Gathering:
    """See the module. `backends` are those that the configuration names now, with their urls."""

    def __init__(
        self,
        index: ModelIndex,
        backends: Callable[[], Mapping[str, str]],
        unix_ms: Callable[[], int],
    ) -> None:
        self.index = index
        self._backends = backends
        self._unix_ms = unix_ms
        self._told: dict[str, _Told] = {}
        self._warned: set[str] = set()  # sources whose oddities were told
        self._listeners: list[Callable[[], None]] = []
        self._listings = 0  # how often the models of backends were put together
        self.library_unix_ms: int | None = None  # when the library last answered whole

    def on_gathered(self, listener: Callable[[], None]) -> None:
        """It is called when there is something else to be kept than before."""
        self._listeners.append(listener)

    def begin_with(self, kept: KeptList) -> None:
        """What the last run knew, before anybody has been asked."""
        times = kept.times
        library: list[LibraryModel] = []
        local: dict[str, list[ModelFacts]] = {}
        for model in kept.models:
            listed = library_of(model)
            if listed is not None:
                library.append(listed)
            for backend, facts in local_of(model):
                local.setdefault(backend, []).append(facts)
        checked = Checked()
        for backend, url in {SOMEWHERE: "", **self._backends()}.items():
            before = times.backends.get(backend)
            if before is not None and before.url != url:
                continue  # another server has that name now
            if before is not None or backend in local:
                found = checked.facts(local.get(backend, ()))
                listed_ms = None if before is None else before.listed_unix_ms
                self._told[backend] = _Told(found, listed_ms, False)
        self.library_unix_ms = times.library_unix_ms
        rows = at_once(library_rows(checked.library(library))) if library else None
        self._warn("the list of the last run", checked.oddities)
        self._replace(rows)

    def name(self, names: Iterable[str]) -> None:
        """The configuration names these models from now on."""
        named = keys_of(names)
        if named != self.index.named:
            self.index.named = named
            self._listings += 1
            models = at_once(self._local(self.index.library))
            self.index.replace(self._unix_ms(), local=models)

    def listed(self, backend: str, facts: Sequence[ModelFacts]) -> None:
        """This backend has these models now, and no others."""
        checked = Checked()
        found = checked.facts(facts)
        self._warn(backend, checked.oddities)
        before = self._told.get(backend)
        self._told[backend] = _Told(found, self._unix_ms(), True)
        if before is not None and before.is_of_this_run and before.facts == found:
            return
        if all(each in self._told and self._told[each].is_of_this_run for each in self._backends()):
            self._told.pop(SOMEWHERE, None)
        self._replace(None)
        self._tell()

    def same(self, backend: str) -> None:
        """It has the models that it told last."""
        told = self._told.get(backend)
        if told is not None and told.is_of_this_run:
            told.listed_unix_ms = self._unix_ms()

    def forget(self, backend: str) -> None:
        """It was taken out of the configuration."""
        if self._told.pop(backend, None) is not None:
            self._replace(None)
            self._tell()

    def library(self, told: Iterable[LibraryModel]) -> Steps[None]:
        """The library lists these now. Nothing has changed until the last step."""
        checked = Checked()
        rows = yield from library_rows(checked.library(told))
        self._warn("library", checked.oddities)
        is_same = yield from rows.same(self.index.library)
        self.library_unix_ms = self._unix_ms()
        if is_same:
            return
        models: list[KnownModel] | None = None
        listings = -1
        while listings != self._listings:  # what a backend says meanwhile is said of old rows
            listings = self._listings
            models = yield from self._local(rows)
        self.index.replace(self._unix_ms(), local=models, library=rows)
        self._tell()

    def listed_unix_ms(self, backend: str) -> int | None:
        """When this one last told all of its models; None: never, as far as is known."""
        told = self._told.get(backend)
        return None if told is None else told.listed_unix_ms

    def knows(self, backend: str) -> bool:
        """Is anything known of its models, however old?"""
        return backend in self._told

    def was_heard(self, backend: str) -> bool:
        """Has it told its models in this run?"""
        told = self._told.get(backend)
        return told is not None and told.is_of_this_run

    def to_keep(self) -> tuple[Iterator[KeptModel], KeptTimes]:
        """All of it, as it is now, whatever comes while the models are taken."""
        urls = self._backends()
        backends = {
            name: KeptBackend(url=urls[name], listed_unix_ms=told.listed_unix_ms)
            for name, told in self._told.items()
            if name in urls and told.listed_unix_ms is not None
        }
        facts = {name: told.facts for name, told in self._told.items()}
        times = KeptTimes(library_unix_ms=self.library_unix_ms, backends=backends)
        return kept_models(facts, self.index.library), times

    def _replace(self, rows: LibraryRows | None) -> None:
        self._listings += 1
        models = at_once(self._local(self.index.library if rows is None else rows))
        if rows is None and sorted(models, key=lambda each: each.key) == list(self.index.local()):
            return
        self.index.replace(self._unix_ms(), local=models, library=rows)

    def _local(self, library: LibraryRows) -> Steps[list[KnownModel]]:
        order = [*self._backends(), *self._told]  # the configuration's order, then who leaves yet
        facts = {name: self._told[name].facts for name in order if name in self._told}
        return local_models(facts, library, self.index.named)

    def _tell(self) -> None:
        for each in self._listeners:
            each()

    def _warn(self, source: str, oddities: Oddities) -> None:
        if not oddities.count:
            self._warned.discard(source)
        elif source not in self._warned:
            self._warned.add(source)
            _log.warning(
                "a source of models tells what cannot be so; that is left out",
                source=source,
                count=oddities.count,
                first=oddities.first,
            )
