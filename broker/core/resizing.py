"""What waits is weighed anew when what it begins with has been read for the first time.

A burst of requests with one long beginning comes before any server has read that, and each is put
down with all of its prompt to be read. Once the first of them has been served the others have less
to read: they are taken for shorter, stand back by less, and so run next, in the slot that still has
what they share. That is done when the first ends and not when it starts: until then no other slot
of its server has anything of it, and whoever ran beside it would read the same once more
(docs/adr/0023). Each keeps its place, its age and its claim, and nobody is taken for longer.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from broker.core.backlog import Backlog
from broker.core.estimates import Estimates
from broker.core.prefixes import PREFIX_BYTES, Prefixes
from broker.core.record import Record

# Of those that share a beginning so many are weighed anew, the ones that have waited for longest:
# by the time that they have run the server may have forgotten it.
SHARERS_MAX: Final = 64


class Resizing:
    """See the module."""

    def __init__(self, backlog: Backlog, prefixes: Prefixes, estimates: Estimates) -> None:
        self._backlog = backlog
        self._prefixes = prefixes
        self._estimates = estimates

    def was_read(self, record: Record) -> None:
        """This one, the first of its runner to begin so, has been served. Takes steps for at most
        `SHARERS_MAX` requests at each length that was new."""
        runner, hashes = record.line[0], record.spec.prefixes
        for place in range(len(hashes) - 1, -1, -1):
            if PREFIX_BYTES[place] <= record.new_from_bytes:
                return
            for each in islice(self._backlog.sharers.of((runner, hashes[place])), SHARERS_MAX):
                self._weigh(each, runner)

    def _weigh(self, record: Record, runner: str) -> None:
        known_bytes = self._prefixes.known_bytes(runner, record.spec)
        if known_bytes <= record.known_bytes:
            return
        record.known_bytes = known_bytes
        service_ns = self._estimates.size_ns(runner, record.spec, known_bytes)
        if service_ns < record.service_ns:
            self._backlog.ease(record, service_ns)
