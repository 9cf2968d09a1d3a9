"""What may become of a call that came to nothing, and who may be told that time is up."""

from __future__ import annotations

from broker.core.effects import Answer, Finish, StartAttempt, TellRequeued
from broker.core.errors import BackendFailed, BackendUnreachable, BrokerError, Cancelled, TimedOut
from broker.core.requests import OnInterruption, Outcome, RequestKind
from broker.core.stimuli import AttemptEnded
from broker.core.time_outs import Phase
from tests.property.entry_books import Live, Where
from tests.property.operator_books import OperatorBooks
from tests.property.server_books import Call

FOR_THE_LEVEL = "as the level is"


class AttemptBooks:
    """`draining`: nothing is tried again any more."""

    def __init__(self, operators: OperatorBooks) -> None:
        self.draining = False
        self._operators = operators

    def start(self, effect: StartAttempt, live: Live, runner: str) -> None:
        """Attempts are numbered, and go on from what was kept, which the same model began."""
        live.tries += 1
        assert effect.number == live.tries
        assert effect.continues == (live.kept > 0)
        assert not effect.continues or live.begun_by == runner, "goes on with another model's text"

    def abort(self, live: Live, *, is_urgent_waiting: bool) -> None:
        """What urgent work has set aside."""
        policy = self._operators.policy.preemption
        assert not self.draining, "set aside while the broker leaves"
        assert live.spec.preemptible, "its owner did not let it be set aside"
        assert live.priority >= policy.victim_best > policy.urgent_worst
        assert live.preemptions < policy.preemptions_max, "set aside once too often"
        assert is_urgent_waiting, "set aside for nobody"

    def set_aside(self, effect: TellRequeued, call: Call, ended: AttemptEnded) -> None:
        """It has failed nobody, and its owner lets it begin anew; what goes on, does."""
        live = call.live
        live.tries_free += 1
        live.preemptions += 1
        pieces = live.kept + ended.pieces
        goes_on = live.spec.on_interruption is OnInterruption.CONTINUE and ended.is_continuable
        assert effect.voids_pieces == (pieces > 0 and not goes_on)
        live.kept, live.begun_by = pieces if goes_on else 0, call.runner
        live.has_streamed = live.has_streamed or live.kept > 0

    def put_back(self, effect: TellRequeued, call: Call, ended: AttemptEnded) -> None:
        """Its call came to nothing and another may help; what its client has read is only void, or
        gone on from, where it asked for that."""
        live, error = call.live, ended.error
        is_closed = call.is_aborted and isinstance(error, Cancelled)
        assert is_closed or isinstance(error, BackendFailed)
        assert not self.draining, "put back while the broker leaves"
        is_free = is_closed and call.is_for_cure
        live.tries_free += is_free
        tries = live.tries - live.tries_free
        assert is_free or tries < self._operators.policy.retry.tries_max, "one attempt too many"
        live.has_streamed = live.has_streamed or ended.pieces > 0
        way = live.spec.on_interruption
        assert not live.has_streamed or way is not OnInterruption.FAIL, "a client read twice"
        pieces = live.kept + ended.pieces
        goes_on = way is OnInterruption.CONTINUE and ended.is_continuable
        assert effect.voids_pieces == (pieces > 0 and not goes_on)
        live.kept, live.begun_by = pieces if goes_on else 0, call.runner

    def used(self, call: Call, ended: AttemptEnded) -> tuple[int, int]:
        """(model tokens, what fairness charges for them) of a call that its request ended with."""
        prompt_tokens = ended.prompt_tokens
        if not prompt_tokens and not isinstance(ended.error, BackendUnreachable):
            prompt_tokens = call.live.spec.prompt_bytes // 4  # what was cut off is not free
        costs = self._operators.policy.queue
        output_tokens = ended.output_tokens + call.live.kept
        cost = costs.prompt_token_cost * prompt_tokens
        return prompt_tokens + output_tokens, cost + costs.output_token_cost * output_tokens

    def rests(self, ended: AttemptEnded, live: Live) -> None:
        """Only a backend that was not called may be called again at once, or one that should."""
        was_called = not isinstance(ended.error, BackendUnreachable) or ended.pieces > 0
        assert was_called, "a backoff though nothing was called"
        live.where = Where.BACKOFF

    def answer(self, effect: Answer, live: Live) -> bool:
        """Is it given for the level's sake? Else something went wrong, and nothing has come."""
        assert not live.has_streamed
        [change] = effect.changes
        if FOR_THE_LEVEL in change:
            return True
        assert live.spec.accepts_default
        assert live.spec.kind is RequestKind.GENERATE
        assert self._operators.policy.degradation.has_default_answer
        return False

    def finish(self, effect: Finish, live: Live, now_ns: int) -> None:
        """A time-out that is told has passed, and so has a soft deadline that was missed."""
        _check_soft(effect, live, now_ns)
        error: BrokerError | None = effect.error
        if not isinstance(error, TimedOut):
            return
        own, house = live.spec.time_outs, self._operators.policy.time_outs.of_all
        match error.phase:
            case Phase.QUEUE:
                limits, since_ns = (own.queue_ns, house.queue_ns), live.waits_since_ns
                assert live.where is not Where.SLOT
            case Phase.TOTAL:
                limits, since_ns = (own.total_ns, house.total_ns), live.arrived_ns
            case Phase.LOAD:
                limits, since_ns = (own.load_ns, house.load_ns), live.waits_since_ns
                assert live.where is not Where.SLOT
            case _:
                assert effect.outcome is Outcome.FAILED
                return
        assert effect.outcome is Outcome.EXPIRED
        given = [each for each in limits if each is not None]
        assert given, "nobody gave a time-out"
        assert now_ns >= since_ns + min(given), "told too early that its time is up"


def _check_soft(effect: Finish, live: Live, now_ns: int) -> None:
    """Who took its request back while it could still be met says nothing."""
    assert effect.record is not None
    soft_ns = live.spec.soft_deadline_ns
    is_in_time, is_whole = now_ns <= soft_ns, effect.outcome is Outcome.COMPLETED
    said = is_in_time and is_whole
    if not soft_ns or (is_in_time and effect.outcome is Outcome.CANCELLED):
        assert effect.record.soft_met is None
    else:
        assert effect.record.soft_met is said
