"""The requests under way: who they are, and the one way out for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.core.agents import Agent
from broker.core.announcements import wait_reason
from broker.core.backlog import Backlog
from broker.core.bulkheads import OPEN
from broker.core.calibration import Calibration
from broker.core.dispatch import tokens_of
from broker.core.effects import AbortAttempt, Answer, Effect, Finish, TellRequeued
from broker.core.errors import BrokerError, Cancelled, DeadlineExpired, Draining, TimedOut
from broker.core.failures import failure_of
from broker.core.journal import Ended, Journal
from broker.core.lateness import Lateness, Needs
from broker.core.lifecycle import LIFECYCLE, OUTCOME_OF, WAITS, State, Trigger
from broker.core.load_charges import LoadCharges
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.queueing import QueuePolicy
from broker.core.quota import Quotas
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, Criticality, Outcome, RequestKey, RequestKind
from broker.core.stimuli import AttemptEnded, CancelCause
from broker.core.tally import Tally
from broker.core.time_outs import Phase
from broker.core.timers import Timers
from broker.core.waiting_room import WaitingRoom

# A request that ends so got nothing from the broker: what it paid is given back.
_GIVEN_BACK = frozenset({Outcome.REFUSED, Outcome.DISPLACED})

_WAITS_IN = {Phase.QUEUE: "waiting", Phase.LOAD: "the load of its model"}


class Ledger:
    """`records` has each request from its admission to its outcome, `attempts` each call to a
    backend from its start to its proven end, which may come later; `preemptible` those of them
    whose owner lets urgent work set them aside. `backing_off`: how many wait for the time of their
    next attempt. `spare` finds another model for what surely comes too late by its own."""

    def __init__(
        self,
        backlog: Backlog,
        room: WaitingRoom,
        quotas: Quotas,
        tally: Tally,
        timers: Timers,
        backends: Mapping[str, BackendState],
        phases: Phases,
        lateness: Lateness,
        waits: Calibration,
        load_charges: LoadCharges,
        spare: Callable[[Record, int], bool],
        emit: Callable[[Effect], None],
    ) -> None:
        self.records: dict[RequestKey, Record] = {}
        self.attempts: dict[AttemptId, Attempt] = {}
        self.preemptible: dict[AttemptId, Attempt] = {}
        self.attempts_made = 0
        self.backing_off = 0
        self.journal = Journal()
        self.waits = waits
        self._backlog = backlog
        self._room = room
        self._quotas = quotas
        self._tally = tally
        self._timers = timers
        self._backends = backends
        self._phases = phases
        self._lateness = lateness
        self._load_charges = load_charges
        self._spare = spare
        self._emit = emit
        self._on_deadline = self._deadline_passed  # one for all: each look makes a new object

    @property
    def live(self) -> int:
        """How many requests wait or hold a slot."""
        return self._tally.queued + len(self.attempts) + len(self._room) + self.backing_off

    def open(self, record: Record) -> None:
        """A request is under way from now on."""
        self.records[record.spec.key] = record
        record.asked_until_ns = at_ns = record.spec.deadline_ns
        record.deadline_ns = self._phases.deadline_ns(record, at_ns)
        self._alarm(record, self._lateness.plan_new(record))
        self._phases.waits(record, record.arrived_ns)
        record.agent.live += 1
        self._backlog.bulkheads.hold(record.compartment, 1)

    def limit(self, bit_of: Callable[[Agent, Criticality], int], now_ns: int) -> None:
        """A bulkhead that a reload adds holds for what waits and what runs as well. Only then do
        they get its bit: agents of several types that nothing limits share what there is by their
        weights, which those of several compartments do not."""
        bulkheads = self._backlog.bulkheads
        held: dict[int, int] = {}  # slots, those too whose call has ended or is about to
        for attempt in self.attempts.values():
            held[id(attempt.record)] = held.get(id(attempt.record), 0) + 1
        those = [*self.records.values(), *(each.record for each in self.attempts.values())]
        for record in {id(each): each for each in those}.values():
            bit = bit_of(record.agent, record.spec.criticality)
            if record.compartment != OPEN or bit == OPEN:
                continue
            if self.records.get(record.spec.key) is record:
                bulkheads.hold(OPEN, -1)
                bulkheads.hold(bit, 1)
            for _ in range(held.get(id(record), 0)):
                bulkheads.run(OPEN, -1)
                bulkheads.run(bit, 1)
            self._backlog.move(record, now_ns, compartment=bit)

    def set_deadline(self, record: Record, at_ns: int, now_ns: int) -> None:
        """Its newest call gives it until then; a time-out for the whole of it may be tighter."""
        self._timers.cancel(record.deadline_timer)
        record.asked_until_ns = at_ns
        record.deadline_ns = self._phases.deadline_ns(record, at_ns)
        self._watch(record, now_ns)

    def _watch(self, record: Record, now_ns: int) -> None:
        """While it waits its time is over when it could not be answered in time any more."""
        self._alarm(record, self._lateness.plan(record, now_ns))

    def _alarm(self, record: Record, at_ns: int) -> None:
        record.deadline_timer = self._timers.set(at_ns, self._on_deadline, record)

    def gives_up(self, record: Record, now_ns: int) -> bool:
        """Ends one that waits and surely comes too late, where that is so."""
        needs = self._lateness.is_late(record, now_ns)
        if needs is not None:
            self._end_late(record, needs, now_ns)
        return needs is not None

    def _end_late(self, record: Record, needs: Needs, now_ns: int) -> None:
        """It ends, as it needs more time than there is left."""
        _, detail = wait_reason(record, self._backends, self._backlog, now_ns)
        waited_s, left_s = (now_ns - record.arrived_ns) / 1e9, (record.deadline_ns - now_ns) / 1e9
        error = DeadlineExpired(
            f"it waited {waited_s:.1f} s for {detail}, and can be answered in time no longer: "
            f"{left_s:.1f} s are left, and by what was measured {needs.words}"
        )
        self.conclude(record, Trigger.EXPIRE, error, now_ns)

    def hold_to_time_outs(self, record: Record, now_ns: int) -> None:
        """It waits, and others count for it now: those of another model, or of another policy."""
        self.set_deadline(record, record.asked_until_ns, now_ns)
        self._phases.waits_on(record, now_ns)

    def time_outs_changed(self, now_ns: int) -> None:
        """All that waits is held to the new ones."""
        for record in self.records.values():
            if record.state in WAITS:
                self.hold_to_time_outs(record, now_ns)

    def leave_room(self, record: Record) -> None:
        """It stands in the waiting room no longer."""
        self._room.leave(record)
        self._timers.cancel(record.room_timer)

    def end(self, record: Record, trigger: Trigger, error: BrokerError | None, now_ns: int) -> None:
        """The one way out for an admitted request. `trigger` is how it ends; a request that holds
        a slot becomes CANCELLING first and its record goes on with the attempt."""
        attempt = record.attempt
        if attempt is not None and attempt.id in self.attempts:
            record.move(Trigger.ABORT)
            attempt.ending = trigger
            if attempt.given_up is None:  # else its call is closed already
                self._emit(AbortAttempt(attempt.id))
            outcome = OUTCOME_OF[LIFECYCLE.step(record.state, trigger)]
        else:
            if record.state is State.QUEUED:
                self._backlog.withdraw(record, now_ns)
            elif record.state is State.REQUEUED:
                self._end_backoff(record)
            elif record.state is State.ADMITTED and record.entry:  # else it has just come
                self.leave_room(record)
            record.move(trigger)
            outcome = OUTCOME_OF[record.state]
        self._close(record, outcome, error, now_ns)

    def _end_backoff(self, record: Record) -> None:
        if record.backoff_timer:  # else its backoff is over, or it needs none
            self._timers.cancel(record.backoff_timer)
            record.backoff_timer = 0
            self.backing_off -= 1
        self.pay_back(record)

    def pay_back(self, record: Record) -> None:
        """What its lost attempt was charged: that was not its agent's fault."""
        if record.owed is not None:
            self._backlog.settle(*record.owed, 0)
            record.owed = None

    def void(self, record: Record, why: str) -> None:
        """What came of it so far does not count: it begins anew when it has a slot."""
        record.pieces_kept = 0
        self._emit(TellRequeued(record.spec.key, why, voids_pieces=True))

    def conclude(self, record: Record, trigger: Trigger, error: BrokerError, now_ns: int) -> None:
        """It comes to this end; or, where its caller allows it and nothing has reached them yet,
        to the operator's default answer."""
        why = failure_of(error).answer_why
        if why and self._may_answer(record):
            self.answer(record, now_ns, (f"the operator's default answer, as {why}",))
        else:
            self.end(record, trigger, error, now_ns)

    def _may_answer(self, record: Record) -> bool:
        spec = record.spec
        return (
            spec.accepts_default
            and spec.kind is RequestKind.GENERATE
            and record.state is not State.STREAMING
            and not record.has_streamed
            and self._backlog.offers.policy.has_answer_for(spec.prompt_type)
        )

    def answer(self, record: Record, now_ns: int, changes: tuple[str, ...] = ()) -> None:
        """The operator's default answer ends a request of which no piece has come. `changes` says
        why; left out: for the level's sake."""
        offers = self._backlog.offers
        record.answered = changes or offers.answer_changes()
        answer = Answer(
            key=record.spec.key,
            level=offers.level,
            changes=record.answered,
            queue_wait_ns=now_ns - record.arrived_ns,
            prompt_type=record.spec.prompt_type,
        )
        self._emit(answer)
        self.end(record, Trigger.ANSWER, None, now_ns)

    def _close(
        self, record: Record, outcome: Outcome, error: BrokerError | None, now_ns: int
    ) -> None:
        spec, agent = record.spec, record.agent
        # An attempt holds its record. Would the record hold it as well, what is remembered of a
        # request and then forgotten were left to the collector of cycles, which comes late for it.
        attempt, record.attempt = record.attempt, None
        del self.records[spec.key]
        self._timers.cancel(record.deadline_timer)
        if record.wait_timer:
            self._phases.left(record)
        if record.first_word is not None and record.tries == 0:
            self.waits.left(record.first_word, now_ns, is_judged=record.is_overdue)
        if spec.soft_deadline_ns:
            self._judge_soft(record, outcome, now_ns)
        agent.live -= 1
        agent.ended += 1
        self._backlog.bulkheads.hold(record.compartment, -1)
        if outcome in _GIVEN_BACK:
            self._quotas.give_back(
                agent.purse, agent.type.name, record.passage.tokens_reserved, now_ns
            )
        elif attempt is None:
            self._pay_tokens(record, record.pieces_kept, now_ns)
        reason, problem = ("", "") if error is None else (error.reason, error.message)
        self._tally.end(record.priority, outcome, reason)
        self.journal.end(
            spec.key, Ended(record, attempt, outcome, problem, now_ns, self.attempts_made, reason)
        )
        self._emit(Finish(spec.key, outcome, error, record, attempt))

    def _judge_soft(self, record: Record, outcome: Outcome, now_ns: int) -> None:
        """Was it complete in time for its caller? Who took it back before tells nothing."""
        is_past = now_ns > record.spec.soft_deadline_ns
        if outcome is Outcome.CANCELLED and not is_past:
            return
        record.soft_met = is_met = outcome is Outcome.COMPLETED and not is_past
        self._tally.soft_deadlines[is_met] += 1

    def pay(self, attempt: Attempt, ended: AttemptEnded, policy: QueuePolicy, now_ns: int) -> int:
        """What an attempt really used takes the place of what was charged and reserved for it; its
        cost, with its share of the load that it was served by. What its client keeps of attempts
        before it is paid with it."""
        prompt, output = tokens_of(attempt, ended)
        output += attempt.record.pieces_kept
        cost = policy.prompt_token_cost * prompt + policy.output_token_cost * output
        cost += self._load_charges.share(attempt.residency, cost)
        self._backlog.settle(attempt.flow, attempt.charged, cost)
        attempt.record.agent.served_cost += cost
        self._pay_tokens(attempt.record, prompt + output, now_ns)
        return cost

    def _pay_tokens(self, record: Record, used: int, now_ns: int) -> None:
        """So many model tokens were used for it, whatever had been reserved."""
        agent, reserved = record.agent, record.passage.tokens_reserved
        self._quotas.settle(agent.purse, agent.type.name, reserved, used, now_ns)

    def cancel(self, key: RequestKey, cause: CancelCause, now_ns: int) -> None:
        """Somebody wants it to end. One that is not under way ended while the word was coming."""
        record = self.records.get(key)
        if record is None:
            return
        error: BrokerError = Cancelled(cause.value)
        if cause is CancelCause.BROKER_STOPS:
            words = "the broker stopped before this was complete"
            offers = self._backlog.offers
            if record.state in WAITS and offers.holds(record):
                words += f"; it waited for {offers.why_held(record)}"
            error = Draining(words)
        self.end(record, Trigger.CANCEL, error, now_ns)

    def _deadline_passed(self, record: Record, now_ns: int) -> None:
        if now_ns < record.deadline_ns:  # it is only looked at
            needs = self._lateness.is_late(record, now_ns)
            if needs is None:
                self._watch(record, now_ns)
            elif not self._spare(record, now_ns):
                self._end_late(record, needs, now_ns)
            return
        waited_s = (now_ns - record.arrived_ns) / 1e9
        if record.state in WAITS:
            _, detail = wait_reason(record, self._backends, self._backlog, now_ns)
            words = f"after {waited_s:.1f} s of waiting for {detail}"
        else:
            words = f"after {waited_s:.1f} s, while it ran"
        total_ns = self._phases.limits(record).total_ns
        error: BrokerError = DeadlineExpired(f"the deadline passed {words}")
        if total_ns is not None and now_ns >= record.arrived_ns + total_ns:
            error = TimedOut(f"the time-out for the whole request passed {words}", Phase.TOTAL)
        self.conclude(record, Trigger.EXPIRE, error, now_ns)

    def waited_long(self, record: Record, phase: Phase, limit_ns: int, now_ns: int) -> None:
        """It has waited, or its model was being loaded, for as long as that may take."""
        _, detail = wait_reason(record, self._backends, self._backlog, now_ns)
        words = f"the time-out of {limit_ns / 1e9:g} s for {_WAITS_IN[phase]} passed"
        error = TimedOut(f"{words}: it waited for {detail}", phase)
        self.conclude(record, Trigger.EXPIRE, error, now_ns)
