"""A shell that does exactly what the engine says, and holds every effect against its own books.

The books say what is under way. An effect that they do not allow fails at once: these are the laws
of the engine as seen from outside, told without looking into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from broker.core import invariants
from broker.core.effects import (
    AbortAttempt,
    AbortLoad,
    Admit,
    Answer,
    Drained,
    Effect,
    Finish,
    Load,
    Own,
    Refuse,
    Renew,
    RestartBackend,
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
    WaitReason,
    WishEnded,
)
from broker.core.engine import Engine
from broker.core.errors import BrokerError, Cancelled
from broker.core.requests import Outcome, RequestKey, RequestSpec
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    BlockAsked,
    DrainAsked,
    LoadEnded,
    ModelsListed,
    PolicyChanged,
    Quiet,
    Stimulus,
    TimerFired,
)
from tests.property.attempt_books import AttemptBooks
from tests.property.bucket_books import BucketBooks
from tests.property.entry_books import EntryBooks, Live, Where
from tests.property.health_books import HealthBooks
from tests.property.house_rules import GRACE_NS, House
from tests.property.level_books import LevelBooks
from tests.property.operator_books import OperatorBooks
from tests.property.order_books import OrderBooks
from tests.property.preload_books import PreloadBooks
from tests.property.server_books import MODELS, SIZES, Call, Server, check_load
from tests.property.slot_books import SlotBooks
from tests.property.told_times import check_times
from tests.property.wish_books import WishBooks
from tests.unit.core.scene import SECOND_NS

_TOLD = (TellAttemptFailed, TellPreempted, TellBreaker, TellHealing, TellSwitch, TellLevel)
_TOLD_TO_ALL = (*_TOLD, TellPriority, SenseGpus, RestartBackend, *PreloadBooks.TOLD)


class PerfectShell:
    """Books and laws."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.engine = Engine(house.first)
        self.now_ns = SECOND_NS
        self.alarm_ns: int | None = None
        self.servers = {each.name: Server() for each in house.first.backends}
        self.operators = OperatorBooks(house.first)
        self.entry = EntryBooks(self.operators)
        self.buckets = BucketBooks(self.operators)
        self.levels = LevelBooks(self.engine, SIZES)
        self.order = OrderBooks(self.operators, self.levels)
        self.tries = AttemptBooks(self.operators)
        self.health, self.preloads = HealthBooks(), PreloadBooks(self.engine)
        self.slots = SlotBooks(self.operators, self.order)
        self.wishes = WishBooks()
        self.calls = self.slots.calls
        self.attempts_seen = self.admitted = self.finished = self.drained = 0
        self.outcomes: list[Outcome] = []
        self.answered: set[RequestKey] = set()  # in this turn
        self.turn: Stimulus = TimerFired()
        self.refusal: BrokerError | None = None  # what the last turn was answered by, if by no
        self.story: list[tuple[Stimulus, int, str]] = []  # what was said, when, and the answer
        self._laws: dict[type[Effect], Callable[[Any], None]] = {
            Admit: self._admitted,
            Refuse: self._refused,
            TellQueued: self._queued,
            **dict.fromkeys((TellSlowDown, TakeOver), self._told),
            TellRequeued: self._requeued,
            StartAttempt: self._start,
            AbortAttempt: self._abort,
            Answer: self._answer,
            Finish: self._finish,
            **dict.fromkeys(_TOLD_TO_ALL, self._heard),
            Load: self._load,
            AbortLoad: self._abort_load,
            Unload: self._unload,
            Renew: self._renew,
            Own: self._own,
            WishEnded: lambda told: self.wishes.ended(told, self.servers, self.engine),
            SetTimer: self._set_timer,
            Drained: self._drained,
        }
        for name in self.servers:
            self.feed(ModelsListed(name, MODELS))
            self.feed(BackendSeen(name, True))

    @property
    def live(self) -> dict[RequestKey, Live]:
        return self.entry.live

    def feed(self, stimulus: Stimulus) -> None:
        """One turn, its effects held against the books, and the engine's own laws."""
        self.turn, self.refusal = stimulus, None
        self.slots.begin_turn()
        effects = self.engine.handle(stimulus, self.now_ns)
        self.story.append((stimulus, self.now_ns, repr(effects)))
        self.health.turned(stimulus, effects, self.calls, self.now_ns)
        self._hear(stimulus, effects)
        for effect in effects:
            self._laws[type(effect)](effect)
        self.preloads.turned(effects)
        self.entry.check()
        self.wishes.check(self.now_ns, self.engine)
        self.order.check_sizes(self.engine.records)
        if isinstance(stimulus, BlockAsked) and stimulus.cancels_waiting:
            waiting = [*self.entry.those(Where.QUEUE), *self.entry.those(Where.ROOM)]
            assert not any(self.operators.means(stimulus.scope, each.key[0]) for each in waiting)
        invariants.check(self.engine)

    def _hear(self, stimulus: Stimulus, effects: Sequence[Effect]) -> None:
        """What the books know from the stimulus alone."""
        self.answered = {each.key for each in effects if isinstance(each, Answer)}
        self.operators.hear(stimulus, self.now_ns)
        self.wishes.hear(stimulus)
        self.buckets.refit(self.now_ns)
        self.order.refit(each.id for each in self.engine.agents)
        match stimulus:
            case Arrived() if self.engine.agents.find(stimulus.spec.key[0]) is not None:
                self.buckets.meet(stimulus.spec.key[0], self.now_ns)
            case PolicyChanged():
                self.entry.is_lowered = True
                self._limit_all()
            case AttemptEnded():
                self._attempt_ended(stimulus, effects)
            case DrainAsked():
                self.tries.draining = True
            case TimerFired():
                self.slots.release_due(self.now_ns)
        self._move_what_waits()

    def _attempt_ended(self, ended: AttemptEnded, effects: Sequence[Effect]) -> None:
        """Its slot is free; not at once where its request has ended before it."""
        call = self.calls.pop(ended.attempt)
        self.order.was_read(call, self.engine.records)
        live, key = call.live, call.live.key
        is_under_way = self.live.get(key) is live
        is_set_aside = call.is_for_urgent and isinstance(ended.error, Cancelled)
        if ended.error is not None and (is_set_aside or not is_under_way):
            self.slots.release_at(self.now_ns + GRACE_NS, call)
        else:
            self.slots.release(call)
        back = [each for each in effects if isinstance(each, TellRequeued) and each.key == key]
        if back:
            law = self.tries.set_aside if is_set_aside else self.tries.put_back
            law(back[0], call, ended)
            self.order.rest(ended.attempt)
            live.where, live.is_back, live.waits_since_ns = Where.QUEUE, True, self.now_ns
            words = [each for each in effects if isinstance(each, TellQueued) and each.key == key]
            if is_set_aside:
                live.where = Where.BACKOFF
            elif any(each.reason is WaitReason.BACKOFF for each in words):
                self.tries.rests(ended, live)
            elif key in self.engine.records:
                self._come_back(live)
            return
        tokens, cost = self.tries.used(call, ended)
        self.order.settle(ended.attempt, cost)
        self.buckets.settle(live, tokens, self.now_ns)

    def _come_back(self, live: Live) -> None:
        """It waits in a line again; in which one was decided before it entered that."""
        live.where = Where.QUEUE
        self.order.come_back(live.key, self.engine.records[live.key].line, self.now_ns)

    def _limit_all(self) -> None:
        """A bulkhead that is new holds for what waits and what runs as well."""
        held = {id(each.live): each.live for each in self.slots.holding()}
        everybody = {id(each): each for each in self.live.values()} | held
        for live in everybody.values():
            name = self.entry.new_bulkhead(live)
            if not name:
                continue
            if id(live) in held:
                self.order.release(live.compartment)
                self.order.running[name] += 1
            elif live.where is Where.QUEUE:
                line = self.order.waiting[live.key].line
                self.order.leave(live.key, self.now_ns)
                live.compartment = name
                self.order.enter(live, line, self.now_ns)
                self.order.waiting[live.key].has_moved = True
            live.compartment = name

    def _move_what_waits(self) -> None:
        """What waits for a model that was pulled anew waits for that from now on; so does what the
        level gives another model, in the order in which it came."""
        known = {each.runner for server in self.servers.values() for each in server.listed}
        for waiting in sorted(self.order.waiting.values(), key=lambda each: each.live.number):
            live, line = waiting.live, waiting.line
            record = self.engine.records.get(live.key)
            if record is None or record.line == line:
                continue
            if line[0] in known:
                self.levels.check_moved(live, line, record.line)
            self.order.move(live.key, record.line, self.now_ns)

    # The laws

    def _arrival(self) -> RequestSpec:
        assert isinstance(self.turn, Arrived), "something was answered that did not arrive"
        return self.turn.spec

    def _refused(self, effect: Refuse) -> None:
        spec = self._arrival()
        self.refusal = effect.error
        self.outcomes.append(Outcome.REFUSED)
        self.entry.refuse(spec, effect.error)
        priority = self.operators.priority(spec.key[0], spec.priority)
        self.levels.check_refused(spec, priority, effect.error)
        runners = {each.name.removesuffix(":latest"): each.runner for each in MODELS}
        tokens = self.engine.estimates.tokens(runners.get(spec.model, "blob-m"), spec)
        self.buckets.refuse(spec.key[0], effect.error, tokens, self.now_ns)

    def _admitted(self, effect: Admit) -> None:
        spec = self._arrival()
        assert spec.key == effect.key
        self.admitted += 1
        is_answered = spec.key in self.answered
        if is_answered:
            record = self.engine.ledger.journal.ended[spec.key].record
        else:
            record = self.engine.records[spec.key]
        reserved = record.passage.tokens_reserved
        told = self.engine.bulkheads.name(record.compartment), self.now_ns, record.service_ns
        live = self.entry.admit(spec, *told, is_answered=is_answered)
        self.buckets.admit(live, reserved, self.now_ns, is_answered=is_answered)

    def _told(self, effect: TellSlowDown | TakeOver) -> None:
        assert effect.key in self.live

    def _queued(self, effect: TellQueued) -> None:
        assert effect.position >= 1
        check_times(effect)
        live = self.live[effect.key]
        stands = effect.reason is WaitReason.QUEUE_FULL
        if stands and live.where is Where.NOWHERE:
            self.entry.stand(live)
        elif not stands and live.where in (Where.NOWHERE, Where.ROOM):
            self.entry.enter(live)
            line = self.engine.records[effect.key].line
            if isinstance(self.turn, Arrived) and self.turn.spec.key == effect.key:
                self.levels.check_entered(live, line)
            self.order.enter(live, line, self.now_ns)
        elif live.where is Where.BACKOFF and effect.reason is not WaitReason.BACKOFF:
            self._come_back(live)
        backs_off = effect.reason is WaitReason.BACKOFF
        where = Where.BACKOFF if backs_off else Where.ROOM if stands else Where.QUEUE
        assert live.where is where
        if effect.reason is WaitReason.PAUSED:
            names = (effect.key[0], self.operators.type_of(effect.key[0]).name, "every")
            assert any(name in effect.detail for name in names), "whom to resume is not said"

    def _requeued(self, effect: TellRequeued) -> None:
        live = self.live[effect.key]
        assert live.is_back, "put back though no call of it has ended"
        if effect.voids_pieces:  # also while it waits, where another model is to answer
            live.kept = 0

    def _start(self, effect: StartAttempt) -> None:
        assert effect.attempt > self.attempts_seen
        self.attempts_seen = effect.attempt
        live = self.live[effect.key]
        assert live.where is Where.QUEUE
        self.levels.check_started(effect, live)
        server = self.servers[effect.backend]
        runner = {each.name: each.runner for each in server.listed}[effect.model]
        self.tries.start(effect, live, runner)
        assert server.switching is None or server.switching.runner != runner
        slots = next(each.slots for each in server.listed if each.runner == runner)
        assert self.slots.held(effect.backend, runner) < slots, "two attempts for one slot"
        live.where = Where.SLOT
        self.calls[effect.attempt] = Call(live=live, backend=effect.backend, runner=runner)
        attempt = self.engine.attempts[effect.attempt]
        lines = {each.line for each in self.order.waiting.values()}
        fitting = [x for x in lines if x[0] == runner and attempt.residency.fits(x[1])]
        best_of = self.slots.best_of(effect.backend, runner, live.priority)
        self.order.start(effect, attempt.charged, fitting, self.now_ns, best_of=best_of)

    def _abort(self, effect: AbortAttempt) -> None:
        call = self.calls[effect.attempt]
        assert not call.is_aborted
        call.is_aborted, call.is_for_urgent = True, effect.is_for_urgent
        if effect.is_for_urgent:
            self.tries.abort(call.live, is_urgent_waiting=self.order.is_urgent_waiting())
        elif isinstance(self.turn, Quiet | AttemptEnded):
            call.is_for_cure = self.turn.attempt != effect.attempt

    def _heard(self, effect: Effect) -> None:
        """Told to who listens; no request's matter."""

    def _answer(self, effect: Answer) -> None:
        live = self.live[effect.key]
        if not self.tries.answer(effect, live):
            assert isinstance(self.turn, TimerFired | AttemptEnded | LoadEnded)
            return
        assert live.where is not Where.SLOT
        waiting = self.order.waiting.get(effect.key)
        self.levels.check_answered(effect, live, None if waiting is None else waiting.line)

    def _finish(self, effect: Finish) -> None:
        live = self.live[effect.key]  # KeyError: ended twice, or never admitted
        self.outcomes.append(effect.outcome)
        self.finished += 1
        self.tries.finish(effect, live, self.now_ns)
        is_complete = effect.outcome is Outcome.COMPLETED
        assert (effect.error is None) == is_complete
        if is_complete and effect.key not in self.answered:
            assert isinstance(self.turn, AttemptEnded)
            assert self.turn.error is None
        if effect.outcome is Outcome.DISPLACED:
            by = self.live[self._arrival().key]
            may_run = not self.levels.bars(by, self.engine.records[by.key].line)
            is_barred = self.levels.bars(live, self.order.waiting[effect.key].line)
            self.entry.displaced(effect.key, by, is_barred=is_barred and may_run)
        elif effect.outcome is Outcome.REFUSED:
            self.entry.turned_away(effect.key, self.now_ns)
        if effect.outcome in (Outcome.DISPLACED, Outcome.REFUSED):
            self.buckets.give_back(live, self.now_ns)
        elif live.where is not Where.SLOT:
            self.buckets.settle(live, live.kept, self.now_ns)
        self.order.leave(effect.key, self.now_ns)
        del self.live[effect.key]

    def _load(self, effect: Load) -> None:
        server = self.servers[effect.backend]
        assert server.switching is None, "a load beside another switch"
        check_load(effect, server, self.engine)
        server.switching = effect

    def _abort_load(self, effect: AbortLoad) -> None:
        switching = self.servers[effect.backend].switching
        assert isinstance(switching, Load), "no load is under way"
        assert switching.runner == effect.runner

    def _unload(self, effect: Unload) -> None:
        server = self.servers[effect.backend]
        assert server.switching is None, "an unload beside another switch"
        assert self.slots.held(effect.backend, effect.runner) == 0, "an unload under running work"
        is_whole = self.engine.backends[effect.backend].policy.exclusive
        owner = server.loaded.get(effect.runner, "us")  # it may have left by itself
        may = owner == "us" or is_whole or effect.is_cure  # what hangs serves nobody
        assert may, "an unload of what others loaded"
        server.switching = effect

    def _renew(self, effect: Renew) -> None:
        server = self.servers[effect.backend]
        assert not (isinstance(server.switching, Unload) and server.switching.model == effect.model)

    def _own(self, effect: Own) -> None:
        known = self.engine.backends[effect.backend].residents
        assert all(known[each].managed for each in effect.runners)

    def _set_timer(self, effect: SetTimer) -> None:
        self.alarm_ns = effect.at_ns

    def _drained(self, effect: Drained) -> None:
        assert not self.live
        assert not self.calls
        self.drained += 1
