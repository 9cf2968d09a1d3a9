"""All that waits: the lines, who enters and who leaves them, and the counts that follow."""

from __future__ import annotations

from collections.abc import Callable

from broker.core.estimates import Estimates
from broker.core.placement import LineKey
from broker.core.queueing import Line, QueuePolicy
from broker.core.record import Record
from broker.core.requests import RequestKey
from broker.core.tally import Tally


class Backlog:
    """One line per (runner, context size), kept only while somebody waits in it.

    `note` hears of each runner whose waiting requests may stand elsewhere now. The dictionary of
    the lines is one for ever, so that others may hold on to it and read.
    """

    __slots__ = ("_estimates", "_note", "_policy", "_tally", "lines", "size_bytes")

    def __init__(
        self,
        policy: QueuePolicy,
        tally: Tally,
        estimates: Estimates,
        note: Callable[[str], None],
    ) -> None:
        self.lines: dict[LineKey, Line] = {}
        self.size_bytes = 0  # of all that waits
        self._policy = policy
        self._tally = tally
        self._estimates = estimates
        self._note = note

    def enter(self, record: Record, now_ns: int) -> None:
        """A request waits now, behind what is there of its agent."""
        self._push(record, now_ns, None)

    def come_back(self, record: Record, now_ns: int) -> None:
        """A request that had been taken waits again, at its old place."""
        self._push(record, now_ns, record.head_since_ns)

    def take(self, record: Record, now_ns: int) -> None:
        """The next of its line gets a slot."""
        line = self.lines[record.line]
        record.head_since_ns = line.take(record.spec.key, record.spec.priority, now_ns)
        self._left(record, line, now_ns)

    def withdraw(self, record: Record, now_ns: int) -> None:
        """A request leaves from wherever it stands."""
        line = self.lines[record.line]
        line.remove(record.spec.key, record.spec.priority, now_ns)
        self._left(record, line, now_ns)

    def waiting(self, is_meant: Callable[[str], bool]) -> list[RequestKey]:
        """Those that wait for the runners that are meant, line by line."""
        return [
            key
            for (runner, _), line in self.lines.items()
            if is_meant(runner)
            for key in line.requests()
        ]

    def _push(self, record: Record, now_ns: int, head_since_ns: int | None) -> None:
        line = self.lines.get(record.line)
        if line is None:
            line = self.lines[record.line] = Line(self._policy)
        key, priority = record.spec.key, record.spec.priority
        line.push(key, priority, record.arrived_ns, now_ns, head_since_ns=head_since_ns)
        self._tally.queue(priority, 1)
        self.size_bytes += record.spec.size_bytes
        self._note(record.line[0])

    def _left(self, record: Record, line: Line, now_ns: int) -> None:
        if line.size == 0:
            del self.lines[record.line]
        self._tally.queue(record.spec.priority, -1)
        self.size_bytes -= record.spec.size_bytes
        self._estimates.departed(now_ns)
        if not self.lines:
            self._estimates.emptied()
        self._note(record.line[0])
