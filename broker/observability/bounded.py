"""Label sets with a bound: 131 agents are told apart, 100,000 are not."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

OTHER: Final = "other"

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


class Bounded(Generic[K, S]):
    """What is counted for each of the first `limit` keys; all later ones share `other`.

    First come, first kept: a series that vanished would take its counts with it.
    """

    __slots__ = ("_kept", "_limit", "_make", "_other")

    def __init__(self, limit: int, make: Callable[[K], S], other: S) -> None:
        self._limit = limit
        self._make = make
        self._other = other
        self._kept: dict[K, S] = {}

    def of(self, key: K) -> S:
        """What is counted for this key."""
        found = self._kept.get(key)
        return self._new(key) if found is None else found

    def _new(self, key: K) -> S:
        if len(self._kept) >= self._limit:
            return self._other
        made = self._kept[key] = self._make(key)
        return made
