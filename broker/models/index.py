"""The list of models: everything known, ready to be searched, paged and watched.

Answered from memory; nobody waits for a backend or for the library. A change takes effect as a
whole: who asks sees the list before it or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from broker.core.model_name import comparison_key, nearest
from broker.core.usage import ModelUse
from broker.models.known import KnownModel

LIBRARY: Final = "library"  # the source that is no backend


class Availability(Enum):
    """Whether a model is there, or could be."""

    DOWNLOADED = "downloaded"
    DOWNLOADABLE = "downloadable"
    ALL = "all"


class Order(Enum):
    """Of a list. By size: what has no known size is last. By use: the most used first."""

    NAME = "name"
    SIZE = "size"
    USE = "use"


class Freshness(Enum):
    """How old what is known is, by the ages of the configuration."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"
    EMPTY = "empty"  # nothing is known at all


def _all(_: KnownModel) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery:
    """Which models; all that is set must hold. Numbers of 0 ask nothing. What has no known size is
    not at most any size, and so for contexts. `admits` is what only the caller can judge; it is
    asked of those that all else holds for."""

    search: str = ""
    availability: Availability = Availability.DOWNLOADED
    capabilities: frozenset[str] = frozenset()
    size_bytes_max: int = 0
    context_min: int = 0
    exclude_guards: bool = False
    exclude_dynamic: bool = False
    admits: Callable[[KnownModel], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPage:
    """`next_token` "" means that these were the last; `total` counts all pages."""

    models: tuple[KnownModel, ...]
    next_token: str
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """A backend, or the library. `up`: did it answer when it was last asked? `age_ms`: since it
    last answered whole, None where that is not known."""

    name: str
    up: bool
    age_ms: int | None
    freshness: Freshness
    problem: str = ""


def _nothing(_: str) -> ModelUse:
    return ModelUse()


class ModelIndex:
    """See the module. `uses` says how much a model was used, by its name or the key of it; `used`
    names all that were used at all."""

    def __init__(self) -> None:
        self._models: list[KnownModel] = []
        self._callbacks: list[Callable[[], None]] = []
        self.changed_unix_ms = 0
        self.is_loading = False
        self.uses: Callable[[str], ModelUse] = _nothing
        self.used: Callable[[], Iterable[str]] = tuple

    def replace(self, models: Iterable[KnownModel], unix_ms: int) -> None:
        """From now on these are known."""
        self._models = sorted(models, key=lambda each: each.key)
        self.changed_unix_ms = max(self.changed_unix_ms + 1, unix_ms)
        for each in self._callbacks:
            each()

    def on_change(self, callback: Callable[[], None]) -> None:
        """It is called once for each change, when that is whole."""
        self._callbacks.append(callback)

    def sources(self, now_unix_ms: int) -> tuple[SourceState, ...]:
        """Where what is known comes from: the backends in their order, then the library."""
        return ()

    def get(self, name: str) -> KnownModel | None:
        """The model of this name, or None."""
        key = comparison_key(name)
        return next((each for each in self._models if each.key == key), None)

    def nearest(self, name: str) -> tuple[str, ...]:
        """Up to three names that look most like this one."""
        return nearest(name, [each.name for each in self._models])

    def page(self, query: ModelQuery, order: Order, after_token: str, size: int) -> IndexPage:
        """Up to `size` of those that the query means, after those of the page that this token came
        with; "" begins."""
        found = sorted((each for each in self._models if _means(query, each)), key=self._by(order))
        names = [each.name for each in found]
        start = names.index(after_token) + 1 if after_token in names else 0
        chosen = tuple(found[start : start + size])
        token = chosen[-1].name if start + size < len(found) else ""
        return IndexPage(models=chosen, next_token=token, total=len(found))

    def _by(self, order: Order) -> Callable[[KnownModel], tuple[int, str]]:
        if order is Order.SIZE:
            return lambda each: (each.size_bytes or 1 << 62, each.key)
        if order is Order.USE:
            return lambda each: (-self.uses(each.name).requests, each.key)
        return lambda each: (0, each.key)


def _means(query: ModelQuery, model: KnownModel) -> bool:
    wants = query.availability
    text = f"{model.name} {model.family} {model.description}".lower()
    return (
        (wants is Availability.ALL or model.downloaded == (wants is Availability.DOWNLOADED))
        and query.capabilities <= model.capabilities
        and all(word in text for word in query.search.lower().split())
        and (not query.size_bytes_max or 0 < model.size_bytes <= query.size_bytes_max)
        and model.context_window >= query.context_min
        and not (query.exclude_guards and model.is_guard)
        and not (query.exclude_dynamic and model.is_dynamic)
        and (query.admits or _all)(model)
    )
