"""Watches who is let in, who waits where, and who may run: with the books of the property tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from broker.core.effects import (
    AbortAttempt,
    Admit,
    Effect,
    Finish,
    Refuse,
    StartAttempt,
    TakeOver,
    TellQueued,
    TellRequeued,
    WaitReason,
)
from broker.core.engine import Engine
from broker.core.errors import (
    AgentBlocked,
    AgentQueueFull,
    BackendUnreachable,
    BrokerRateLimited,
    Cancelled,
    DeadlineExpired,
    DeadlineInfeasible,
    Degraded,
    QueueFull,
    QuotaExceeded,
    SmallModelsOnly,
    TokenQuotaExceeded,
)
from broker.core.level import Level
from broker.core.record import Record
from broker.core.requests import AttemptId, Outcome, RequestKey, RequestSpec
from broker.core.stimuli import Arrived, AttemptEnded, PolicyChanged, Stimulus, TimerFired
from tests.property.bucket_books import BucketBooks
from tests.property.entry_books import EntryBooks, Live, Where
from tests.property.operator_books import OperatorBooks
from tests.sim.books import must
from tests.sim.draw_tasks import PATIENT_NS
from tests.sim.scenario import Scenario

# What the gates say no for that this watch has books of.
BY_THE_GATES: Final = (
    AgentBlocked,
    QuotaExceeded,
    BrokerRateLimited,
    QueueFull,
    AgentQueueFull,
    DeadlineInfeasible,
    DeadlineExpired,
    Degraded,
    SmallModelsOnly,
)
GIVEN_BACK: Final = (Outcome.REFUSED, Outcome.DISPLACED)


class GateWatch:
    """`entry` and `operators` are its books."""

    def __init__(self, scenario: Scenario, engine: Engine) -> None:
        self.operators = OperatorBooks(scenario.policy)
        self.entry = EntryBooks(self.operators)
        self.buckets = BucketBooks(self.operators)
        self.running: dict[str, int] = {}  # by compartment
        self._scenario = scenario
        self._engine = engine
        self._attempts: dict[AttemptId, Live] = {}
        self._started_ns: dict[AttemptId, int] = {}
        self._set_aside: set[AttemptId] = set()  # whose call was closed for urgent work
        self._graces: list[tuple[int, Live]] = []
        self._stimulus: Stimulus = TimerFired()
        self._now_ns = 0
        self._rules: dict[type[Effect], Callable[[Any], None]] = {
            Admit: self._admit,
            Refuse: self._refuse,
            TakeOver: self._take_over,
            TellQueued: self._queued,
            TellRequeued: self._requeued,
            StartAttempt: self._start,
            AbortAttempt: self._abort,
            Finish: self._finish,
        }

    def hear(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        """What the books know from the stimulus alone."""
        self._stimulus, self._now_ns = stimulus, now_ns
        self.operators.hear(stimulus, now_ns)
        self.buckets.refit(now_ns)
        match stimulus:
            case Arrived() if self._engine.agents.find(stimulus.spec.key[0]) is not None:
                self.buckets.meet(stimulus.spec.key[0], now_ns)
            case PolicyChanged():
                self.entry.is_lowered = True
                self._limit_all()
            case AttemptEnded():
                back = {each.key for each in effects if isinstance(each, TellRequeued)}
                self._attempt_ended(stimulus, back)
            case TimerFired():
                for until_ns, live in self._graces:
                    if until_ns <= now_ns:
                        self._release(live)
                self._graces = [each for each in self._graces if each[0] > now_ns]

    def _attempt_ended(self, ended: AttemptEnded, back: set[RequestKey]) -> None:
        live = self._attempts.pop(ended.attempt)
        ran_ns = self._now_ns - self._started_ns.pop(ended.attempt)
        if live.spec.session_id and ended.error is None:
            self.entry.sessions.completed(live.spec, ran_ns)
        is_set_aside = ended.attempt in self._set_aside and isinstance(ended.error, Cancelled)
        self._set_aside.discard(ended.attempt)
        is_gone = self.entry.live.get(live.key) is not live
        if ended.error is not None and (is_set_aside or is_gone):
            grace_ns = self._scenario.policy.placement.slot_grace_ns
            self._graces.append((self._now_ns + grace_ns, live))
        else:
            self._release(live)
        if live.key in back:
            return
        prompt_tokens = ended.prompt_tokens
        if not prompt_tokens and not isinstance(ended.error, BackendUnreachable):
            prompt_tokens = live.spec.prompt_bytes // 4
        self.buckets.settle(live, prompt_tokens + ended.output_tokens, self._now_ns)

    def _limit_all(self) -> None:
        """A bulkhead that is new holds for what waits and what runs as well."""
        held = [*self._attempts.values(), *(live for _, live in self._graces)]
        for live in held:
            name = self.entry.new_bulkhead(live)
            if name:
                self.running[live.compartment] -= 1
                self.running[name] = self.running.get(name, 0) + 1
                live.compartment = name
        for live in self.entry.live.values():
            live.compartment = self.entry.new_bulkhead(live) or live.compartment

    def _release(self, live: Live) -> None:
        self.running[live.compartment] -= 1

    def tell(self, effect: Effect) -> None:
        """One effect, in its order."""
        rule = self._rules.get(type(effect))
        if rule is not None:
            rule(effect)

    def may_run(self, key: RequestKey) -> bool:
        """Does nothing but the want of a slot hold this one back?"""
        live = self.entry.live[key]
        is_held = live.where is not Where.QUEUE or self.operators.is_paused(key[0])
        return not (is_held or self._is_closed(live.compartment))

    def is_cut(self, spec: RequestSpec) -> bool:
        """Is its answer shorter than it asks for, at the level that holds?"""
        level, most = self._engine.degradation, self._engine.policy.degradation.output_tokens_max
        return level.level >= Level.LEVEL_1 and not 0 < spec.output_tokens_max <= most

    def _is_barred(self, record: Record) -> bool:
        offers = self._engine.backlog.offers
        return offers.bars(record.line[0], record.priority, record.compartment)

    def _is_closed(self, compartment: str) -> bool:
        limit = self.operators.limit(compartment)
        return limit is not None and self.running.get(compartment, 0) >= limit

    def _admit(self, effect: Admit) -> None:
        record = self._engine.records[effect.key]
        compartment = self._engine.bulkheads.name(record.compartment)
        live = self.entry.admit(record.spec, compartment, self._now_ns, record.service_ns)
        self.buckets.admit(live, record.passage.tokens_reserved, self._now_ns)

    def _refuse(self, effect: Refuse) -> None:
        if not isinstance(self._stimulus, Arrived):
            return
        spec, error = self._stimulus.spec, effect.error
        self.entry.refuse(spec, error)
        if isinstance(error, Degraded | SmallModelsOnly):
            level = self._engine.degradation.level
            must(level >= Level.LEVEL_2, f"{spec.key} was refused for a level that does not say so")
        if isinstance(error, AgentBlocked):
            must(self.operators.is_blocked(spec.key[0]), f"{spec.key}: nobody blocked it")
        if isinstance(error, DeadlineInfeasible | DeadlineExpired):
            is_patient = spec.deadline_ns - self._now_ns >= PATIENT_NS
            must(not is_patient, f"{spec.key} had all the time of the world")
        tokens = 0
        if isinstance(error, TokenQuotaExceeded):
            tokens = self._engine.estimates.tokens(self._runner(spec.model), spec)
        self.buckets.refuse(spec.key[0], error, tokens, self._now_ns)

    def _take_over(self, effect: TakeOver) -> None:
        if isinstance(self._stimulus, Arrived):
            self.entry.take_over(self.entry.live[effect.key], self._stimulus.spec)

    def _runner(self, model: str) -> str:
        specs = (self._scenario.spec(each.name, model) for each in self._scenario.sites)
        return next(each.runner for each in specs if each)

    def _queued(self, effect: TellQueued) -> None:
        live = self.entry.live[effect.key]
        if effect.reason is WaitReason.QUEUE_FULL:
            if live.where is Where.NOWHERE:
                self.entry.stand(live)
        elif effect.reason is WaitReason.BACKOFF:
            live.where = Where.BACKOFF
        elif live.where is Where.BACKOFF:
            live.where = Where.QUEUE
        elif live.where in (Where.NOWHERE, Where.ROOM):
            self.entry.enter(live)

    def _requeued(self, effect: TellRequeued) -> None:
        live = self.entry.live[effect.key]
        if live.where is Where.SLOT:  # else it waits, and only what it was told is void
            live.where, live.is_back = Where.QUEUE, True

    def _start(self, effect: StartAttempt) -> None:
        live = self.entry.live[effect.key]
        must(live.where is Where.QUEUE, f"{effect.key} was started and did not wait")
        is_paused = self.operators.is_paused(effect.key[0])
        must(not is_paused, f"{effect.key} was started, and its agent is paused")
        full = self._is_closed(live.compartment)
        must(not full, f"{effect.key} was started in {live.compartment}, which is full")
        live.where = Where.SLOT
        self.running[live.compartment] = self.running.get(live.compartment, 0) + 1
        self._attempts[effect.attempt] = live
        self._started_ns[effect.attempt] = self._now_ns

    def _abort(self, effect: AbortAttempt) -> None:
        """Set aside is only what its owner marked, not too often, and for somebody."""
        if not effect.is_for_urgent:
            return
        self._set_aside.add(effect.attempt)
        live, policy = self._attempts[effect.attempt], self.operators.policy.preemption
        is_marked = live.spec.preemptible and live.priority >= policy.victim_best
        must(is_marked, f"{live.key} was set aside and its owner did not let it be")
        live.preemptions += 1
        must(live.preemptions <= policy.preemptions_max, f"{live.key} was set aside too often")
        waiting = self.entry.those(Where.QUEUE)
        urgent = [each for each in waiting if each.priority <= policy.urgent_worst]
        is_for_any = any(self.may_run(each.key) for each in urgent)
        must(is_for_any, f"{live.key} was set aside for nobody")

    def _finish(self, effect: Finish) -> None:
        live = self.entry.live[effect.key]
        if effect.outcome is Outcome.DISPLACED:
            must(isinstance(self._stimulus, Arrived), f"{effect.key} was displaced by nobody")
            if isinstance(self._stimulus, Arrived):
                by = self.entry.live[self._stimulus.spec.key]
                may_run = not self._is_barred(self._engine.records[by.key])
                is_barred = effect.record is not None and self._is_barred(effect.record)
                self.entry.displaced(effect.key, by, is_barred=is_barred and may_run)
        elif effect.outcome is Outcome.REFUSED:
            self.entry.turned_away(effect.key, self._now_ns)
        if effect.outcome in GIVEN_BACK:
            self.buckets.give_back(live, self._now_ns)
        elif live.where is not Where.SLOT:
            self.buckets.settle(live, 0, self._now_ns)
        del self.entry.live[effect.key]
