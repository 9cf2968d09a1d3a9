"""The requests under way: who they are, and the one way out for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.core.agents import Agent
from broker.core.announcements import wait_reason
from broker.core.backlog import Backlog
from broker.core.bulkheads import OPEN
from broker.core.dispatch import tokens_of
from broker.core.effects import AbortAttempt, Answer, Effect, Finish
from broker.core.errors import BrokerError, Cancelled, DeadlineExpired, Draining
from broker.core.journal import Ended, Journal
from broker.core.lifecycle import LIFECYCLE, OUTCOME_OF, WAITS, State, Trigger
from broker.core.placement import BackendState
from broker.core.queueing import QueuePolicy
from broker.core.quota import Quotas
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, Criticality, Outcome, RequestKey
from broker.core.stimuli import AttemptEnded, CancelCause
from broker.core.tally import Tally
from broker.core.timers import Timers
from broker.core.waiting_room import WaitingRoom

# A request that ends so got nothing from the broker: what it paid is given back.
_GIVEN_BACK = frozenset({Outcome.REFUSED, Outcome.DISPLACED})


class Ledger:
    """`records` has each request from its admission to its outcome, `attempts` each call to a
    backend from its start to its proven end, which may come later."""

    def __init__(
        self,
        backlog: Backlog,
        room: WaitingRoom,
        quotas: Quotas,
        tally: Tally,
        timers: Timers,
        backends: Mapping[str, BackendState],
        emit: Callable[[Effect], None],
    ) -> None:
        self.records: dict[RequestKey, Record] = {}
        self.attempts: dict[AttemptId, Attempt] = {}
        self.attempts_made = 0
        self.journal = Journal()
        self._backlog = backlog
        self._room = room
        self._quotas = quotas
        self._tally = tally
        self._timers = timers
        self._backends = backends
        self._emit = emit
        self._on_deadline = self._deadline_passed  # one for all: each look makes a new object

    @property
    def live(self) -> int:
        """How many requests wait or hold a slot."""
        return self._tally.queued + len(self.attempts) + len(self._room)

    def open(self, record: Record) -> None:
        """A request is under way from now on."""
        self.records[record.spec.key] = record
        self.set_deadline(record, record.spec.deadline_ns)
        record.agent.live += 1
        self._backlog.bulkheads.hold(record.compartment, 1)

    def limit(self, bit_of: Callable[[Agent, Criticality], int], now_ns: int) -> None:
        """A bulkhead that a reload adds holds for what waits and what runs as well. Only then do
        they get its bit: agents of several types that nothing limits share what there is by their
        weights, which those of several compartments do not."""
        bulkheads = self._backlog.bulkheads
        under_way = [(each, each.attempt) for each in self.records.values()]
        ending = [(each.record, each) for each in self.attempts.values() if each.ending is not None]
        for record, attempt in (*under_way, *ending):
            bit = bit_of(record.agent, record.spec.criticality)
            if record.compartment != OPEN or bit == OPEN:
                continue
            if self.records.get(record.spec.key) is record:
                bulkheads.hold(OPEN, -1)
                bulkheads.hold(bit, 1)
            if attempt is not None and attempt.id in self.attempts:
                bulkheads.run(OPEN, -1)
                bulkheads.run(bit, 1)
            self._backlog.move(record, now_ns, compartment=bit)

    def set_deadline(self, record: Record, at_ns: int) -> None:
        self._timers.cancel(record.deadline_timer)
        record.deadline_timer = self._timers.set(at_ns, self._on_deadline, record)

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
            self._emit(AbortAttempt(attempt.id))
            outcome = OUTCOME_OF[LIFECYCLE.step(record.state, trigger)]
        else:
            if record.state is State.QUEUED:
                self._backlog.withdraw(record, now_ns)
            elif record.state is State.ADMITTED and record.entry:  # else it has just come
                self.leave_room(record)
            record.move(trigger)
            outcome = OUTCOME_OF[record.state]
        self._close(record, outcome, error, now_ns)

    def answer(self, record: Record, now_ns: int) -> None:
        """The operator's default answer ends a request that waits, or has just come."""
        offers = self._backlog.offers
        record.answered = offers.answer_changes()
        answer = Answer(
            key=record.spec.key,
            level=offers.level,
            changes=record.answered,
            queue_wait_ns=now_ns - record.arrived_ns,
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
        agent.live -= 1
        agent.ended += 1
        self._backlog.bulkheads.hold(record.compartment, -1)
        if outcome in _GIVEN_BACK:
            self._quotas.give_back(
                agent.purse, agent.type.name, record.passage.tokens_reserved, now_ns
            )
        elif attempt is None:
            self._pay_tokens(record, 0, now_ns)
        self._tally.end(record.priority, outcome, error.reason if error is not None else "")
        problem = error.message if error is not None else ""
        self.journal.end(
            spec.key, Ended(record, attempt, outcome, problem, now_ns, self.attempts_made)
        )
        self._emit(Finish(spec.key, outcome, error, record, attempt))

    def pay(self, attempt: Attempt, ended: AttemptEnded, policy: QueuePolicy, now_ns: int) -> int:
        """What an attempt really used takes the place of what was charged and reserved for it; its
        cost."""
        prompt, output = tokens_of(attempt, ended)
        cost = policy.prompt_token_cost * prompt + policy.output_token_cost * output
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
        waited_s = (now_ns - record.arrived_ns) / 1e9
        if record.state in WAITS:
            _, detail = wait_reason(record, self._backends, self._backlog)
            words = f"the deadline passed after {waited_s:.1f} s of waiting for {detail}"
        else:
            words = f"the deadline passed after {waited_s:.1f} s, while it ran"
        self.end(record, Trigger.EXPIRE, DeadlineExpired(words), now_ns)
