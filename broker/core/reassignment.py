"""Which model answers what waits: chosen again when the level, the models, the backends or the
policy change, and when a load has ended.

Nothing that waits is refused for the level's sake: what no small model may or can answer keeps its
place and goes when the level lets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker.core.backlog import Backlog
from broker.core.errors import BrokerError, NoBackend
from broker.core.ledger import Ledger
from broker.core.lifecycle import WAITS, State, Trigger
from broker.core.model_name import comparison_key
from broker.core.offers import is_held
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.targets import (
    check_capabilities,
    context_line,
    find_line,
    find_model,
    may_run,
)


class Choice(NamedTuple):
    """The model that is to answer, and the line to wait in for it."""

    model: str  # comparison key
    line: LineKey
    is_for_level: bool  # another model than was asked for, because only small ones run


class Reassignment:
    """See the module."""

    def __init__(
        self, ledger: Ledger, backlog: Backlog, backends: Mapping[str, BackendState]
    ) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._offers = backlog.offers
        self._backends = backends

    def look_at_all(self, now_ns: int) -> None:
        """Places all that waits as things are now, in the order in which it came."""
        known = {runner for each in self._backends.values() for runner in each.by_runner}
        for record in list(self._ledger.records.values()):
            if record.state in WAITS:
                self._look(record, record.line[0] in known, now_ns)

    def look(self, record: Record, now_ns: int) -> None:
        """The same for one that waits."""
        runner = record.line[0]
        is_known = any(runner in each.by_runner for each in self._backends.values())
        self._look(record, is_known, now_ns)

    def _look(self, record: Record, is_known: bool, now_ns: int) -> None:
        """Lets what the level offers hold: another model answers, or the one that was asked for
        again, or the default answer. Where the model is gone for good this is the end."""
        offers = self._offers
        if is_known and not record.is_for_level and not offers.has_small_only:
            return  # the usual case
        allows_answer = offers.allows_answer(record.spec)
        if allows_answer and is_held(offers.held, record.priority, record.compartment):
            self._ledger.answer(record, now_ns)
            return
        try:
            choice = self._choose(record, is_known, now_ns)
        except BrokerError as error:
            if record.state is State.QUEUED:  # one in the waiting room hears of it when it enters
                self._ledger.end(record, Trigger.FAIL, error, now_ns)
            return
        self._assign(record, choice)
        if choice.line != record.line:
            self._backlog.move(record, now_ns, line=choice.line)
        if allows_answer and offers.holds(record):
            self._ledger.answer(record, now_ns)

    def _assign(self, record: Record, choice: Choice) -> None:
        if choice.model != record.model:
            asked = record.spec.model
            record.substituted_for = "" if comparison_key(asked) == choice.model else asked
        record.model, record.is_for_level = choice.model, choice.is_for_level

    def _choose(self, record: Record, is_known: bool, now_ns: int) -> Choice:
        """What is to answer from now on. ModelUnknown where nothing is left that may."""
        offers, kept = self._offers, None
        try:
            line = record.line if is_known else find_line(record.spec, record.model, self._backends)
            kept = Choice(record.model, line, record.is_for_level)
        except BrokerError:  # it is gone, or another under its name cannot do this
            if not record.is_for_level:
                raise
        if kept is not None and kept.is_for_level:
            stays = may_run(kept.line[0], self._backends, now_ns)
        else:
            stays = kept is not None
        if offers.has_small_only:
            if kept is not None and stays and offers.is_small_runner(kept.line[0]):
                return kept
            small = offers.small_model(record.spec, now_ns)
            if small is not None:
                return Choice(small.key, small.line, True)
        elif kept is not None and not kept.is_for_level:
            return kept
        return self._asked_for(record, kept, now_ns, stays=stays)

    def _asked_for(
        self, record: Record, kept: Choice | None, now_ns: int, *, stays: bool
    ) -> Choice:
        """What was asked for. While that is not there, what it has, where it `stays` there; else it
        waits for what was asked for to come back."""
        if kept is not None and not kept.is_for_level:
            return kept
        spec, asked = record.spec, comparison_key(record.spec.model)
        problem: BrokerError | None = None
        try:
            key, model, _ = find_model(spec, self._backends)
            check_capabilities(spec, model)
            if key == asked or may_run(model.runner, self._backends, now_ns):
                return Choice(key, context_line(spec, model), False)
        except NoBackend as error:
            problem = error
        except BrokerError:
            if kept is None:
                raise
            return kept
        if kept is not None and stays:
            return kept
        try:
            return Choice(asked, find_line(spec, asked, self._backends), False)
        except BrokerError as error:
            if kept is None:
                raise problem or error from None
            return kept

    def enter(self, record: Record, now_ns: int) -> None:
        """The line of one that leaves the waiting room, as things are now. Raises what it then ends
        with: its model may be gone, or another than it was."""
        if not record.is_for_level:
            record.line = find_line(record.spec, record.model, self._backends)
            return
        choice = self._choose(record, False, now_ns)
        self._assign(record, choice)
        record.line = choice.line
