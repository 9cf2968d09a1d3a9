"""The shell around the engine: the only caller of `Engine.handle`, and the performer of effects.

What a decision needs from outside is fetched before the turn; the turn itself is synchronous. An
effect that takes time becomes one supervised task whose end is one stimulus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from broker.core.content import EmbedContent, GenerateContent
from broker.core.effects import (
    AbortAttempt,
    AbortLoad,
    Admit,
    Answer,
    Drained,
    Effect,
    Finish,
    Load,
    Refuse,
    Renew,
    SenseGpus,
    SetTimer,
    StartAttempt,
    TakeOver,
    TellAttemptFailed,
    TellBreaker,
    TellHealing,
    TellLevel,
    TellPreempted,
    TellPriority,
    TellQueued,
    TellRequeued,
    TellSlowDown,
    TellSwitch,
    Unload,
)
from broker.core.engine import Engine
from broker.core.errors import (
    BrokerError,
    ClientTooSlow,
    FieldProblem,
    Internal,
    InvalidRequest,
    InvariantBroken,
    RequestUnknown,
)
from broker.core.level import Level
from broker.core.observer import Observer
from broker.core.policy import EnginePolicy
from broker.core.ports import Backend
from broker.core.requests import Outcome, RequestKey, RequestSpec
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    BlockAsked,
    BoostAsked,
    CancelAsked,
    CancelCause,
    DrainAsked,
    LevelAsked,
    LoadEnded,
    ModelsListed,
    PauseAsked,
    PolicyChanged,
    ResidentsSeen,
    ResumeAsked,
    Stimulus,
    TimerFired,
    UnloadEnded,
)
from broker.core.views import LevelView
from broker.runtime.attempts import Errand
from broker.runtime.calls import Calls
from broker.runtime.clock import Clock
from broker.runtime.inquiries import Inquiries
from broker.runtime.reports import Reports
from broker.runtime.streams import ResponseStream, Subscription
from broker.runtime.supervisor import Supervisor
from broker.runtime.switches import Switches, SwitchLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLimits:
    """Bounds of the shell itself.

    `reconnect_grace_ns`: how long a request whose client went away waits for it to come back. 0:
    the backend's work is aborted at once, which is what agents that cancel want. `default_answer`:
    what the operator has said for requests that may be answered so; `default_answers` the same for
    kinds of prompts.
    """

    stream_buffer_bytes_max: int = 1024 * 1024
    reconnect_grace_ns: int = 0
    default_answer: str = ""
    default_answers: Mapping[str, str] = field(default_factory=dict)
    switches: SwitchLimits = field(default_factory=SwitchLimits)


# After these a backend, or a model on one, may be in another state than before.
_OF_BACKENDS: Final = frozenset(
    {BackendSeen, ModelsListed, ResidentsSeen, LoadEnded, UnloadEnded, AttemptEnded, TimerFired}
)


NO_ANSWERS: Final[Mapping[str, str]] = MappingProxyType({})


def _nothing() -> None:
    """There is no sensor."""


@dataclass(slots=True)
class _Newcomer:
    """A request between its arrival and the engine's first word on it."""

    spec: RequestSpec
    errand: Errand
    resume_from: int
    subscription: Subscription | None = None
    error: BrokerError | None = None


class Driver(Inquiries):
    """Feeds the engine and does what it says; `performers` do what is not of requests or models."""

    def __init__(
        self,
        engine: Engine,
        backends: Mapping[str, Backend],
        clock: Clock,
        supervisor: Supervisor,
        limits: DriverLimits,
        observer: Observer,
        performers: Mapping[type[Effect], Callable[[Any], None]] | None = None,
    ) -> None:
        super().__init__(engine, clock)
        self.sense_gpus: Callable[[], None] = _nothing  # asks that sensor, where there is one
        self._default_answer = limits.default_answer
        self._default_answers = limits.default_answers
        self._observer = observer
        self._reports = Reports(engine, clock, observer)
        self._limits = limits
        self._errands: dict[RequestKey, Errand] = {}
        self._calls = Calls(backends, clock, supervisor, self.feed)
        self._newcomer: _Newcomer | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._broken = asyncio.Event()
        self._turning = False
        self._waiting_stimuli: list[Stimulus] = []
        switches = Switches(
            backends, limits.switches, clock, supervisor, self.feed, observer.load_ended
        )
        self._performers: dict[type[Effect], Callable[[Any], None]] = {
            Admit: self._admit,
            Refuse: self._refuse,
            TakeOver: self._take_over,
            TellQueued: self._tell,
            TellSlowDown: self._tell,
            TellRequeued: self._tell,
            StartAttempt: self._start_attempt,
            AbortAttempt: self._abort_attempt,
            Answer: self._answer,
            Finish: self._finish,
            Load: switches.load,
            AbortLoad: switches.abort_load,
            Unload: switches.unload,
            Renew: switches.renew,
            TellAttemptFailed: lambda told: observer.attempt_failed(told.report),
            TellPreempted: lambda told: observer.attempt_preempted(told.report),
            TellBreaker: observer.breaker_changed,
            TellHealing: observer.healing,
            TellSwitch: observer.switching,
            SenseGpus: lambda effect: self.sense_gpus(),
            TellLevel: observer.level_changed,
            TellPriority: observer.priority_changed,
            SetTimer: self._set_timer,
            Drained: self._set_drained,
            **(performers or {}),
        }
        self.forget = switches.forget

    # For services

    def submit(
        self,
        spec: RequestSpec,
        content: GenerateContent | EmbedContent,
        *,
        resume_from: int = 0,
        traceparent: str = "",
    ) -> Subscription:
        """Hands a request to the engine and returns the one reader of its stream.

        On success the caller owns the subscription and must `leave` it in the end; on error
        (BrokerError) nothing of the request remains.
        """
        self._check_resumable(spec, resume_from)
        stream = ResponseStream(spec.key, self._limits.stream_buffer_bytes_max)
        errand = Errand(stream, content, self._clock.monotonic_ns(), traceparent)
        newcomer = _Newcomer(spec, errand, resume_from)
        self._newcomer = newcomer
        try:
            self.feed(Arrived(spec))
        finally:
            self._newcomer = None
        if newcomer.error is not None:
            raise newcomer.error
        if newcomer.subscription is None:
            raise InvariantBroken("the engine neither took nor refused a request")
        return newcomer.subscription

    def _check_resumable(self, spec: RequestSpec, resume_from: int) -> None:
        """Before the engine hears of it: a call that cannot take over must change nothing, the
        deadline neither. Other content under the same id is for the engine to refuse."""
        errand = self._errands.get(spec.key)
        if errand is None:
            if resume_from:
                raise RequestUnknown("there is nothing to resume: no such request is under way")
        elif self._engine.records[spec.key].spec.fingerprint == spec.fingerprint:
            errand.stream.check_resumable(resume_from)

    def leave(self, subscription: Subscription) -> None:
        """The reader is done, or its client went away. A request that only it was waiting for is
        cancelled; one that has ended, or that a newer call reads, is not touched."""
        may_come_back = self._limits.reconnect_grace_ns and not self._engine.draining
        if may_come_back and not subscription.is_over:
            delay_s = self._limits.reconnect_grace_ns / 1e9
            asyncio.get_running_loop().call_later(delay_s, self._give_up, subscription)
        else:
            self._give_up(subscription)

    def _give_up(self, subscription: Subscription) -> None:
        stream = subscription.stream
        errand = self._errands.get(stream.key)
        if errand is not None and errand.stream is stream and stream.is_read_by(subscription):
            self.feed(CancelAsked(stream.key, CancelCause.CLIENT_GONE))
        stream.detach(subscription)

    def end_slow(self, subscription: Subscription, error: ClientTooSlow) -> None:
        """Ends the request of a reader that takes nothing of its running answer, if it reads still.
        The slot is given back as after any call that was cut off."""
        stream = subscription.stream
        errand = self._errands.get(stream.key)
        if errand is None or errand.stream is not stream or not stream.is_read_by(subscription):
            return
        stream.detach(subscription)  # this reader hears of it from its call
        if errand.attempt is None or not self._calls.close(errand.attempt, error):
            # Between two attempts.
            self.feed(CancelAsked(stream.key, CancelCause.CLIENT_GONE))

    def cancel(self, key: RequestKey, cause: CancelCause = CancelCause.BY_AGENT) -> str | None:
        """Ends a request. Its state before, or None where there was none."""
        record = self._engine.records.get(key)
        if record is None:
            return None
        state = record.state.value
        self.feed(CancelAsked(key, cause))
        return state

    def adjust(self, change: BoostAsked | BlockAsked | PauseAsked | ResumeAsked) -> int:
        """Changes what some agents may, and returns how many are known that it concerns.
        AgentNotFound, with the nearest ids, where the scope names one that is not remembered."""
        concerned = self._engine.agents.concerned(change.scope)
        self.feed(change)
        return concerned

    def reconfigure(
        self,
        policy: EnginePolicy,
        default_answer: str = "",
        default_answers: Mapping[str, str] = NO_ANSWERS,
    ) -> None:
        """From now on these decisions hold, and these are the default answers, the general one and
        those by kind of prompt. InvalidRequest, and nothing changes, where they cannot before some
        work has ended."""
        if not self._engine.bulkheads.fits(policy.agents.bulkheads):
            problem = "too many beside those that work under way still runs in; try again later"
            raise InvalidRequest((FieldProblem(field="bulkheads", problem=problem),))
        self._default_answer, self._default_answers = default_answer, default_answers
        self.feed(PolicyChanged(policy))

    def set_level(self, level: Level | None, until_ns: int | None) -> LevelView:
        """Sets the level by hand until a moment, or leaves it to the load; what holds then."""
        self.feed(LevelAsked(level=level, until_ns=until_ns))
        return self.level()

    def drain(self, timeout_ns: int) -> None:
        """Takes no new requests; what is under way has `timeout_ns`."""
        self.feed(DrainAsked(self._clock.monotonic_ns() + timeout_ns))

    async def wait_drained(self) -> None:
        """Returns when nothing is under way any more, after `drain`."""
        await self._drained.wait()

    async def wait_broken(self) -> None:
        """Returns when a turn of the engine has failed: the daemon must stop and say so."""
        await self._broken.wait()

    def pieces_count(self, key: RequestKey) -> int:
        """Pieces of the answer so far; 0 for a request that is not under way."""
        errand = self._errands.get(key)
        return errand.stream.pieces_count if errand is not None else 0

    # The turn

    def feed(self, stimulus: Stimulus) -> None:
        """One turn of the engine, then its effects. A stimulus that an effect causes at once waits
        for the end of the turn: effects are performed in the order of their turns."""
        self._waiting_stimuli.append(stimulus)
        if self._turning:
            return
        self._turning = True
        whole = False
        try:
            while self._waiting_stimuli:
                due = self._waiting_stimuli.pop(0)
                for effect in self._engine.handle(due, self._clock.monotonic_ns()):
                    self._performers[type(effect)](effect)
                if type(due) in _OF_BACKENDS:
                    self._observer.backends_changed()
            whole = True
        finally:
            self._turning = False
            if not whole:  # half a turn was done: nothing the engine says can be trusted now
                self._broken.set()

    def _admit(self, effect: Admit) -> None:
        newcomer = self._expected()
        self._errands[effect.key] = newcomer.errand
        newcomer.subscription = newcomer.errand.stream.attach()

    def _refuse(self, effect: Refuse) -> None:
        newcomer = self._expected()
        newcomer.error = effect.error
        self._reports.refused(newcomer.spec, newcomer.errand, effect.error)

    def _take_over(self, effect: TakeOver) -> None:
        newcomer = self._expected()
        newcomer.subscription = self._errands[effect.key].stream.attach(newcomer.resume_from)

    def _expected(self) -> _Newcomer:
        if self._newcomer is None:
            raise InvariantBroken("the engine speaks of an arrival that nobody waits for")
        return self._newcomer

    def _tell(self, effect: TellQueued | TellSlowDown | TellRequeued) -> None:
        self._errands[effect.key].stream.tell(effect)

    def _start_attempt(self, effect: StartAttempt) -> None:
        self._calls.start(effect, self._errands[effect.key])
        self._reports.started(effect)

    def _abort_attempt(self, effect: AbortAttempt) -> None:
        self._calls.close(effect.attempt)

    def _answer(self, effect: Answer) -> None:
        text = self._default_answers.get(effect.prompt_type, self._default_answer)
        self._errands[effect.key].answer(text, effect, self._clock.monotonic_ns())

    def _finish(self, effect: Finish) -> None:
        errand = self._errands.pop(effect.key)
        if effect.outcome is Outcome.COMPLETED:
            if errand.done is None:
                raise InvariantBroken("a request is complete without a result")
            record, done = effect.record, errand.done
            if record is not None and record.soft_met is not None:
                done = done._replace(is_soft_met=record.soft_met)
            errand.stream.finish(done)
        else:
            error = effect.error or Internal("ended without a reason")
            errand.stream.fail(error, effect.outcome)
        self._reports.ended(effect, errand)

    def _set_timer(self, effect: SetTimer) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay_ns = max(0, effect.at_ns - self._clock.monotonic_ns())
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(delay_ns / 1e9, self.feed, TimerFired())

    def _set_drained(self, effect: Drained) -> None:
        self._drained.set()

    def close(self) -> None:
        """Stops the alarm and the watch. Tasks end with the supervisor."""
        self._calls.stop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
