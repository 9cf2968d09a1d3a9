"""Which model answers what waits: chosen again when the level, the models or the policy change.

Nothing that waits is refused for the level's sake: what no small model may or can answer keeps its
place and goes when the level lets it.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.backlog import Backlog
from broker.core.errors import BrokerError, ModelUnknown
from broker.core.ledger import Ledger
from broker.core.lifecycle import WAITS, Trigger
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.targets import check_capabilities, context_line, find_line, find_model


class Reassignment:
    """See the module."""

    def __init__(
        self, ledger: Ledger, backlog: Backlog, backends: Mapping[str, BackendState]
    ) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._offers = backlog.offers
        self._backends = backends

    def level_changed(self, now_ns: int) -> None:
        """Places all that waits anew, in the order in which it came."""
        for record in list(self._ledger.records.values()):
            if record.state in WAITS:
                self.look(record, now_ns)

    def look(self, record: Record, now_ns: int) -> None:
        """Lets what the level offers hold for a request that waits: another model answers, or the
        one that it asked for again, or the default answer."""
        offers = self._offers
        if not record.is_for_level and not offers.has_small_only:
            return
        if offers.has_small_only:
            self._to_small(record, now_ns)
        else:
            self._back(record, now_ns)
        if offers.holds(record) and offers.allows_answer(record.spec):
            self._ledger.answer(record, now_ns)

    def _to_small(self, record: Record, now_ns: int) -> None:
        """To a small model, unless it has one already."""
        if self._offers.is_small_runner(record.line[0]):
            return
        small = self._offers.small_model(record.spec, now_ns)
        if small is not None:
            self._assign(record, small.key, small.line, now_ns, is_for_level=True)

    def _back(self, record: Record, now_ns: int) -> None:
        """To what it asked for. While that is not there it stays with the small one."""
        try:
            key, model, _ = find_model(record.spec, self._backends)
            check_capabilities(record.spec, model)
            line = context_line(record.spec, model)
        except BrokerError:
            return
        self._assign(record, key, line, now_ns, is_for_level=False)

    def _assign(
        self, record: Record, model: str, line: LineKey, now_ns: int, *, is_for_level: bool
    ) -> None:
        asked = record.spec.model
        is_asked = comparison_key(asked) == model
        record.model, record.substituted_for = model, "" if is_asked else asked
        record.is_for_level = is_for_level and not is_asked
        if line != record.line:
            self._backlog.move(record, now_ns, line=line)

    # Models that are there no longer

    def models_listed(self, known: set[str], now_ns: int) -> None:
        """What a waiting request was to run on may be gone. Where its model was pulled anew it
        waits for that, else this is its end."""
        for record in self._backlog.waiting(lambda line: line[0] not in known):
            try:
                line = self.find_line(record, now_ns)
            except BrokerError as error:
                self._ledger.end(record, Trigger.FAIL, error, now_ns)
            else:
                self._backlog.move(record, now_ns, line=line)

    def find_line(self, record: Record, now_ns: int) -> LineKey:
        """The line of a request that waits, as things are now. ModelUnknown where no backend has
        its model any more, nor, if the level chose that, another that may answer."""
        try:
            return find_line(record.spec, record.model, self._backends)
        except ModelUnknown:
            if not record.is_for_level:
                raise
        small = self._offers.small_model(record.spec, now_ns)
        if small is not None:
            record.model = small.key
            return small.line
        key, model, _ = find_model(record.spec, self._backends)
        check_capabilities(record.spec, model)
        self._assign(record, key, record.line, now_ns, is_for_level=False)
        return context_line(record.spec, model)
