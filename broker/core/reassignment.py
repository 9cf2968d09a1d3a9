"""Which model answers what waits: chosen again when the level, the models, the backends, a breaker
or the policy change, and when a load has ended.

Nothing that waits is refused for the level's sake: what no small model may or can answer keeps its
place and goes when the level lets it. What waits for a model that no backend takes goes to the
first of its caller's fallbacks that one does, and back as soon as its own is there again. What one
model began (`continue`) waits for that; where it is gone, or the level lets it run no longer, what
came is void and another begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from broker.core.backlog import Backlog
from broker.core.choosing import Choosing, Chosen
from broker.core.errors import BrokerError, NoBackend
from broker.core.failover import Ways, check_own
from broker.core.ledger import Ledger
from broker.core.lifecycle import WAITS, State, Trigger
from broker.core.model_name import comparison_key
from broker.core.offers import is_held
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.requests import RequestKind, RequestSpec, Substitution
from broker.core.selection import Selection
from broker.core.stimuli import ModelSpec
from broker.core.targets import (
    find_line,
    may_run,
    may_start,
    no_model,
)


class Choice(NamedTuple):
    """The model that is to answer, and the line to wait in for it."""

    model: str  # comparison key
    line: LineKey
    is_for_level: bool  # another model than was asked for, because only small ones run
    instead: str = ""  # why another is to answer, in words, where it is not for the level
    is_in_haste: bool = False  # is that because the line of its own would take too long?
    is_at_hand: bool = False  # is that because it is loaded, and its own is not?
    chosen: Chosen | None = None  # where its caller named none, and it was chosen anew


class Reassignment:
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        backlog: Backlog,
        backends: Mapping[str, BackendState],
        choosing: Choosing,
        on_chosen: Callable[[Record], None],
    ) -> None:
        self._choosing = choosing
        self._on_chosen = on_chosen
        # What was selected in this look at all, by what was wanted: hundreds may want the same.
        self._selected: dict[Hashable, Selection | None] | None = None
        self._ledger = ledger
        self._backlog = backlog
        self._offers = backlog.offers
        self._backends = backends

    def look_at_all(self, now_ns: int) -> None:
        """Places all that waits as things are now, in the order in which it came."""
        backends = self._backends.values()
        there = {runner for each in backends for runner in each.by_runner}
        able = {
            runner
            for each in backends
            for runner in each.by_runner
            if may_start(each, runner, now_ns)
        }
        self._selected = {}
        for record in list(self._ledger.records.values()):
            if record.state in WAITS:
                runner = record.line[0]
                self._look(record, runner in there, runner in able, now_ns)
        self._selected = None

    def look(self, record: Record, now_ns: int) -> None:
        """The same for one that waits."""
        runner = record.line[0]
        is_there = any(runner in each.by_runner for each in self._backends.values())
        self._look(record, is_there, may_run(runner, self._backends, now_ns), now_ns)

    def _look(self, record: Record, is_there: bool, is_able: bool, now_ns: int) -> None:
        """Lets what there is and what the level offers hold: another model answers, or the one that
        was asked for again, or the default answer. Where the model is gone for good this is the
        end. `is_there`: some backend has its runner; `is_able`: and would start it."""
        offers = self._offers
        is_own_way = not record.instead or record.is_in_haste or record.is_at_hand
        is_at_home = is_there and is_able and is_own_way
        if is_at_home and not record.is_for_level and not offers.has_small_only:
            return  # the usual case
        allows_answer = offers.allows_answer(record.spec) and not record.has_streamed
        if allows_answer and is_held(offers.held, record.priority, record.compartment):
            self._ledger.answer(record, now_ns)
            return
        try:
            choice = self._choose(record, is_there, now_ns)
        except BrokerError as error:
            if record.state is State.QUEUED:  # one in the waiting room hears of it when it enters
                self._ledger.end(record, Trigger.FAIL, error, now_ns)
            return
        self.assign(record, choice, now_ns)
        if allows_answer and offers.holds(record):
            self._ledger.answer(record, now_ns)

    def assign(self, record: Record, choice: Choice, now_ns: int) -> None:
        """Another model is to answer, or another line to be waited in, or for another reason. Who
        goes wherever a model is loaded keeps its age on all its ways."""
        is_other = choice.model != record.model
        self._assign(record, choice)
        if choice.chosen is not None:
            self._on_chosen(record)
        if choice.line != record.line:
            keeps_age = record.spec.prefer_loaded
            self._backlog.move(record, now_ns, line=choice.line, keeps_age=keeps_age)
        if is_other:
            self._ledger.hold_to_time_outs(record, now_ns)

    def by_need(self, spec: RequestSpec, now_ns: int) -> Choice | None:
        """What was asked for where some backend takes it, else a fallback that one takes; None
        where there is neither."""
        found = self._ways(now_ns).find(spec)
        return found and Choice(found.key, found.line, False, found.instead)

    def _assign(self, record: Record, choice: Choice) -> None:
        if record.pieces_kept and choice.line[0] != record.line[0]:
            why = (
                f"{choice.model} is to answer, which goes on with nothing that another model began"
            )
            if choice.model == record.model:
                why = f"{choice.model} is another file now, and begins anew"
            self._ledger.void(record, why)
        if choice.chosen is not None:
            record.spec, record.because = choice.chosen.spec, choice.chosen.because
        if choice.model != record.model:
            asked = record.spec.model
            is_own = comparison_key(asked) == choice.model or record.sent is not None
            record.substituted_for = "" if is_own else asked
            record.told_reason = None  # what it waits for has another name: it is told in any case
        record.model, record.is_for_level = choice.model, choice.is_for_level
        record.instead, record.is_in_haste = choice.instead, choice.is_in_haste
        record.is_at_hand = choice.is_at_hand

    def _choose(self, record: Record, is_there: bool, now_ns: int) -> Choice:
        """What is to answer from now on. ModelUnknown where nothing is left that may."""
        offers = self._offers
        kept, problem = self._kept(record, is_there)
        is_small_kept = kept is not None and offers.is_small_runner(kept.line[0])
        may_go_on = is_small_kept or not offers.has_small_only
        if kept is not None and may_go_on and _has_begun(kept, record):
            return kept
        if record.sent is not None:
            again = self._chosen_anew(record.sent, kept, now_ns, may_go_on=may_go_on)
            if again is not None:
                return again
        if not record.is_for_level and (not offers.has_small_only or kept is None or is_small_kept):
            return self._by_need(record, kept, problem, now_ns)
        stays = kept is not None and (
            not kept.is_for_level or may_run(kept.line[0], self._backends, now_ns)
        )
        if offers.has_small_only:
            if kept is not None and stays and is_small_kept:
                return kept
            small = offers.small_model(record.spec, now_ns)
            if small is not None:
                return Choice(small.key, small.line, True)
        return self._asked_for(record, kept, now_ns, stays=stays)

    def _kept(self, record: Record, is_there: bool) -> tuple[Choice | None, BrokerError | None]:
        """What it has, as things are now; None where that is gone, or another under its name cannot
        do this, and why."""
        try:
            line = record.line if is_there else find_line(record.spec, record.model, self._backends)
        except BrokerError as error:
            return None, error
        whose = record.is_for_level, record.instead, record.is_in_haste, record.is_at_hand
        return Choice(record.model, line, *whose), None

    def _by_need(
        self, record: Record, kept: Choice | None, problem: BrokerError | None, now_ns: int
    ) -> Choice:
        """What was asked for where some backend takes it, else a fallback that one takes; where
        there is none it waits for what it has, or for what was asked for to come back."""
        asked = comparison_key(record.spec.model)
        runner = "" if kept is None else kept.line[0]
        is_own = kept is not None and (kept.is_in_haste or kept.is_at_hand or kept.model == asked)
        if kept is not None and is_own and may_run(runner, self._backends, now_ns):
            return kept
        found = self._ways(now_ns).find(record.spec, runner)
        if found is not None and (kept is None or found[:2] != (kept.model, kept.line)):
            return Choice(found.key, found.line, False, found.instead)
        if kept is not None:
            return kept
        try:
            return Choice(asked, find_line(record.spec, asked, self._backends), False)
        except BrokerError as error:
            check_own(record.spec, self._backends)  # which says what could do this
            raise problem or error from None

    def _chosen_anew(
        self, sent: RequestSpec, kept: Choice | None, now_ns: int, *, may_go_on: bool
    ) -> Choice | None:
        """Another model for one whose caller named none, where what it has cannot answer now; None
        where it can, where nothing else would do, where its caller wants no other than that, or
        where its alias is gone: what that meant is not known any more."""
        if sent.substitution is Substitution.NEVER or not self._choosing.concerns(sent):
            return None
        runner = "" if kept is None else kept.line[0]
        if kept is not None and (
            sent.kind is RequestKind.EMBED
            or (may_go_on and may_run(runner, self._backends, now_ns))
        ):
            return None
        selection = self._select(sent, runner, now_ns)
        if selection is None or not selection.is_ready:
            return None
        model = selection.model.key
        if kept is not None and model == kept.model:
            return None
        chosen = self._choosing.naming(sent, selection)
        try:
            line = find_line(chosen.spec, model, self._backends)
        except BrokerError:
            return None
        return Choice(model, line, False, chosen=chosen)

    def _select(self, sent: RequestSpec, runner: str, now_ns: int) -> Selection | None:
        """None where nothing fits."""
        known = {} if self._selected is None else self._selected
        wanted = sent.model, sent.kind, sent.needs, sent.num_ctx_needed, sent.wants, runner
        if wanted not in known:
            try:
                known[wanted] = self._choosing.select(sent, now_ns, runner)
            except BrokerError:
                known[wanted] = None
        return known[wanted]

    def _ways(self, now_ns: int) -> Ways:
        offers = self._offers

        def suits(model: ModelSpec) -> bool:
            return not offers.has_small_only or offers.is_small(model)

        return Ways(self._backends, self._backlog.ready, suits, now_ns)

    def _asked_for(
        self, record: Record, kept: Choice | None, now_ns: int, *, stays: bool
    ) -> Choice:
        """What was asked for, or a fallback by need. While none of these is there, what it has,
        where it `stays` there; else it waits for what was asked for to come back."""
        if kept is not None and not kept.is_for_level:
            return kept
        spec, asked = record.spec, comparison_key(record.spec.model)
        problem: BrokerError | None = None
        try:
            found_own = check_own(spec, self._backends)
            if found_own is not None:
                own = Choice(asked, found_own[1], False)
                return self._by_need(record, own, None, now_ns)
            found = self._ways(now_ns).find(spec)
            if found is not None:
                return Choice(found.key, found.line, False, found.instead)
            raise no_model(spec, self._backends)
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
        choice = self._choose(record, False, now_ns)
        is_other = choice.model != record.model
        self._assign(record, choice)
        record.line = choice.line
        if is_other:
            self._ledger.hold_to_time_outs(record, now_ns)


def _has_begun(choice: Choice, record: Record) -> bool:
    """Is it what gave the pieces that stand?"""
    return record.pieces_kept > 0 and choice.line[0] == record.line[0]
