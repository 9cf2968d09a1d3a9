"""The parts of the engine, made and joined once, at construction.

What a part tells the others of goes through the engine, which decides what is to be looked at then:
those are the abstract methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random

from _sched.queue import FairQueue
from broker.core.agents import Agents
from broker.core.announcements import Announcer
from broker.core.arrivals import Arrivals
from broker.core.attempts import Attempts
from broker.core.backlog import Backlog
from broker.core.breakers import Breakers
from broker.core.bulkheads import Bulkheads
from broker.core.calibration import Calibration
from broker.core.choosing import Choosing
from broker.core.degradation import Degradation
from broker.core.drains import Drains
from broker.core.effects import Effect
from broker.core.errors import BrokerError
from broker.core.estimates import Estimates
from broker.core.flexible import Flexible
from broker.core.freed_memory import FreedMemory
from broker.core.haste import Haste
from broker.core.healer import Healer, new_healer
from broker.core.lateness import Lateness
from broker.core.ledger import Ledger
from broker.core.level import Level
from broker.core.load_charges import LoadCharges
from broker.core.membership import Membership
from broker.core.offers import Offers
from broker.core.operations import Operations
from broker.core.ownership import Ownership
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.placement_rule import PlacementRule
from broker.core.policy import EnginePolicy
from broker.core.preemptions import Preemptions
from broker.core.prefixes import Prefixes
from broker.core.queueing import Line, LineKey
from broker.core.quota import Quotas
from broker.core.reassignment import Reassignment
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, RequestKey
from broker.core.residencies import Residencies
from broker.core.residency import Residency
from broker.core.resizing import Resizing
from broker.core.retries import Retries
from broker.core.routing import Routing
from broker.core.sessions import Sessions
from broker.core.stimuli import (
    AttemptEnded,
    LoadEnded,
    ModelsListed,
)
from broker.core.switching import Switching
from broker.core.tally import Tally
from broker.core.timers import Timers
from broker.core.wait_bound import WaitBounds
from broker.core.waiting_room import WaitingRoom
from broker.core.worth import Worth


class Assembly(ABC):
    """All parts by their names. They are read through `snapshot.py`, never written from outside."""

    def __init__(self, policy: EnginePolicy, rule: PlacementRule | None = None) -> None:
        self.policy = policy
        self.rule: PlacementRule = Worth() if rule is None else rule
        self.estimates = Estimates()
        self._load_charges = LoadCharges(self.estimates)
        self.waits = Calibration()
        self.tally = Tally()
        self.timers = Timers()
        self.bulkheads = Bulkheads(policy.agents.bulkheads)
        self.room = WaitingRoom(policy.queue.room_max)
        self._queue = FairQueue(
            policy.queue.handicap_ns_per_priority, grain=policy.queue.fairness_grain
        )
        self._quotas = quotas = Quotas(policy.agents)
        self.agents = Agents(policy.agents, self._queue, quotas, self.bulkheads)
        self.sessions = Sessions()
        self._changed: dict[str, None] = {}  # runners for which what waits may stand elsewhere
        self.backends = {each.name: BackendState(each) for each in policy.backends}
        self._prefixes = Prefixes(self.backends)
        self._offers = Offers(policy.degradation, self.backends, self.bulkheads)
        self.backlog = Backlog(
            policy.queue,
            self._queue,
            self.bulkheads,
            self._offers,
            self.tally,
            self.estimates,
            self._note,
        )
        self._effects: list[Effect] = []
        self._freed = self._new_freed_memory()
        self.residencies = self._new_residencies()
        self.breakers = self._new_breakers()
        self._switching = self._new_switching()
        self.degradation = self._new_degradation()
        self._phases = self._new_phases()
        self._lateness = Lateness(policy.queue, self.backends, self.estimates, self._offers)
        self.ledger = self._new_ledger()
        self.choosing = Choosing(policy.aliases, self.backends, self.backlog, self.estimates)
        self._reassignment = self._new_reassignment()
        self._flexible = Flexible(self.ledger, self.backlog, self._reassignment, self.backends)
        self._haste = Haste(self._lateness, self._reassignment, self.backlog, self.backends)
        self._announcer = self._new_announcer()
        self.retries = self._new_retries()
        self._attempts = self._new_attempts()
        self.preemptions = self._new_preemptions()
        self._healer = self._new_healer()
        self._arrivals = self._new_arrivals()
        self._membership = self._new_membership()
        self._ownership = Ownership(self.backends, self.residencies, self._emit)
        self._resizing = Resizing(self.backlog, self._prefixes, self.estimates)
        self._routing = Routing(self.backends, self._prefixes, self.backlog.record_of)
        self._operations = Operations(
            self.agents, self.backlog, self.ledger, self._announcer, self.timers, self._emit
        )

    def _new_reassignment(self) -> Reassignment:
        return Reassignment(
            self.ledger,
            self.backlog,
            self.backends,
            self.choosing,
            lambda record: self._flexible.chosen_anew(record),
        )

    def _new_freed_memory(self) -> FreedMemory:
        return FreedMemory(
            self.backends,
            self.timers,
            lambda: self.policy.placement.memory_wait_ns,
            self._emit,
            lambda *over: self.residencies.memory_over(*over),
        )

    def _new_residencies(self) -> Residencies:
        return Residencies(
            self.backends,
            self.policy.placement,
            self.backlog,
            self.timers,
            self.estimates,
            self._load_charges,
            self._freed,
            self._emit,
            self._note,
            self._load_failed,
            self._choices_changed,
        )

    def _new_breakers(self) -> Breakers:
        return Breakers(
            self.policy.breaker,
            self.backends,
            self.timers,
            self._emit,
            self._note,
            self._choices_changed,
        )

    def _new_degradation(self) -> Degradation:
        return Degradation(
            self.policy.degradation,
            self.backends,
            self.backlog,
            self.estimates,
            self.timers,
            self._emit,
            self._level_changed,
            queued_max=lambda: self.policy.queue.queued_max,
        )

    def _new_phases(self) -> Phases:
        return Phases(
            self.policy.time_outs,
            self.backends,
            self.timers,
            lambda *late: self.ledger.waited_long(*late),
            lambda *late: self._attempts.give_up(*late),
        )

    def _new_ledger(self) -> Ledger:
        return Ledger(
            self.backlog,
            self.room,
            self._quotas,
            self.tally,
            self.timers,
            self.backends,
            self._phases,
            self._lateness,
            self.waits,
            self._load_charges,
            lambda record, now_ns: self._haste.spare(record, now_ns),
            self._emit,
        )

    def _new_retries(self) -> Retries:
        return Retries(
            self.policy.retry,
            Random(self.policy.seed),
            self.ledger,
            self.backlog,
            self._reassignment,
            self._flexible,
            self._announcer,
            self._phases,
            self.backends,
            self.timers,
            self._emit,
        )

    def _new_attempts(self) -> Attempts:
        return Attempts(
            self.policy.queue,
            self.ledger,
            self.backlog,
            self.residencies,
            self.retries,
            self._phases,
            self.estimates,
            self.tally,
            self.timers,
            self._emit,
            self.breakers.started,
            self._attempt_ended,
            lambda *ended: self.preemptions.ended(*ended),
            lambda attempt: self.preemptions.freed.append(attempt),
        )

    def _new_preemptions(self) -> Preemptions:
        return Preemptions(
            self.policy.preemption,
            self.backends,
            self.backlog,
            self.ledger,
            self.estimates,
            self.tally,
            self.timers,
            lambda: self.residencies.policy.slot_grace_ns,
            self._attempts.set_aside,
            self._start_given,
        )

    def _start_given(
        self, record: Record, backend: BackendState, residency: Residency, now_ns: int
    ) -> None:
        """It gets a slot that was made free for it."""
        self._routing.was_given(record, backend, residency)
        self._attempts.start(record, backend, residency, now_ns)

    def _new_healer(self) -> Healer:
        return new_healer(
            self.policy,
            self.backends,
            self.ledger.attempts,
            self.backlog.ready,
            self.estimates,
            self.timers,
            self._attempts.give_up,
            self.breakers.reset,
            self._note,
            self._choices_changed,
            self._emit,
        )

    def _new_switching(self) -> Switching:
        return Switching(
            self.backends,
            self.policy.placement,
            self.rule,
            self.backlog,
            self.estimates,
            lambda record: self._phases.waits_until_ns(record),
            Drains(
                self.timers,
                lambda: self.policy.placement.drain_timeout_ns,
                self._emit,
                self._note,
            ),
            self._emit,
            self._note,
        )

    def _new_announcer(self) -> Announcer:
        return Announcer(
            self.policy.queue.announce_interval_ns,
            self.backlog,
            self.backends,
            self.estimates,
            self.waits,
            self.timers,
            self._emit,
            self._changed,
        )

    def _new_arrivals(self) -> Arrivals:
        return Arrivals(
            self.policy.queue,
            self.agents,
            self.sessions,
            self._prefixes,
            self._quotas,
            self.ledger,
            self.backlog,
            self.room,
            self._announcer,
            self.degradation,
            self._reassignment,
            self._flexible,
            self.estimates,
            WaitBounds(self.backends, self.backlog, self.estimates),
            self.tally,
            self.timers,
            self._phases,
            self._lateness,
            self.backends,
            self.choosing,
            self._emit,
        )

    def _new_membership(self) -> Membership:
        return Membership(
            self.backends,
            self.ledger.attempts,
            self.ledger.records,
            self._emit,
            lambda name, now_ns: self._models_listed(ModelsListed(name, ()), now_ns),
            self._backend_gone,
            self._members_changed,
        )

    @property
    def records(self) -> dict[RequestKey, Record]:
        return self.ledger.records

    @property
    def attempts(self) -> dict[AttemptId, Attempt]:
        return self.ledger.attempts

    @property
    def lines(self) -> dict[LineKey, Line]:
        return self.backlog.lines

    @property
    def level(self) -> Level:
        return self.degradation.level

    @property
    def draining(self) -> bool:
        return self._arrivals.draining

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _note(self, runner: str) -> None:
        self._changed[runner] = None

    # What parts tell of

    @abstractmethod
    def _level_changed(self, now_ns: int) -> None: ...

    @abstractmethod
    def _choices_changed(self, now_ns: int) -> None: ...

    @abstractmethod
    def _members_changed(self, now_ns: int) -> None: ...

    @abstractmethod
    def _backend_gone(self, backend: BackendState, now_ns: int) -> None: ...

    @abstractmethod
    def _models_listed(self, listed: ModelsListed, now_ns: int) -> None: ...

    @abstractmethod
    def _load_failed(
        self, backend: BackendState, model: str, ended: LoadEnded, until_ns: int, now_ns: int
    ) -> None: ...

    @abstractmethod
    def _attempt_ended(
        self, attempt: Attempt, ended: AttemptEnded, error: BrokerError | None, now_ns: int
    ) -> None: ...
