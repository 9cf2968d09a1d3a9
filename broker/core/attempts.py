"""The life of an attempt: a slot is taken, a backend works, the slot is given back."""

from __future__ import annotations

from collections.abc import Callable

from broker.core.backlog import Backlog
from broker.core.dispatch import counted, order_of
from broker.core.effects import AbortAttempt, Effect
from broker.core.errors import BackendUnreachable, BrokerError, Cancelled, InvariantBroken
from broker.core.estimates import Estimates
from broker.core.ledger import Ledger
from broker.core.lifecycle import State, Trigger
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.queueing import QueuePolicy
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, OnInterruption
from broker.core.residencies import Residencies
from broker.core.residency import Residency
from broker.core.retries import Retries
from broker.core.stimuli import AttemptEnded, FirstToken, Quiet
from broker.core.tally import Tally
from broker.core.timers import Timers

# Who hears of each attempt: that it starts on a backend; that it is over, and with which error it
# counts.
OnStarted = Callable[[BackendState, str, AttemptId, int], None]
OnEnded = Callable[[Attempt, AttemptEnded, BrokerError | None, int], None]

# The same of one that was to be set aside for urgent work: does it go on from what came of it, or
# not; None: it was not set aside. And that its slot is free.
OnSetAside = Callable[[Attempt, int, bool | None], None]
OnFreed = Callable[[Attempt], None]


def _nobody(*_: object) -> None:
    """Hears of nothing."""


class Attempts:
    """See the module. `policy` says what tokens cost; while `draining` nothing waits again.
    `on_found` hears of the first request that found what was loaded ahead of need."""

    def __init__(
        self,
        policy: QueuePolicy,
        ledger: Ledger,
        backlog: Backlog,
        residencies: Residencies,
        retries: Retries,
        phases: Phases,
        estimates: Estimates,
        tally: Tally,
        timers: Timers,
        emit: Callable[[Effect], None],
        on_started: OnStarted = _nobody,
        on_ended: OnEnded = _nobody,
        on_set_aside: OnSetAside = _nobody,
        on_freed: OnFreed = _nobody,
    ) -> None:
        self.policy = policy
        self.draining = False
        self._ledger = ledger
        self._backlog = backlog
        self._residencies = residencies
        self._retries = retries
        self._phases = phases
        self._estimates = estimates
        self._tally = tally
        self._timers = timers
        self._emit = emit
        self._on_started = on_started
        self._on_ended = on_ended
        self._on_set_aside = on_set_aside
        self._on_freed = on_freed
        self.on_found: Callable[[Record, Residency], None] = _nobody

    def start(
        self, record: Record, backend: BackendState, residency: Residency, now_ns: int
    ) -> None:
        """It gets a slot; or ends, where an answer would surely come too late."""
        if now_ns >= record.look_ns and self._ledger.gives_up(record, now_ns):
            return
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
            model=record.model,
            number=record.tries,
            continues=record.pieces_kept > 0,
            level=offers.level,
            output_tokens_max=offers.output_tokens_max(record.spec) if offers.level else None,
        )
        record.attempt = ledger.attempts[attempt.id] = attempt
        if record.spec.preemptible:
            ledger.preemptible[attempt.id] = attempt
        residency.running += 1
        residency.use(now_ns, is_large=record.line[1] > 0)
        if residency.is_ahead_of_need:
            self.on_found(record, residency)
        queue_wait_ns = now_ns - record.arrived_ns
        self._tally.run(record.priority, 1)
        self._tally.start(record.priority, queue_wait_ns)
        if record.first_word is not None and record.tries == 1:
            ledger.waits.started(record.first_word, now_ns, is_judged=record.is_overdue)
        if record.bound is not None and record.bound.ns is not None and record.tries == 1:
            self._tally.bounds.started(queue_wait_ns, record.bound.ns)
        closed = self._backlog.bulkheads.closed
        is_small_first = offers.has_small_only and offers.is_small_runner(residency.runner)
        ledger.journal.start(attempt, closed, offers.held, is_small_first=is_small_first)
        self._run(record, 1, now_ns)
        self._retries.started(attempt)
        self._phases.starts(attempt, now_ns)
        self._on_started(backend, residency.runner, attempt.id, now_ns)
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
        if attempt.first_token_timer:
            self._phases.has_first_token(attempt)
        self._tally.first_tokens.append(now_ns - attempt.record.arrived_ns)

    def quiet(self, quiet: Quiet, now_ns: int) -> None:
        """No piece of an attempt has come for a while."""
        attempt = self._ledger.attempts.get(quiet.attempt)
        if attempt is not None:
            self._phases.quiet(attempt, quiet, now_ns)

    def give_up(self, attempt_id: AttemptId, error: BrokerError, now_ns: int) -> None:
        """Nothing more is expected of this attempt: its call is closed, and once that is done it
        counts as failed by `error`. Its end, or another reason to close it, may be quicker."""
        attempt = self._ledger.attempts.get(attempt_id)
        if attempt is None or attempt.ending is not None or attempt.given_up is not None:
            return
        if attempt.grace_timer:
            return
        attempt.given_up = error
        self._emit(AbortAttempt(attempt_id))

    def set_aside(self, attempt: Attempt, why: str) -> None:
        """Closes its call for the sake of urgent work. It goes on where it comes to an end of its
        own before that."""
        attempt.is_preempted, attempt.given_up = True, Cancelled(why)
        self._emit(AbortAttempt(attempt.id, is_for_urgent=True))

    def ended(self, ended: AttemptEnded, now_ns: int) -> None:
        attempt = self._ledger.attempts.get(ended.attempt)
        if attempt is None:
            raise InvariantBroken(f"attempt {ended.attempt} ended twice or never began")
        if attempt.grace_timer:
            raise InvariantBroken(f"attempt {attempt.id} ended twice")
        error = ended.error
        if attempt.given_up is not None and isinstance(error, Cancelled):
            error = attempt.given_up  # else it came to an end of its own while it was told to
        # Nobody is told of a first piece that did not come.
        attempt.pieces = ended.pieces or int(attempt.record.state is State.STREAMING)
        attempt.ended_ns = now_ns
        if attempt.first_token_timer:
            self._phases.has_first_token(attempt)
        self._on_ended(attempt, ended, error, now_ns)
        if attempt.is_preempted:
            if attempt.ending is None and error is attempt.given_up:
                self._make_way(attempt, ended, now_ns)
                return
            self._on_set_aside(attempt, now_ns, None)
        if attempt.ending is not None:
            self._ledger.pay(attempt, ended, self.policy, now_ns)
            self._aborted(attempt, ended.error, now_ns)
        elif error is None:
            cost = self._ledger.pay(attempt, ended, self.policy, now_ns)
            self._release(attempt, now_ns)
            self._measure(attempt, ended, cost, now_ns)
            self._ledger.end(attempt.record, Trigger.COMPLETE, None, now_ns)
        else:
            self._failed(attempt, ended, error, now_ns)

    def _make_way(self, attempt: Attempt, ended: AttemptEnded, now_ns: int) -> None:
        """Its request waits again; its slot goes to urgent work as soon as that is safe."""
        is_kept = attempt.record.spec.on_interruption is OnInterruption.CONTINUE
        self._on_set_aside(attempt, now_ns, is_kept and ended.is_continuable)
        grace_ns = self._residencies.policy.slot_grace_ns
        if grace_ns:
            attempt.grace_timer = self._timers.set(now_ns + grace_ns, self._release, attempt)
        else:
            self._release(attempt, now_ns)
        self._retries.set_aside(attempt, ended, grace_ns, now_ns)

    def _failed(
        self, attempt: Attempt, ended: AttemptEnded, error: BrokerError, now_ns: int
    ) -> None:
        """It came to nothing: its request is tried again, or ends with this."""
        record = attempt.record
        if isinstance(error, BackendUnreachable):
            self._residencies.lost(attempt.backend, error, now_ns)
        wait_ns = None if self.draining else self._retries.wait_ns(attempt, error, now_ns)
        self._retries.tell(attempt, error, wait_ns)
        if wait_ns is not None:
            self._release(attempt, now_ns)
            self._retries.put_back(attempt, ended, wait_ns, now_ns)
            return
        self._ledger.pay(attempt, ended, self.policy, now_ns)
        if error.leaves_work:
            self._ledger.end(record, Trigger.FAIL, error, now_ns)
            self._aborted(attempt, error, now_ns)
            return
        self._release(attempt, now_ns)
        self._ledger.conclude(record, Trigger.FAIL, error, now_ns)

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
            record.known_bytes,
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

    def _release(self, attempt: Attempt, now_ns: int) -> None:
        """The attempt's work is over: its slot is free again."""
        record = attempt.record
        del self._ledger.attempts[attempt.id]
        attempt.residency.running -= 1
        attempt.residency.use(now_ns, is_large=record.line[1] > 0)
        self._tally.run(record.priority, -1)
        self._run(record, -1, now_ns)
        if record.spec.preemptible:
            del self._ledger.preemptible[attempt.id]
        if attempt.ending is not None:
            record.move(attempt.ending)
        if attempt.is_preempted:
            self._on_freed(attempt)
