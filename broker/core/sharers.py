"""What waits, by what its prompts begin with: those that begin alike, on each runner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from broker.core.record import Record
from broker.core.requests import RequestKey

_NOBODY: Final[Mapping[RequestKey, Record]] = {}

_Beginning = tuple[str, int]  # runner, hash


class Sharers:
    """See the module. Adding and dropping one takes constant time for each of its beginnings; what
    has none is not in it."""

    __slots__ = ("_by_beginning",)

    def __init__(self) -> None:
        self._by_beginning: dict[_Beginning, dict[RequestKey, Record]] = {}

    def add(self, record: Record) -> None:
        """It waits from now on."""
        runner = record.line[0]
        for prefix in record.spec.prefixes:
            self._by_beginning.setdefault((runner, prefix), {})[record.spec.key] = record

    def drop(self, record: Record) -> None:
        """It waits no longer."""
        runner = record.line[0]
        for prefix in record.spec.prefixes:
            those = self._by_beginning.get((runner, prefix))
            if those is None:
                continue  # the same hash at two lengths
            those.pop(record.spec.key, None)
            if not those:
                del self._by_beginning[runner, prefix]

    def of(self, runner: str, prefix: int) -> Iterable[Record]:
        """Those that begin so, in the order in which they began to wait there."""
        return self._by_beginning.get((runner, prefix), _NOBODY).values()

    def check(self, waiting: Iterable[Record]) -> bool:
        """Is it just these? O(n)."""
        expected = {
            (record.line[0], prefix, record.spec.key)
            for record in waiting
            for prefix in record.spec.prefixes
        }
        kept = {(*where, key) for where, those in self._by_beginning.items() for key in those}
        return kept == expected and all(self._by_beginning.values())
