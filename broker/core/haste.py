"""A fallback for what waits and surely comes too late by its own model.

On the way in that is the gate's to find (`admission.py`). Here it is found once time has passed:
the load that was needed did not begin, or those before it took longer.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.backlog import Backlog
from broker.core.failover import Ways, fallback_keys
from broker.core.lateness import Lateness
from broker.core.lifecycle import State
from broker.core.placement import BackendState
from broker.core.reassignment import Choice, Reassignment
from broker.core.record import Record


class Haste:
    """See the module."""

    def __init__(
        self,
        lateness: Lateness,
        reassignment: Reassignment,
        backlog: Backlog,
        backends: Mapping[str, BackendState],
    ) -> None:
        self._lateness = lateness
        self._reassignment = reassignment
        self._backlog = backlog
        self._backends = backends

    def spare(self, record: Record, now_ns: int) -> bool:
        """Lets the first of its caller's fallbacks answer by which it may be in time. Is there one?
        One that is with a fallback for this already stays there, and what the level has chosen is
        left alone."""
        offers, spec = self._backlog.offers, record.spec
        if record.state is not State.QUEUED or not fallback_keys(spec) or offers.has_small_only:
            return False
        if not record.may_join:
            return False
        ways = Ways(self._backends, self._backlog.ready, lambda model: True, now_ns)
        for found in ways.fallbacks(spec):
            if found.key == record.model:
                continue
            if not self._lateness.is_too_late(found.line[0], record, now_ns):
                instead = f"by what was measured {record.model} answers after the deadline"
                choice = Choice(found.key, found.line, False, instead, True)
                self._reassignment.assign(record, choice, now_ns)
                return True
        return False
