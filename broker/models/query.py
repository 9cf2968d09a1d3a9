"""What may be asked of the list of models, and what it answers: the words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from broker.core.model_list import Freshness as Freshness
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
