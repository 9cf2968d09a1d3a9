"""The engine: stimuli in, effects out. Every decision of the broker is made here or below.

    engine.handle(stimulus, now_ns) -> [effects]

One call is one turn: it runs to its end without suspending, so that checks over several parts need
no locks. Pure and deterministic: the same stimuli at the same times give the same effects. It does
no I/O, reads no clock, and never sees a word of a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from broker.core.admission import UnderWay, admit, find_line
from broker.core.announcements import Announcer, wait_reason
from broker.core.backlog import Backlog
from broker.core.dispatch import next_dispatch, order_of
from broker.core.effects import (
    AbortAttempt,
    Admit,
    Drained,
    Effect,
    Finish,
    Refuse,
    SetTimer,
    TakeOver,
    TellRequeued,
)
from broker.core.errors import (
    BackendUnreachable,
    BrokerError,
    Cancelled,
    DeadlineExpired,
    Draining,
    InvariantBroken,
    RequestIdInUse,
)
from broker.core.estimates import Estimates
from broker.core.lifecycle import LIFECYCLE, OUTCOME_OF, State, Trigger
from broker.core.placement import BackendState
from broker.core.policy import EnginePolicy
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, Outcome, RequestKey, RequestSpec
from broker.core.residencies import Residencies
from broker.core.residency import Residency
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    CancelAsked,
    CancelCause,
    DrainAsked,
    FirstToken,
    LoadEnded,
    ModelsListed,
    ResidentsSeen,
    Stimulus,
    TimerFired,
    UnloadEnded,
)
from broker.core.tally import Tally
from broker.core.timers import Timers

# A request whose backend took no connection goes back to the queue at most so often. Retries with
# a budget and with back-off take this place later.
TRIES_MAX: Final = 3
DRAIN_RETRY_NS: Final = 5_000_000_000  # a service manager restarts a daemon within seconds


class Engine:
    """See the module. Its parts are read through `snapshot.py`, never written from outside."""

    def __init__(self, policy: EnginePolicy) -> None:
        self.policy = policy
        self.records: dict[RequestKey, Record] = {}
        self.attempts: dict[AttemptId, Attempt] = {}
        self.estimates = Estimates()
        self.tally = Tally()
        self.backlog = Backlog(policy.queue, self.tally, self.estimates, self._note)
        self.lines = self.backlog.lines
        self.draining = False
        # Each live request has a deadline, each attempt at most a grace; the rest is per backend.
        self.timers = Timers(policy.queue.live_max * 2 + 1024)
        self._effects: list[Effect] = []
        self.residencies = Residencies(
            policy.backends,
            policy.placement,
            self.lines,
            self.timers,
            self.estimates,
            self._emit,
            self._note,
            self._load_failed,
        )
        self._attempts_made = 0
        self._timer_set_ns: int | None = None
        self._told_drained = False
        self._drain_timer = 0
        self._announcer = Announcer(
            policy.queue.announce_interval_ns,
            self.lines,
            self.records,
            self.backends,
            self.estimates,
            self.timers,
            self._emit,
        )
        known = self.residencies
        self._handlers: dict[type[Stimulus], Callable[[Any, int], None]] = {
            Arrived: self._arrived,
            CancelAsked: self._cancel_asked,
            FirstToken: self._first_token,
            AttemptEnded: self._attempt_ended,
            BackendSeen: known.backend_seen,
            ModelsListed: self._models_listed,
            ResidentsSeen: known.residents_seen,
            LoadEnded: known.load_ended,
            UnloadEnded: known.unload_ended,
            DrainAsked: self._drain_asked,
            TimerFired: self._timer_fired,
        }

    @property
    def backends(self) -> dict[str, BackendState]:
        return self.residencies.backends

    def handle(self, stimulus: Stimulus, now_ns: int) -> list[Effect]:
        """One turn. Effects are to be performed in their order. InvariantBroken is our bug."""
        self._effects = []
        self._handlers[type(stimulus)](stimulus, now_ns)
        if self.lines:
            self._dispatch(now_ns)
        if self.residencies.settle(now_ns):
            self._dispatch(now_ns)
        self._announcer.plan(now_ns)
        if self.draining and not self._told_drained and not self.records and not self.attempts:
            self._told_drained = True
            self._emit(Drained())
        next_ns = self.timers.next_ns()
        if next_ns is not None and (self._timer_set_ns is None or next_ns < self._timer_set_ns):
            self._timer_set_ns = next_ns
            self._emit(SetTimer(next_ns))
        return self._effects

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _note(self, runner: str) -> None:
        self._announcer.note(runner)

    # Arrival

    def _arrived(self, arrived: Arrived, now_ns: int) -> None:
        spec = arrived.spec
        live = self.records.get(spec.key)
        if live is not None and live.spec.fingerprint == spec.fingerprint:
            self._take_over(live, spec)
            return
        try:
            if live is not None:
                raise RequestIdInUse(f"request_id {spec.key[1]!r} is in use with other content")
            if self.draining:
                raise Draining("the broker is leaving", retry_after_ns=DRAIN_RETRY_NS)
            admission = admit(
                spec,
                self.backends,
                self.policy.queue,
                self.estimates,
                UnderWay(
                    queued=self.tally.queued,
                    queued_bytes=self.backlog.size_bytes,
                    live=self.tally.queued + len(self.attempts),
                ),
                now_ns,
            )
        except BrokerError as error:
            self.tally.end(spec.priority, Outcome.REFUSED)
            self._emit(Refuse(error))
            return
        record = Record(
            spec=spec,
            model=admission.model,
            substituted_for=admission.substituted_for,
            line=admission.line,
            arrived_ns=now_ns,
        )
        record.move(Trigger.ADMIT)
        self.records[spec.key] = record
        self._set_deadline(record, spec.deadline_ns)
        self._emit(Admit(spec.key))
        record.move(Trigger.ENQUEUE)
        self.backlog.enter(record, now_ns)
        self._announcer.tell_first(record)

    def _set_deadline(self, record: Record, at_ns: int) -> None:
        self.timers.cancel(record.deadline_timer)
        record.deadline_timer = self.timers.set(at_ns, partial(self._deadline_passed, record))

    def _take_over(self, record: Record, spec: RequestSpec) -> None:
        """The same request came again: the newer call has its stream, and its deadline counts."""
        self._set_deadline(record, spec.deadline_ns)
        self._emit(TakeOver(spec.key))
        if record.state is State.QUEUED:
            self._announcer.tell_again(record)

    # The slots

    def _dispatch(self, now_ns: int) -> None:
        """Gives every free slot to the request that is next for it."""
        for runner in dict.fromkeys(key[0] for key in self.lines):
            while (choice := next_dispatch(runner, self.backends, self.lines)) is not None:
                self._start(self.records[choice.key], choice.backend, choice.residency, now_ns)

    def _start(
        self, record: Record, backend: BackendState, residency: Residency, now_ns: int
    ) -> None:
        self.backlog.take(record, now_ns)
        record.move(Trigger.DISPATCH)
        record.tries += 1
        self._attempts_made += 1
        attempt = Attempt(
            id=AttemptId(self._attempts_made),
            record=record,
            backend=backend.name,
            residency=residency,
            started_ns=now_ns,
        )
        record.attempt = attempt
        self.attempts[attempt.id] = attempt
        residency.running += 1
        residency.use(now_ns, is_large=record.line[1] > 0)
        queue_wait_ns = now_ns - record.arrived_ns
        self.tally.run(record.spec.priority, 1)
        self.tally.start(record.spec.priority, queue_wait_ns)
        self._emit(order_of(attempt, backend, queue_wait_ns))

    # The life of an attempt

    def _first_token(self, first: FirstToken, now_ns: int) -> None:
        attempt = self.attempts.get(first.attempt)
        if attempt is None or attempt.ending is not None:
            return  # it was told to end while the token was on its way
        attempt.record.move(Trigger.FIRST_TOKEN)
        attempt.first_token_ns = now_ns

    def _attempt_ended(self, ended: AttemptEnded, now_ns: int) -> None:
        attempt = self.attempts.get(ended.attempt)
        if attempt is None:
            raise InvariantBroken(f"attempt {ended.attempt} ended twice or never began")
        error = ended.error
        if attempt.ending is not None:
            self._aborted(attempt, error, now_ns)
            return
        if isinstance(error, BackendUnreachable):
            self.residencies.lost(attempt.backend, error)
        if error is not None and self._may_requeue(attempt, error):
            self._requeue(attempt, error, now_ns)
            return
        record = attempt.record
        if error is not None and error.leaves_work:
            self._end(record, Trigger.FAIL, error, now_ns)
            self._aborted(attempt, error, now_ns)
            return
        self._release(attempt, now_ns)
        if error is None:
            self.estimates.served(record.line[0], now_ns - attempt.started_ns)
        self._end(record, Trigger.COMPLETE if error is None else Trigger.FAIL, error, now_ns)

    def _aborted(self, attempt: Attempt, error: BrokerError | None, now_ns: int) -> None:
        """An attempt that was told to end has ended. Its terminator proves that the work has too.
        Else the connection is closed, but the backend may compute a moment longer: the slot is not
        free before a time of grace (OLLAMA.md §3.6: 0.26 s at worst in 680 cancels)."""
        if attempt.grace_timer:
            raise InvariantBroken(f"attempt {attempt.id} ended twice")
        if error is None:
            self._release(attempt, now_ns)
        else:
            at_ns = now_ns + self.policy.placement.slot_grace_ns
            attempt.grace_timer = self.timers.set(at_ns, partial(self._release, attempt))

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
        self._emit(TellRequeued(record.spec.key, error.message))
        record.move(Trigger.ENQUEUE)
        self.backlog.come_back(record, now_ns)

    def _release(self, attempt: Attempt, now_ns: int) -> None:
        """The attempt's work is over: its slot is free again."""
        del self.attempts[attempt.id]
        attempt.residency.running -= 1
        attempt.residency.use(now_ns, is_large=attempt.record.line[1] > 0)
        self.tally.run(attempt.record.spec.priority, -1)
        if attempt.ending is not None:
            attempt.record.move(attempt.ending)

    # Endings

    def _end(
        self, record: Record, trigger: Trigger, error: BrokerError | None, now_ns: int
    ) -> None:
        """The one way out for an admitted request. `trigger` is how it ends; a request that holds
        a slot becomes CANCELLING first and its record goes on with the attempt."""
        holds_slot = record.attempt is not None and record.attempt.id in self.attempts
        if holds_slot and record.attempt is not None:
            record.move(Trigger.ABORT)
            record.attempt.ending = trigger
            self._emit(AbortAttempt(record.attempt.id))
            outcome = OUTCOME_OF[LIFECYCLE.step(record.state, trigger)]
        else:
            if record.state is State.QUEUED:
                self.backlog.withdraw(record, now_ns)
            record.move(trigger)
            outcome = OUTCOME_OF[record.state]
        del self.records[record.spec.key]
        self.timers.cancel(record.deadline_timer)
        self.tally.end(record.spec.priority, outcome)
        self._emit(Finish(record.spec.key, outcome, error))

    def _cancel_asked(self, asked: CancelAsked, now_ns: int) -> None:
        record = self.records.get(asked.key)
        if record is None:
            return  # it ended while the word was on its way
        error: BrokerError = Cancelled(asked.cause.value)
        if asked.cause is CancelCause.BROKER_STOPS:
            error = Draining("the broker stopped before this was complete")
        self._end(record, Trigger.CANCEL, error, now_ns)

    def _deadline_passed(self, record: Record, now_ns: int) -> None:
        waited_s = (now_ns - record.arrived_ns) / 1e9
        if record.state is State.QUEUED:
            _, detail = wait_reason(record.line, record.model, self.backends)
            words = f"the deadline passed after {waited_s:.1f} s of waiting for {detail}"
        else:
            words = f"the deadline passed after {waited_s:.1f} s, while it ran"
        self._end(record, Trigger.EXPIRE, DeadlineExpired(words), now_ns)

    def _load_failed(self, runner: str, error: BrokerError, now_ns: int) -> None:
        """Nobody waits for a model that no other backend could load either."""
        for backend in self.backends.values():
            is_held = backend.holds_off(runner, now_ns) and runner not in backend.residents
            if backend.up and runner in backend.by_runner and not is_held:
                return
        for key in self.backlog.waiting(lambda each: each == runner):
            self._end(self.records[key], Trigger.FAIL, error, now_ns)

    # Backends

    def _models_listed(self, listed: ModelsListed, now_ns: int) -> None:
        self.residencies.models_listed(listed, now_ns)
        known = {runner for each in self.backends.values() for runner in each.by_runner}
        for key in self.backlog.waiting(lambda each: each not in known):
            self._place_anew(self.records[key], now_ns)

    def _place_anew(self, record: Record, now_ns: int) -> None:
        """What a waiting request was to run on is gone. Where its model was pulled anew it waits
        for that, else this is its end."""
        try:
            line = find_line(record.spec, record.model, self.backends)
        except BrokerError as error:
            self._end(record, Trigger.FAIL, error, now_ns)
            return
        self.backlog.withdraw(record, now_ns)
        record.line = line
        self.backlog.enter(record, now_ns)

    # Time

    def _timer_fired(self, fired: TimerFired, now_ns: int) -> None:
        self._timer_set_ns = None
        self.timers.fire(now_ns)

    def _drain_asked(self, asked: DrainAsked, now_ns: int) -> None:
        """The last word on how long it may take counts."""
        self.draining = True
        self.timers.cancel(self._drain_timer)
        self._drain_timer = self.timers.set(asked.until_ns, self._drain_over)

    def _drain_over(self, now_ns: int) -> None:
        for key in list(self.records):
            self._cancel_asked(CancelAsked(key, CancelCause.BROKER_STOPS), now_ns)
