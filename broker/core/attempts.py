"""The life of an attempt: a slot is taken, a backend works, the slot is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.core.backlog import Backlog
from broker.core.dispatch import counted, order_of
from broker.core.effects import Effect, TellRequeued
from broker.core.errors import BackendUnreachable, BrokerError, InvariantBroken
from broker.core.estimates import Estimates
from broker.core.ledger import Ledger
from broker.core.lifecycle import State, Trigger
from broker.core.placement import BackendState
from broker.core.queueing import QueuePolicy
from broker.core.reassignment import Reassignment
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId
from broker.core.residencies import Residencies
from broker.core.residency import Residency
from broker.core.stimuli import AttemptEnded, FirstToken
from broker.core.tally import Tally
from broker.core.timers import Timers

# A request whose backend took no connection goes back to the queue at most so often. Retries with
# a budget and with back-off take this place later.
TRIES_MAX: Final = 3


class Attempts:
    """See the module. `policy` says what tokens cost; while `draining` nothing waits again."""

    def __init__(
        self,
        policy: QueuePolicy,
        ledger: Ledger,
        backlog: Backlog,
        residencies: Residencies,
        reassignment: Reassignment,
        estimates: Estimates,
        tally: Tally,
        timers: Timers,
        emit: Callable[[Effect], None],
    ) -> None:
        self.policy = policy
        self.draining = False
        self._ledger = ledger
        self._backlog = backlog
        self._residencies = residencies
        self._reassignment = reassignment
        self._estimates = estimates
        self._tally = tally
        self._timers = timers
        self._emit = emit

    def start(
        self, record: Record, backend: BackendState, residency: Residency, now_ns: int
    ) -> None:
        offers = self._backlog.offers
        flow, charged = self._backlog.take(record, now_ns)
        record.move(Trigger.DISPATCH)
        record.tries += 1
        ledger = self._ledger
        ledger.attempts_made += 1
        attempt = Attempt(
            id=AttemptId(ledger.attempts_made),
            record=record,
            backend=backend.name,
            residency=residency,
            started_ns=now_ns,
            flow=flow,
            charged=charged,
            level=offers.level,
            output_tokens_max=offers.output_tokens_max(record.spec) if offers.level else None,
        )
        record.attempt = ledger.attempts[attempt.id] = attempt
        residency.running += 1
        residency.use(now_ns, is_large=record.line[1] > 0)
        queue_wait_ns = now_ns - record.arrived_ns
        self._tally.run(record.priority, 1)
        self._tally.start(record.priority, queue_wait_ns)
        closed = self._backlog.bulkheads.closed
        is_small_first = offers.has_small_only and offers.is_small_runner(residency.runner)
        ledger.journal.start(attempt, closed, offers.held, is_small_first=is_small_first)
        self._run(record, 1, now_ns)
        self._emit(order_of(attempt, backend, queue_wait_ns))

    def _run(self, record: Record, change: int, now_ns: int) -> None:
        """One more or one less of this agent and compartment runs."""
        record.agent.running += change
        if self._backlog.bulkheads.run(record.compartment, change):
            self._backlog.look_again(now_ns)

    def first_token(self, first: FirstToken, now_ns: int) -> None:
        attempt = self._ledger.attempts.get(first.attempt)
        if attempt is None or attempt.ending is not None:
            return  # it was told to end while the token was on its way
        attempt.record.move(Trigger.FIRST_TOKEN)
        attempt.first_token_ns = now_ns
        self._tally.first_tokens.append(now_ns - attempt.record.arrived_ns)

    def ended(self, ended: AttemptEnded, now_ns: int) -> None:
        attempt = self._ledger.attempts.get(ended.attempt)
        if attempt is None:
            raise InvariantBroken(f"attempt {ended.attempt} ended twice or never began")
        error = ended.error
        if attempt.grace_timer:
            raise InvariantBroken(f"attempt {attempt.id} ended twice")
        if attempt.ending is not None:
            self._ledger.pay(attempt, ended, self.policy, now_ns)
            self._aborted(attempt, error, now_ns)
            return
        if isinstance(error, BackendUnreachable):
            self._residencies.lost(attempt.backend, error, now_ns)
        if error is not None and self._may_requeue(attempt, error):
            self._requeue(attempt, error, now_ns)
            return
        cost = self._ledger.pay(attempt, ended, self.policy, now_ns)
        record = attempt.record
        if error is not None and error.leaves_work:
            self._ledger.end(record, Trigger.FAIL, error, now_ns)
            self._aborted(attempt, error, now_ns)
            return
        self._release(attempt, now_ns)
        if error is None:
            self._measure(attempt, ended, cost, now_ns)
        trigger = Trigger.COMPLETE if error is None else Trigger.FAIL
        self._ledger.end(record, trigger, error, now_ns)

    def _measure(self, attempt: Attempt, ended: AttemptEnded, cost: int, now_ns: int) -> None:
        """A completed attempt says how long such requests run."""
        record, first_ns = attempt.record, attempt.first_token_ns
        self._estimates.served(
            record.line[0],
            attempt.backend,
            record.spec,
            now_ns - attempt.started_ns,
            first_ns - attempt.started_ns if first_ns else 0,
            *counted(ended),
            cost,
        )

    def _aborted(self, attempt: Attempt, error: BrokerError | None, now_ns: int) -> None:
        """An attempt that was told to end has ended. Its terminator proves that the work has too.
        Else the connection is closed, but the backend may compute a moment longer: the slot is not
        free before a time of grace (OLLAMA.md §3.6: 0.26 s at worst in 680 cancels)."""
        if error is None:
            self._release(attempt, now_ns)
        else:
            at_ns = now_ns + self._residencies.policy.slot_grace_ns
            attempt.grace_timer = self._timers.set(at_ns, self._release, attempt)

    def _may_requeue(self, attempt: Attempt, error: BrokerError) -> bool:
        """Only what surely was not begun: no connection, and not a token."""
        return (
            isinstance(error, BackendUnreachable)
            and attempt.record.state is State.DISPATCHED
            and attempt.record.tries < TRIES_MAX
            and not self.draining
        )

    def _requeue(self, attempt: Attempt, error: BrokerError, now_ns: int) -> None:
        record = attempt.record
        self._release(attempt, now_ns)
        record.move(Trigger.REQUEUE)
        record.attempt = None
        record.told_reason = None
        record.starts_before, record.starts_in_room = self._ledger.attempts_made, 0
        self._emit(TellRequeued(record.spec.key, error.message))
        record.move(Trigger.ENQUEUE)
        self._backlog.enter(record, now_ns)
        # Only now: an agent with nothing waiting or running would be forgotten with its counter.
        self._backlog.settle(attempt.flow, attempt.charged, 0)
        self._reassignment.look(record, now_ns)  # the level may be another one than when it started

    def _release(self, attempt: Attempt, now_ns: int) -> None:
        """The attempt's work is over: its slot is free again."""
        record = attempt.record
        del self._ledger.attempts[attempt.id]
        attempt.residency.running -= 1
        attempt.residency.use(now_ns, is_large=record.line[1] > 0)
        self._tally.run(record.priority, -1)
        self._run(record, -1, now_ns)
        if attempt.ending is not None:
            record.move(attempt.ending)
