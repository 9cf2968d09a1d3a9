"""What waits, found by something else than its place: by who else may answer it, or how it begins.

Constant time for each key of a request; one that has none is not in it, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

from broker.core.record import Record
from broker.core.requests import RequestKey

K = TypeVar("K", bound=Hashable)

_NOBODY: Final[Mapping[RequestKey, Record]] = {}


class WaitingIndex(Generic[K]):
    """See the module. `keys_of` gives the keys of a request, some perhaps twice; they stay the same
    while it waits."""

    __slots__ = ("_by_key", "_keys_of")

    def __init__(self, keys_of: Callable[[Record], Iterable[K]]) -> None:
        self._keys_of = keys_of
        self._by_key: dict[K, dict[RequestKey, Record]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def add(self, record: Record) -> None:
        """It waits from now on."""
        for key in self._keys_of(record):
            self._by_key.setdefault(key, {})[record.spec.key] = record

    def drop(self, record: Record) -> None:
        """It waits no longer."""
        for key in self._keys_of(record):
            those = self._by_key.get(key)
            if those is None:
                continue  # the same key twice
            those.pop(record.spec.key, None)
            if not those:
                del self._by_key[key]

    def of(self, key: K) -> Iterable[Record]:
        """Those of this key, in the order in which they began to wait there."""
        return self._by_key.get(key, _NOBODY).values()

    def count(self, key: K) -> int:
        """How many these are. O(1)."""
        return len(self._by_key.get(key, _NOBODY))

    def check(self, waiting: Iterable[Record]) -> bool:
        """Is it just these? O(n)."""
        expected = {(key, record.spec.key) for record in waiting for key in self._keys_of(record)}
        kept = {(key, each) for key, those in self._by_key.items() for each in those}
        return kept == expected and all(self._by_key.values())


def others_of(record: Record) -> list[str]:
    """The runners that may answer it as well as its own."""
    return [each.line[0] for each in record.accepts]


def beginnings_of(record: Record) -> list[tuple[str, int]]:
    """Its runner with the hash of each of its beginnings."""
    runner = record.line[0]
    return [(runner, prefix) for prefix in record.spec.prefixes]
