"""What becomes of a request whose attempt came to nothing: another attempt, at once or after a
backoff, or none. The rules and what they lost against are in docs/adr/0014."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from broker.core.announcements import Announcer
from broker.core.backlog import Backlog
from broker.core.dispatch import spelled
from broker.core.effects import Effect, TellAttemptFailed, TellPreempted, TellRequeued
from broker.core.errors import BrokerError
from broker.core.failures import failure_of
from broker.core.flexible import Flexible
from broker.core.ledger import Ledger
from broker.core.lifecycle import State, Trigger
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.preemption import PREEMPTED
from broker.core.reassignment import Reassignment
from broker.core.record import PAST_MAX, STARTS_ALL, Attempt, Record
from broker.core.requests import OnInterruption
from broker.core.retry import RetryBudget, RetryPolicy, backoff_ns
from broker.core.stimuli import AttemptEnded
from broker.core.targets import may_start
from broker.core.timers import Timers
from broker.core.views import AttemptReport, AttemptView, PreemptionReport

# So often it is looked whether another backend has a slot for what its own wants later.
LOOK_AGAIN_NS: Final = 1_000_000_000


class Retries:
    """See the module. `chance` is the engine's only one."""

    def __init__(
        self,
        policy: RetryPolicy,
        chance: Random,
        ledger: Ledger,
        backlog: Backlog,
        reassignment: Reassignment,
        flexible: Flexible,
        announcer: Announcer,
        phases: Phases,
        backends: Mapping[str, BackendState],
        timers: Timers,
        emit: Callable[[Effect], None],
    ) -> None:
        self.policy = policy
        self._chance = chance
        self._ledger = ledger
        self._backlog = backlog
        self._reassignment = reassignment
        self._flexible = flexible
        self._announcer = announcer
        self._phases = phases
        self._backends = backends
        self._timers = timers
        self._emit = emit
        self._budgets: dict[str, RetryBudget] = {}  # by backend

    def configure(self, policy: RetryPolicy) -> None:
        """What fails from now on is tried again by this; of a backend that is gone nothing is
        remembered."""
        self.policy = policy
        for name in [each for each in self._budgets if each not in self._backends]:
            del self._budgets[name]

    def budget(self, backend: str) -> RetryBudget:
        """That of this backend."""
        found = self._budgets.get(backend)
        if found is None:
            found = self._budgets[backend] = RetryBudget(self.policy)
        return found

    def left(self, backend: str) -> float:
        """How many retries this backend may cause now; told to who asks."""
        found = self._budgets.get(backend)
        return self.policy.budget_max if found is None else max(0.0, found.left)

    def started(self, attempt: Attempt) -> None:
        """It has begun. The first one of a request earns; one that was put back for another backend
        and has come again to the one that failed it is charged to that now, whatever is left."""
        record, backend = attempt.record, attempt.backend
        if record.tries == 1:
            budget = self._budgets.get(backend)
            if budget is not None:  # else it is whole
                budget.earn(self.policy)
        elif record.spared_by == backend:
            self.budget(backend).owe()
            attempt.is_owed = True

    def wait_ns(self, attempt: Attempt, error: BrokerError, now_ns: int) -> int | None:
        """After which time its request is tried again; None: it is not."""
        record, failure = attempt.record, failure_of(error)
        has_streamed = record.has_streamed or record.state is State.STREAMING
        if has_streamed and record.spec.on_interruption is OnInterruption.FAIL:
            return None
        record.away_until_ns = 0
        if not failure.costs_try:
            record.tries_free += 1
            return 0
        tries = record.tries - record.tries_free
        if not failure.retries or tries >= self.policy.tries_max:
            return None
        if not failure.was_called and record.state is State.DISPATCHED:
            if attempt.is_owed:
                self.budget(attempt.backend).give_back(self.policy)
            return 0  # it is for another backend, or for this one to come back
        return self._backoff_ns(attempt, error, tries, now_ns)

    def _backoff_ns(
        self, attempt: Attempt, error: BrokerError, tries: int, now_ns: int
    ) -> int | None:
        """The same of a call that may have worked: it costs budget, and a while."""
        record, failure = attempt.record, failure_of(error)
        may_go = self._may_go_elsewhere(attempt, now_ns)
        if failure.elsewhere_only and not may_go:
            return None
        again_ns = error.retry_after_ns or 0
        drawn_ns = backoff_ns(self.policy, tries, self._chance.random())
        wait_ns = drawn_ns if may_go else max(drawn_ns, again_ns)
        if now_ns + wait_ns >= record.deadline_ns:
            return None
        budget, record.spared_by = self.budget(attempt.backend), ""
        # What had begun to answer is no call that was in vain from the start: a server that dies
        # under load takes many of them along.
        is_spared = record.state is State.STREAMING or failure.elsewhere_only
        if is_spared and may_go and not budget.is_overdrawn:
            record.spared_by = attempt.backend
        elif not budget.spend():
            return None
        record.away_until_ns = now_ns + again_ns if again_ns else 0
        return wait_ns

    def _may_go_elsewhere(self, attempt: Attempt, now_ns: int) -> bool:
        """Would another backend take it up?"""
        runner = attempt.residency.runner
        return any(
            runner in each.by_runner and may_start(each, runner, now_ns)
            for name, each in self._backends.items()
            if name != attempt.backend
        )

    def tell(self, attempt: Attempt, error: BrokerError, wait_ns: int | None) -> None:
        """Remembers an attempt that came to nothing, and tells those who observe."""
        record = attempt.record
        view = view_of(attempt, error.reason, error.message, wait_ns or 0)
        record.past = (*record.past[1 - PAST_MAX :], view)
        report = AttemptReport(
            key=record.spec.key,
            agent_type=record.agent.type.name,
            model=spelled(attempt),
            backend=attempt.backend,
            number=attempt.number,
            reason=error.reason,
            message=error.message,
            pieces=attempt.pieces,
            is_retried=wait_ns is not None,
            backoff_ns=wait_ns or 0,
            run_ns=max(0, attempt.ended_ns - attempt.started_ns),
            gpu_share=attempt.residency.gpu_share,
        )
        self._emit(TellAttemptFailed(report))

    def put_back(self, attempt: Attempt, ended: AttemptEnded, wait_ns: int, now_ns: int) -> None:
        """Its slot is free again: it waits for its next attempt."""
        record = attempt.record
        self._backends[attempt.backend].retries += 1
        record.has_streamed = record.has_streamed or attempt.pieces > 0
        self._wait_again(attempt, ended, wait_ns, now_ns)

    def set_aside(self, attempt: Attempt, ended: AttemptEnded, wait_ns: int, now_ns: int) -> None:
        """Urgent work has its slot, which is free after that time: it waits again at its old place.
        It has failed nobody, nor has its backend; and its owner lets it begin anew, whatever may be
        done when an attempt is lost."""
        record, why = attempt.record, attempt.given_up
        message = why.message if why is not None else ""
        record.tries_free += 1
        record.preemptions += 1
        record.away_until_ns = 0  # what failed it before that is not where it would come again
        if attempt.is_owed:
            record.spared_by = ""  # it was charged for coming again
        view = view_of(attempt, PREEMPTED, message, wait_ns)
        record.past = (*record.past[1 - PAST_MAX :], view)
        voids_pieces = self._wait_again(attempt, ended, wait_ns, now_ns)
        record.has_streamed = record.has_streamed or record.pieces_kept > 0
        report = PreemptionReport(
            key=record.spec.key,
            agent_type=record.agent.type.name,
            model=view.model,
            backend=attempt.backend,
            priority=record.priority,
            level=attempt.level,
            number=attempt.number,
            times=record.preemptions,
            pieces=attempt.pieces,
            voids_pieces=voids_pieces,
            waste_ns=attempt.waste_ns,
            message=message,
            run_ns=max(0, attempt.ended_ns - attempt.started_ns),
            gpu_share=attempt.residency.gpu_share,
        )
        self._emit(TellPreempted(attempt.id, report))

    def _wait_again(self, attempt: Attempt, ended: AttemptEnded, wait_ns: int, now_ns: int) -> bool:
        """It waits for its next attempt. Is what came so far void?"""
        record = attempt.record
        voids_pieces = _keep(record, attempt.pieces, is_continuable=ended.is_continuable)
        record.move(Trigger.REQUEUE)
        record.attempt = None
        record.told_reason = None
        record.starts_before, record.starts_in_room = STARTS_ALL, 0  # it is in no line
        # Paid back only once it waits in line: an agent with nothing waiting or running would be
        # forgotten with its counter.
        record.owed = attempt.flow, attempt.charged
        self._emit(TellRequeued(record.spec.key, record.past[-1].problem, voids_pieces))
        self._phases.waits(record, now_ns)
        self._ledger.set_deadline(record, record.asked_until_ns, now_ns)  # may it still be in time?
        if wait_ns == 0:
            self._enter(record, now_ns)
            return voids_pieces
        self._ledger.backing_off += 1
        record.backoff_timer = self._timers.set(now_ns + wait_ns, self._backoff_over, record)
        self._announcer.tell_standing(record, 1, now_ns)
        return voids_pieces

    def _backoff_over(self, record: Record, now_ns: int) -> None:
        if now_ns < record.away_until_ns and self._would_come_again(record):
            at_ns = min(now_ns + LOOK_AGAIN_NS, record.away_until_ns)
            record.backoff_timer = self._timers.set(at_ns, self._backoff_over, record)
            return
        self._ledger.backing_off -= 1
        record.backoff_timer = 0
        self._enter(record, now_ns)
        if record.state is State.QUEUED:
            self._announcer.tell_first(record, now_ns)

    def _would_come_again(self, record: Record) -> bool:
        """Would it start where it is not wanted yet, as that takes its runner and no other backend
        has a slot for it?"""
        (runner, num_ctx), failed_on = record.line, record.past[-1].backend
        failed = self._backends.get(failed_on)
        if failed is None or not failed.takes(runner):
            return False
        for name, backend in self._backends.items():
            residency = backend.resident(runner)
            if name == failed_on or residency is None or not backend.takes(runner):
                continue
            if residency.has_free_slot and residency.fits(num_ctx):
                return False
        return True

    def _enter(self, record: Record, now_ns: int) -> None:
        """It waits in its line, at its old place; the level may be another one than when it
        started, and so may be what there is to answer it."""
        self._reassignment.look(record, now_ns)
        if record.state is not State.REQUEUED:
            return  # it was answered
        if record.spec.prefer_loaded:
            self._flexible.place(record, now_ns)
        record.move(Trigger.ENQUEUE)
        record.starts_before = self._ledger.attempts_made
        self._backlog.enter(record, now_ns)
        self._ledger.pay_back(record)
        self._reassignment.look(record, now_ns)  # which ends it where nothing is left to answer it


def _keep(record: Record, pieces: int, *, is_continuable: bool) -> bool:
    """What has come is kept, where the next attempt goes on from it. Else it is void: is there
    any?"""
    pieces += record.pieces_kept
    goes_on = record.spec.on_interruption is OnInterruption.CONTINUE and is_continuable
    record.pieces_kept = pieces if goes_on else 0
    return pieces > 0 and not goes_on


def view_of(attempt: Attempt, reason: str, problem: str, wait_ns: int = 0) -> AttemptView:
    """One call as it is remembered."""
    return AttemptView(
        number=attempt.number,
        backend=attempt.backend,
        model=spelled(attempt),
        started_ns=attempt.started_ns,
        first_token_ns=attempt.first_token_ns,
        ended_ns=attempt.ended_ns,
        pieces=attempt.pieces,
        reason=reason,
        problem=problem,
        backoff_ns=wait_ns,
        continued=attempt.continues,
    )
