"""How well it is known which models there are: the words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Freshness(Enum):
    """How old what is known is, by the ages of the configuration."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"
    EMPTY = "empty"  # nothing is known at all


@dataclass(frozen=True, slots=True, kw_only=True)
class ListState:
    """The list at a moment, and how many watch it of how many that may. `age_ms` of the library's
    answer where there is a library, else of the oldest listing of a backend; `next_ms` None: no
    refresh is planned. `bytes_per_s` of the connection to the library, None where it was not
    measured. `refreshed` and `failed` count its refreshes since start, by their end."""

    downloaded: int = 0
    downloadable: int = 0
    freshness: Freshness = Freshness.EMPTY
    age_ms: int | None = None
    is_refreshing: bool = False
    problem: str = ""
    next_ms: int | None = None
    bytes_per_s: float | None = None
    file: str = ""
    refreshed: int = 0
    failed: int = 0
    watchers: int = 0
    watchers_max: int = 0
