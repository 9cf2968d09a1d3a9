"""The engine: stimuli in, effects out. Every decision of the broker is made here or below.

    engine.handle(stimulus, now_ns) -> [effects]

One call is one turn: it runs to its end without suspending, so that checks over several parts need
no locks. Pure and deterministic: the same stimuli at the same times give the same effects. It does
no I/O, reads no clock, and never sees a word of a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from broker.core.assembly import Assembly
from broker.core.dispatch import next_dispatch
from broker.core.effects import Drained, Effect, ListAgain, SetTimer
from broker.core.errors import BrokerError, ModelUnknown
from broker.core.level import Level
from broker.core.lifecycle import Trigger
from broker.core.meant import Meant
from broker.core.ownership import OWNS_OTHERS
from broker.core.placement import BackendState
from broker.core.placement_rule import PlacementRule
from broker.core.policy import EnginePolicy
from broker.core.preloads import Preloads
from broker.core.queueing import Line, LineKey
from broker.core.record import Attempt
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendDrainAsked,
    BackendSeen,
    BlockAsked,
    BoostAsked,
    CancelAsked,
    CancelCause,
    DrainAsked,
    FirstToken,
    GpusSensed,
    LoadAsked,
    LoadEnded,
    ModelsListed,
    OwnedBefore,
    PauseAsked,
    PolicyChanged,
    PreloadLearned,
    Quiet,
    ResidentsSeen,
    RestartEnded,
    ResumeAsked,
    Stimulus,
    TimerFired,
    UnloadAsked,
    UnloadEnded,
    WallClockSet,
    WishWithdrawn,
)
from broker.core.wished_loads import WishedLoads
from broker.core.wished_unloads import WishedUnloads
from broker.core.wishes import Wishes


class Engine(Assembly):
    """See the module. `Assembly` makes its parts; here is what moves them. `rule` says when to
    change models and to what; None: the product's own."""

    def __init__(self, policy: EnginePolicy, rule: PlacementRule | None = None) -> None:
        super().__init__(policy, rule)
        self.preloads = self._new_preloads()
        self.wishes = self._new_wishes()
        self._timer_set_ns: int | None = None
        self.reloads = 0
        self._told_drained, self._drain_timer = False, 0
        self._handlers = self._table()

    def _new_preloads(self) -> Preloads:
        """It hears of what comes, of loads and of what leaves."""
        preloads = Preloads(
            self.policy.preload,
            self.backends,
            self.backlog,
            self.records,
            self._switching,
            self.estimates,
            self.timers,
            lambda: self.level,
            lambda: self.draining,
            self._emit,
        )
        self._arrivals.on_let_in = preloads.asked
        self._attempts.on_found = preloads.started
        self.residencies.on_loaded = preloads.loaded
        self.residencies.on_left = preloads.left
        self._switching.losses = preloads.loss
        return preloads

    def _new_wishes(self) -> Wishes:
        meant = Meant(self.backends)
        loads = WishedLoads(
            self.backends,
            meant,
            self.backlog.lines,
            self._switching,
            self._offers,
            self.estimates,
            self.timers,
            self._emit,
        )
        unloads = WishedUnloads(
            self.backends,
            meant,
            self._switching,
            self.timers,
            self.residencies.keep_away,
            self._emit,
            self._note,
        )
        return Wishes(loads, unloads, self._emit)

    def _table(self) -> dict[type[Stimulus], Callable[[Any, int], None]]:
        operations = self._operations
        return {
            Arrived: self._arrivals.arrive,
            CancelAsked: lambda asked, now_ns: self.ledger.cancel(asked.key, asked.cause, now_ns),
            FirstToken: self._attempts.first_token,
            Quiet: self._quiet,
            AttemptEnded: self._attempts.ended,
            BackendSeen: self._backend_seen,
            ModelsListed: self._models_listed,
            ResidentsSeen: self._residents_seen,
            LoadEnded: self._load_ended,
            UnloadEnded: self._unload_ended,
            RestartEnded: self._healer.servers.restart_ended,
            OwnedBefore: self._ownership.owned_before,
            BackendDrainAsked: self._membership.drain,
            DrainAsked: self._drain_asked,
            BoostAsked: operations.boost,
            BlockAsked: operations.block,
            PauseAsked: operations.pause,
            ResumeAsked: operations.resume,
            PolicyChanged: self._policy_changed,
            **self.degradation.handlers(),
            GpusSensed: self._gpus_sensed,
            WallClockSet: self.preloads.clock_set,
            PreloadLearned: self.preloads.restore,
            LoadAsked: self.wishes.load_asked,
            UnloadAsked: self.wishes.unload_asked,
            WishWithdrawn: self.wishes.withdrawn,
            TimerFired: self._timer_fired,
        }

    def handle(self, stimulus: Stimulus, now_ns: int) -> list[Effect]:
        """One turn. Effects are to be performed in their order. InvariantBroken is our bug."""
        self._effects = []
        self._handlers[type(stimulus)](stimulus, now_ns)
        if type(stimulus) is FirstToken:
            return self._effects  # nothing became free, nobody came: the most frequent turn
        self._membership.settle(now_ns)
        if type(stimulus) is Quiet and not self._effects:
            return self._effects  # told again and again of each stream that is silent
        self._flexible.settle(now_ns)
        if self.preemptions.freed:
            self.preemptions.hand_over(now_ns)
        self._dispatch(now_ns)
        self._healer.settle(now_ns)
        has_opened = self._switching.settle(now_ns)
        if len(self.wishes):
            has_opened |= self.wishes.settle(now_ns)
        if self._flexible.settle(now_ns) or has_opened:
            self._dispatch(now_ns)
        if self.ledger.preemptible and not self.draining:
            self.preemptions.settle(now_ns)
        if type(stimulus) in OWNS_OTHERS:
            self._ownership.look()
        self._announcer.plan(now_ns)
        if self.draining and not self._told_drained and not self.records and not self.attempts:
            self._told_drained = True
            self._emit(Drained())
        next_ns = self.timers.next_ns()
        if next_ns is not None and (self._timer_set_ns is None or next_ns < self._timer_set_ns):
            self._timer_set_ns = next_ns
            self._emit(SetTimer(next_ns))
        return self._effects

    # The slots

    def _dispatch(self, now_ns: int) -> None:
        """Gives every free slot to the request that is next for it, and every place in the queue
        that so becomes free to who stands in the waiting room."""
        backlog, backends, start = self.backlog, self.backends, self._attempts.start
        routing = self._routing
        while True:
            first = backlog.first
            for runner in self._startable(first):
                while (choice := next_dispatch(runner, backends, first, routing)) is not None:
                    record = backlog.record_of(choice.entry)
                    start(record, choice.backend, choice.residency, now_ns)
            if backlog.is_holding:
                self._use_idle_slots(now_ns)
            if not len(self.room) or not self._arrivals.fill(now_ns):
                return

    def _startable(self, lines: Mapping[LineKey, Line]) -> list[str]:
        """The runners of these lines that have a free slot somewhere, each once, in their order.
        There are few: of all that is waited for hardly anything is resident."""
        free = {
            each.runner
            for backend in self.backends.values()
            for each in backend.residents.values()
            if each.has_free_slot
        }
        return list(dict.fromkeys(key[0] for key in lines if key[0] in free)) if free else []

    def _use_idle_slots(self, now_ns: int) -> None:
        """What the level lets go after the others gets the slots that would idle, but none of a
        backend that is to make room for what goes first."""
        backlog, ready = self.backlog, self.backlog.ready
        idle = {
            name: backend
            for name, backend in self.backends.items()
            if not self._switching.is_wanted_first(backend, now_ns)
        }
        for runner in self._startable(ready):
            while choice := next_dispatch(runner, idle, ready, self._routing, is_for_all=True):
                record = backlog.record_of(choice.entry)
                self._attempts.start(record, choice.backend, choice.residency, now_ns)

    def _load_failed(
        self, backend: BackendState, model: str, ended: LoadEnded, until_ns: int, now_ns: int
    ) -> None:
        """Who waits does so for another backend, or for the next try, if it comes soon enough. What
        was to be answered by this model for the level's sake has another, or its own."""
        runner, error = ended.runner, ended.error
        self._healer.load_failed(backend, model, ended, until_ns, now_ns)
        next_ns = self.residencies.next_try_ns(runner, now_ns)
        if error is None or next_ns == now_ns:
            return
        self._reassignment.look_at_all(now_ns)
        for record in self.backlog.waiting(lambda line: line[0] == runner):
            if next_ns is None or self._phases.waits_until_ns(record) <= next_ns:
                self.ledger.conclude(record, Trigger.FAIL, error, now_ns)

    def _attempt_ended(
        self, attempt: Attempt, ended: AttemptEnded, error: BrokerError | None, now_ns: int
    ) -> None:
        """A call is over, whatever becomes of its request."""
        if error is None and attempt.record.spec.session_id:
            self.sessions.served(attempt.record.spec, now_ns - attempt.started_ns)
        has_read = error is None or attempt.first_token_ns > 0
        if attempt.record.new_from_bytes >= 0 and has_read:
            self._resizing.was_read(attempt.record)
        self.breakers.ended(attempt, error, now_ns)
        self._healer.attempt_ended(attempt, ended, now_ns)
        if isinstance(error, ModelUnknown):
            self._model_missing(attempt, now_ns)

    def _model_missing(self, attempt: Attempt, now_ns: int) -> None:
        """A backend has not what it listed: nobody asks it for that before it lists it again."""
        backend = self.backends[attempt.backend]
        if attempt.model in backend.models:  # else another call has found that out
            left = tuple(each for key, each in backend.models.items() if key != attempt.model)
            self._models_listed(ModelsListed(backend.name, left), now_ns)
            self._emit(ListAgain(backend.name))

    def _quiet(self, quiet: Quiet, now_ns: int) -> None:
        self._healer.quiet(quiet, now_ns)
        self._attempts.quiet(quiet, now_ns)  # given up already where it is frozen

    def _choices_changed(self, now_ns: int) -> None:
        """A model that may answer for another is there or may be loaded, or is so no longer."""
        self._reassignment.look_at_all(now_ns)

    # Backends

    def _backend_seen(self, seen: BackendSeen, now_ns: int) -> None:
        if seen.backend not in self.backends:
            return  # it was taken out of the configuration while it was asked
        backend = self.backends[seen.backend]
        was_up, was_mute, is_back = backend.up, backend.is_mute, seen.up and backend.is_missing
        self.residencies.backend_seen(seen, now_ns)
        self._healer.servers.seen(seen, now_ns, is_back=is_back)
        self.breakers.tidy(backend, now_ns)
        # It may be another process. A call that was refused proves no absence, nor does silence.
        if is_back and not was_mute:
            self.breakers.reset_all(backend, "the backend was away and answers again", now_ns)
            backend.forgive_loads()
        if seen.up is not was_up:  # it may have the model that the level, or its end, calls for
            self._reassignment.look_at_all(now_ns)

    def _load_ended(self, ended: LoadEnded, now_ns: int) -> None:
        self.residencies.load_ended(ended, now_ns)
        self._healer.load_ended(ended, now_ns)
        self.wishes.load_ended(ended)

    def _unload_ended(self, ended: UnloadEnded, now_ns: int) -> None:
        self.residencies.unload_ended(ended, now_ns)
        self._healer.unload_ended(ended, now_ns)
        self.wishes.unload_ended(ended, now_ns)
        self.preloads.made_room(now_ns)

    def _residents_seen(self, seen: ResidentsSeen, now_ns: int) -> None:
        if seen.backend in self.backends:
            self.residencies.residents_seen(seen, now_ns)
            self._ownership.residents_seen(seen, now_ns)

    def _models_listed(self, listed: ModelsListed, now_ns: int) -> None:
        backend = self.backends.get(listed.backend)
        if backend is None or (backend.is_leaving and listed.models):
            return
        self.residencies.models_listed(listed, now_ns)
        known = {runner for each in self.backends.values() for runner in each.by_runner}
        self.estimates.keep(known)
        self._load_charges.keep(known)
        self._offers.models_changed()
        self.choosing.models_changed()
        self.breakers.tidy(backend, now_ns)
        self._healer.tidy(backend)
        if self._offers.has_small_only:  # another model than before may be small
            self.backlog.hold_anew(now_ns)
        self._reassignment.look_at_all(now_ns)
        self._flexible.models_changed()

    def _gpus_sensed(self, sensed: GpusSensed, now_ns: int) -> None:
        self._freed.sensed(sensed.reading, now_ns)
        self.degradation.gpus_sensed(sensed, now_ns)

    # Time, level and policy

    def _level_changed(self, now_ns: int) -> None:
        """What waits may run now that could not, or no longer may, or on another model."""
        level = self.degradation
        self._offers.set(level.policy, level.level, level.memory_level)
        if level.level is not Level.NORMAL:
            self.preloads.give_up()
        self.backlog.hold_anew(now_ns)
        self._reassignment.look_at_all(now_ns)

    def _timer_fired(self, fired: TimerFired, now_ns: int) -> None:
        self._timer_set_ns = None
        self.timers.fire(now_ns)

    def _policy_changed(self, changed: PolicyChanged, now_ns: int) -> None:
        """Everything that is decided from now on is decided by the new policy."""
        self.reloads += 1
        policy = self.policy = changed.policy
        self.backlog.configure(policy.queue)  # first: what follows may move what waits
        self._membership.configure(policy.backends)
        self.bulkheads.configure(policy.agents.bulkheads)
        self._quotas.configure(policy.agents, now_ns)
        for scope in self.agents.configure(policy.agents, now_ns):
            self._operations.forgotten(scope)
        self.ledger.limit(self.agents.compartment, now_ns)
        self._lateness.configure(policy.queue)
        self._arrivals.configure(policy.queue)
        self._attempts.policy = policy.queue
        self.retries.configure(policy.retry)
        self.preemptions.configure(policy.preemption)
        self._phases.configure(policy.time_outs)
        self.ledger.time_outs_changed(now_ns)
        self._announcer.interval_ns = policy.queue.announce_interval_ns
        self.residencies.policy = self._switching.policy = policy.placement
        self.breakers.configure(policy.breaker, now_ns)
        self._healer.configure(policy, now_ns)
        self.choosing.configure(policy.aliases)
        self.degradation.configure(policy.degradation, now_ns)
        self.preloads.configure(policy.preload, now_ns)
        self._level_changed(now_ns)
        self._members_changed(now_ns)

    def _members_changed(self, now_ns: int) -> None:
        """What waits may be served elsewhere now."""
        for runner, _ in self.lines:
            self._note(runner)
        self._reassignment.look_at_all(now_ns)

    def _backend_gone(self, backend: BackendState, now_ns: int) -> None:
        """Another one may have its name later: nothing of this one is kept."""
        self.residencies.forget(backend)
        self.breakers.forget(backend, now_ns)
        self._healer.forget(backend)

    def _drain_asked(self, asked: DrainAsked, now_ns: int) -> None:
        """The last word on how long it may take counts."""
        self._arrivals.draining = self._attempts.draining = True
        self.preloads.leave()
        self.wishes.close(now_ns)
        self.timers.cancel(self._drain_timer)
        self._drain_timer = self.timers.set(asked.until_ns, self._drain_over)

    def _drain_over(self, _: None, now_ns: int) -> None:
        for key in list(self.records):
            self.ledger.cancel(key, CancelCause.BROKER_STOPS, now_ns)
