"""Watches what is tried again, and where: how often, by whose leave, and past which breakers.

Its books are its own, kept by what the engine says and hears.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from broker.core.breaker import BreakerState
from broker.core.effects import (
    AbortAttempt,
    Effect,
    Finish,
    StartAttempt,
    TellBreaker,
    TellHealing,
    TellRequeued,
)
from broker.core.errors import BackendUnreachable, Cancelled
from broker.core.failures import failure_of
from broker.core.healing import HealingStep
from broker.core.requests import AttemptId, OnInterruption, RequestKey
from broker.core.stimuli import Arrived, AttemptEnded, FirstToken, Quiet, Stimulus
from tests.sim.books import must
from tests.sim.scenario import Scenario

_Place = tuple[str, str]  # backend, runner


@dataclass(slots=True)
class _Call:
    key: RequestKey
    place: _Place
    is_probe: bool
    is_aborted: bool = False
    is_again: bool = False  # on the backend that had lost its stream
    is_for_cure: bool = False  # closed beside a frozen call: its end says nothing of it
    is_for_urgent: bool = False  # set aside for urgent work
    has_streamed: bool = False


class RetryWatch:
    """`breakers` and `cures` are what was told of each model on each backend."""

    def __init__(self, scenario: Scenario) -> None:
        self.breakers: dict[_Place, BreakerState] = {}
        self.cures: set[_Place] = set()
        self.retries: Counter[str] = Counter()  # by backend, of calls it may have worked for
        self._scenario = scenario
        self._calls: dict[AttemptId, _Call] = {}
        self._tries: Counter[RequestKey] = Counter()
        self._free: Counter[RequestKey] = Counter()  # of these, closed for a cure
        self._streamed: set[RequestKey] = set()
        self._on_interruption: dict[RequestKey, OnInterruption] = {}
        self._firsts: Counter[str] = Counter()  # first attempts, by backend
        self._waits: set[RequestKey] = set()  # again
        self._begun: dict[RequestKey, str] = {}  # by which runner what stands was begun
        self._lost_on: dict[RequestKey, str] = {}  # whose stream another backend may take up

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect]) -> None:
        ended: _Call | None = None
        match stimulus:
            case Arrived():
                # Of a request under way it is the same: other words would be refused.
                spec = stimulus.spec
                self._on_interruption.setdefault(spec.key, spec.on_interruption)
            case FirstToken():
                call = self._calls[stimulus.attempt]
                call.has_streamed = True
                self._streamed.add(call.key)
                self._begun[call.key] = call.place[1]
            case AttemptEnded():
                ended = self._calls.pop(stimulus.attempt)
                if ended.is_again and isinstance(stimulus.error, BackendUnreachable):
                    self.retries[ended.place[0]] -= 1  # it called nobody
        for effect in effects:
            self._tell(effect, stimulus, ended)

    def gone(self, backend: str) -> None:
        """Another one may have its name later: nothing of this one is kept."""
        self.breakers = {key: each for key, each in self.breakers.items() if key[0] != backend}
        self.cures = {each for each in self.cures if each[0] != backend}
        self.retries.pop(backend, None)

    def is_open(self, backend: str, runner: str) -> bool:
        """Is a breaker open or half open there?"""
        return self.breakers.get((backend, runner), BreakerState.CLOSED) is not BreakerState.CLOSED

    def _tell(self, effect: Effect, stimulus: Stimulus, ended: _Call | None) -> None:
        match effect:
            case StartAttempt():
                self._start(effect)
            case AbortAttempt():
                call = self._calls[effect.attempt]
                call.is_aborted, call.is_for_urgent = True, effect.is_for_urgent
                call.is_for_cure = not call.is_for_urgent and _is_beside(stimulus, effect.attempt)
            case TellRequeued():
                self._requeued(effect, stimulus, ended)
            case Finish():
                self._tries.pop(effect.key, None)
                self._free.pop(effect.key, None)
                self._streamed.discard(effect.key)
                self._lost_on.pop(effect.key, None)
                self._begun.pop(effect.key, None)
                self._waits.discard(effect.key)
            case TellBreaker():
                self.breakers[self._place(effect.backend, effect.model)] = effect.after
            case TellHealing() if effect.model:
                place = self._place(effect.backend, effect.model)
                (self.cures.discard if effect.step is HealingStep.CURED else self.cures.add)(place)

    def _place(self, backend: str, model: str) -> _Place:
        spec = self._scenario.spec(backend, model)
        return backend, spec.runner if spec else model

    def _start(self, effect: StartAttempt) -> None:
        """Nothing where a breaker is open, one call where it is half open; no request is tried more
        often than it may be, or goes on with what another model began."""
        place = self._place(effect.backend, effect.model)
        state = self.breakers.get(place, BreakerState.CLOSED)
        must(state is not BreakerState.OPEN, f"{effect.key} was sent where the breaker is open")
        is_probe = state is BreakerState.HALF_OPEN
        beside = [each for each in self._calls.values() if each.place == place and each.is_probe]
        must(not (is_probe and beside), f"{effect.key} is a second probe of {place}")
        is_again = self._lost_on.get(effect.key) == effect.backend
        self._calls[effect.attempt] = _Call(effect.key, place, is_probe, is_again=is_again)
        self.retries[effect.backend] += is_again
        self._waits.discard(effect.key)
        began = self._begun.get(effect.key)
        is_its_own = began == place[1] if effect.continues else began is None
        must(is_its_own, f"{effect.key} goes on with what {began} began, on {place}")
        self._tries[effect.key] += 1
        tries_max = self._scenario.policy.retry.tries_max
        tries = self._tries[effect.key] - self._free[effect.key]
        must(tries <= tries_max, f"{effect.key}: more than {tries_max} tries")
        self._firsts[effect.backend] += self._tries[effect.key] == 1

    def _requeued(self, effect: TellRequeued, stimulus: Stimulus, ended: _Call | None) -> None:
        """Only what a failure took the slot from, after a token only by its caller's leave; and a
        backend that fails much is not called much more. What waits is told so only to void what a
        model began that will not answer it."""
        if effect.voids_pieces:
            self._begun.pop(effect.key, None)
        error = stimulus.error if isinstance(stimulus, AttemptEnded) else None
        if error is None or ended is None or effect.key in self._waits:
            is_void = effect.voids_pieces and effect.key in self._streamed
            must(is_void and effect.key in self._waits, f"{effect.key} was put back for nothing")
            return
        self._waits.add(effect.key)
        if ended.is_for_urgent and isinstance(error, Cancelled):
            self._set_aside(effect, ended)
            return
        failure = failure_of(error)
        if ended.is_for_cure and isinstance(error, Cancelled):
            self._free[effect.key] += 1
        may_help = failure.retries or ended.is_aborted
        must(may_help, f"{effect.key} was put back though nothing can help: {error!r}")
        leave = self._on_interruption[effect.key]
        is_void = effect.key in self._streamed and leave is OnInterruption.FAIL
        must(not is_void, f"{effect.key} was put back after a token, without leave")
        if ended.is_for_cure and isinstance(error, Cancelled):
            return
        if not (failure.was_called or ended.is_aborted or ended.has_streamed):
            return  # nothing was called
        backend = ended.place[0]
        self._lost_on.pop(effect.key, None)
        if ended.has_streamed:
            self._lost_on[effect.key] = backend  # another may take it up: it counts where it starts
        else:
            self.retries[backend] += 1
        policy = self._scenario.policy.retry
        most = policy.budget_max + policy.budget_share * self._firsts[backend]
        must(self.retries[backend] <= most, f"{backend} was called again too often")

    def _set_aside(self, effect: TellRequeued, ended: _Call) -> None:
        """Its slot went to urgent work: that is no try, and its owner lets it begin anew."""
        self._free[effect.key] += 1
        if ended.is_again:
            del self._lost_on[effect.key]  # that was charged
        if effect.voids_pieces:
            self._streamed.discard(effect.key)


def _is_beside(stimulus: Stimulus, aborted: AttemptId) -> bool:
    """Was a call closed because of another one on its runner, which is frozen?"""
    return isinstance(stimulus, Quiet | AttemptEnded) and stimulus.attempt != aborted
