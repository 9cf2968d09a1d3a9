"""What waits and accepts other models as well, by the runners that may answer it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from broker.core.record import Record
from broker.core.requests import RequestKey

_NOBODY: Final[Mapping[RequestKey, Record]] = {}


class Accepting:
    """See the module. Who accepts nothing else is not in it, and costs nothing."""

    __slots__ = ("_by_runner",)

    def __init__(self) -> None:
        self._by_runner: dict[str, dict[RequestKey, Record]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_runner)

    def add(self, record: Record) -> None:
        """It waits from now on."""
        for each in record.accepts:
            self._by_runner.setdefault(each.line[0], {})[record.spec.key] = record

    def drop(self, record: Record) -> None:
        """It waits no longer."""
        for each in record.accepts:
            those = self._by_runner.get(each.line[0])
            if those is None:
                continue
            those.pop(record.spec.key, None)
            if not those:
                del self._by_runner[each.line[0]]

    def of(self, runner: str) -> Iterable[Record]:
        """Those that this runner may answer, wherever they wait; in the order in which they began
        to wait there."""
        return self._by_runner.get(runner, _NOBODY).values()

    def count(self, runner: str) -> int:
        """How many that are. O(1)."""
        return len(self._by_runner.get(runner, _NOBODY))

    def check(self, waiting: Iterable[Record]) -> bool:
        """Is it just these? O(n)."""
        expected = {
            (each.line[0], record.spec.key) for record in waiting for each in record.accepts
        }
        kept = {(runner, key) for runner, those in self._by_runner.items() for key in those}
        return kept == expected and all(self._by_runner.values())
