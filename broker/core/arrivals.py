"""Newcomers: through the gates into the queue, or into the waiting room and from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.core.admission import Admission, GateName, Gates, Place
from broker.core.agents import Agents
from broker.core.announcements import Announcer
from broker.core.backlog import Backlog
from broker.core.backpressure import Backpressure
from broker.core.choosing import Choosing
from broker.core.degradation import Degradation
from broker.core.effects import Admit, Effect, Refuse, TakeOver, TellSlowDown
from broker.core.errors import BrokerError, Displaced, Draining, RequestIdInUse
from broker.core.estimates import Estimates
from broker.core.flexible import Flexible
from broker.core.journal import Refused
from broker.core.lateness import Lateness
from broker.core.ledger import Ledger
from broker.core.lifecycle import WAITS, Trigger
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.prefixes import Prefixes
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.quota import Quotas
from broker.core.reassignment import Reassignment
from broker.core.record import STARTS_ALL, Record
from broker.core.requests import Outcome, RequestSpec
from broker.core.sessions import Sessions
from broker.core.stimuli import Arrived
from broker.core.tally import Tally
from broker.core.timers import Timers
from broker.core.wait_bound import WaitBounds
from broker.core.waiting_room import WaitingRoom

DRAIN_RETRY_NS: Final = 5_000_000_000  # a service manager restarts a daemon within seconds


class Arrivals:
    """See the module. `draining` refuses everybody who comes from now on. `on_let_in` hears of all
    others."""

    def __init__(
        self,
        policy: QueuePolicy,
        agents: Agents,
        sessions: Sessions,
        prefixes: Prefixes,
        quotas: Quotas,
        ledger: Ledger,
        backlog: Backlog,
        room: WaitingRoom,
        announcer: Announcer,
        degradation: Degradation,
        reassignment: Reassignment,
        flexible: Flexible,
        estimates: Estimates,
        bounds: WaitBounds,
        tally: Tally,
        timers: Timers,
        phases: Phases,
        lateness: Lateness,
        backends: Mapping[str, BackendState],
        choosing: Choosing,
        emit: Callable[[Effect], None],
    ) -> None:
        self.draining = False
        self.on_let_in: Callable[[Record, int], None] = _nobody
        pressure = Backpressure(policy, backlog, room, tally, estimates)
        self._gates = Gates(
            backends,
            agents,
            quotas,
            degradation,
            backlog,
            pressure,
            estimates,
            tally,
            phases,
            lateness,
            flexible,
            choosing,
        )
        self._sessions = sessions
        self._prefixes = prefixes
        self._degradation = degradation
        self._reassignment = reassignment
        self._flexible = flexible
        self._backpressure = pressure
        self._ledger = ledger
        self._backlog = backlog
        self._room = room
        self._announcer = announcer
        self._estimates = estimates
        self._bounds = bounds
        self._tally = tally
        self._timers = timers
        self._emit = emit
        self._arrived = 0
        self._rank_from = self._rank_last = 0  # the ranks given since the order last changed

    def configure(self, policy: QueuePolicy) -> None:
        """Who comes from now on is judged by this. Where the order of an agent's requests is
        another one now, what comes stands behind all that came by the old one."""
        if policy.agent_order is not self._backpressure.policy.agent_order:
            self._rank_from = self._rank_last + 1
        self._backpressure.policy = policy
        self._room.configure(policy.room_max)

    def arrive(self, arrived: Arrived, now_ns: int) -> None:
        """A request comes: it is taken over, let in or refused."""
        spec = arrived.spec
        live = self._ledger.records.get(spec.key)
        if live is not None and live.spec.fingerprint == spec.fingerprint:
            self._take_over(live, spec, now_ns)
            return
        gates = self._gates
        gates.begin()
        try:
            if live is not None:
                raise RequestIdInUse(f"request_id {spec.key[1]!r} is in use with other content")
            if self.draining:
                gates.at(GateName.DRAINING)
                raise Draining("the broker is leaving", retry_after_ns=DRAIN_RETRY_NS)
            admission = gates.decide(spec, self._ledger.live, now_ns)
        except BrokerError as error:
            self._refuse(spec, error, now_ns)
            return
        self._let_in(admission, now_ns)

    def _refuse(self, spec: RequestSpec, error: BrokerError, now_ns: int) -> None:
        self._tally.end(spec.priority, Outcome.REFUSED, error.reason)
        if spec.key not in self._ledger.records:
            passage = self._gates.passage_refused()
            refused = Refused(spec=spec, passage=passage, problem=error.message, at_ns=now_ns)
            self._ledger.journal.refuse(spec.key, refused)
        self._emit(Refuse(error))

    def _take_over(self, record: Record, spec: RequestSpec, now_ns: int) -> None:
        """The same request came again: the newer call has its stream, and its deadline counts."""
        self._ledger.set_deadline(record, spec.deadline_ns, now_ns)
        self._rank_anew(record, spec, now_ns)
        self._emit(TakeOver(spec.key))
        if record.state in WAITS:
            self._announcer.tell_again(record, now_ns)

    def _rank_anew(self, record: Record, spec: RequestSpec, now_ns: int) -> None:
        """By deadline it stands where the new one puts it, as if it had come now. What came by an
        older order stays before all that came by this one."""
        is_by_deadline = self._backpressure.policy.agent_order is AgentOrder.DEADLINE
        if not is_by_deadline or record.rank < self._rank_from:
            return
        rank = self._rank(spec.deadline_ns, record.spec.soft_deadline_ns)
        if rank != record.rank:
            self._backlog.move(record, now_ns, rank=rank)

    def _let_in(self, admission: Admission, now_ns: int) -> None:
        spec = admission.spec
        self._arrived = max(self._arrived + 1, now_ns)
        known_bytes = self._prefixes.known_bytes(admission.line[0], spec) if spec.prefixes else 0
        record = Record(
            spec=spec,
            agent=admission.agent,
            priority=admission.priority,
            compartment=admission.compartment,
            model=admission.model,
            substituted_for=admission.substituted_for,
            is_for_level=admission.is_for_level,
            instead=admission.instead,
            is_in_haste=admission.is_in_haste,
            is_at_hand=admission.is_at_hand,
            line=admission.line,
            arrived_ns=now_ns,
            rank=self._rank(spec.deadline_ns, spec.soft_deadline_ns),
            passage=admission.passage,
            starts_before=self._ledger.attempts_made,
            service_ns=self._estimates.size_ns(admission.line[0], spec, known_bytes),
            known_bytes=known_bytes,
            sent=admission.sent,
            because=admission.because,
        )
        if self._backpressure.policy.agent_order is AgentOrder.SIZE:
            record.rank += self._backpressure.policy.stand_back_ns(record.service_ns)
            self._rank_last = max(self._rank_last, record.rank)
        self._estimates.offered.add(record.service_ns, now_ns)
        self._bounds.came(record.line[0], record.service_ns, now_ns)
        if spec.session_id:
            self._credit(record, now_ns)
        record.move(Trigger.ADMIT)
        self._ledger.open(record)
        self.on_let_in(record, now_ns)
        self._emit(Admit(spec.key))
        if admission.place is Place.NONE:
            self._ledger.answer(record, now_ns)
            return
        if admission.place is Place.ROOM:
            self._stand(record, now_ns)
            return
        if admission.victim is not None:
            self._displace(admission.victim, record, now_ns)
        self._enter(record, now_ns)

    def _credit(self, record: Record, now_ns: int) -> None:
        """What its session has come to makes it count as older: among other agents' requests, and
        where these are not by deadline among its agent's own, but not among its session's."""
        policy = self._backpressure.policy
        session = self._sessions.called(record.spec, now_ns)
        record.credit_ns = session.credit_ns(policy.session_credit_ns)
        if record.credit_ns and policy.agent_order is not AgentOrder.DEADLINE:
            rank = max(record.rank - record.credit_ns, session.last_rank + 1, self._rank_from)
            record.rank = min(record.rank, rank)  # a long call before it makes it no younger
        session.last_rank = record.rank

    def _rank(self, deadline_ns: int, soft_deadline_ns: int) -> int:
        """Its place among the requests of its agent. By deadline, the soft one counts where there
        is one."""
        due_ns = min(deadline_ns, soft_deadline_ns) if soft_deadline_ns else deadline_ns
        is_by_deadline = self._backpressure.policy.agent_order is AgentOrder.DEADLINE
        rank = self._rank_from + (due_ns if is_by_deadline else self._arrived)
        self._rank_last = max(self._rank_last, rank)
        return rank

    def _enter(self, record: Record, now_ns: int) -> None:
        if record.spec.prefer_loaded:
            self._flexible.place(record, now_ns)
        record.move(Trigger.ENQUEUE)
        self._backlog.enter(record, now_ns)
        self._announcer.tell_first(record, now_ns)
        record.bound = self._bounds.state(record, now_ns)
        slow_down_ns = self._backpressure.slow_down_ns(record)
        if slow_down_ns is not None:
            self._tally.slow_downs += 1
            self._emit(TellSlowDown(record.spec.key, slow_down_ns))

    def _displace(self, victim: Record, by: Record, now_ns: int) -> None:
        backlog, offers = self._backlog.of_agent(victim.agent), self._backlog.offers
        if offers.bars(victim.line[0], victim.priority, victim.compartment):
            error = Displaced(
                f"the queue is full, and at level {offers.level.word} this does not run while "
                "memory is short: it gave its place to a request that may",
                retry_after_ns=self._degradation.retry_after_ns(now_ns),
            )
        else:
            error = Displaced(
                f"the queue is full and {backlog} requests of this agent wait: the last gave its "
                f"place to the request of an agent of which {self._backlog.of_agent(by.agent)} "
                "wait",
                retry_after_ns=self._backpressure.retry_after_ns(backlog),
            )
        self._ledger.end(victim, Trigger.DISPLACE, error, now_ns)

    # The waiting room

    def _stand(self, record: Record, now_ns: int) -> None:
        at_ns = now_ns + self._backpressure.policy.room_wait_ns
        record.room_timer = self._timers.set(at_ns, self._time_is_up, record)
        record.starts_in_room = STARTS_ALL
        self._room.enter(record)
        self._announcer.tell_standing(record, len(self._room), now_ns)

    def _time_is_up(self, record: Record, now_ns: int) -> None:
        error = self._backpressure.full(record.spec.size_bytes)
        self._ledger.end(record, Trigger.REFUSE, error, now_ns)

    def fill(self, now_ns: int) -> bool:
        """Lets those who stand into the queue, as far as there are places. Did anybody enter?"""
        has_entered = False
        has_place = self._backpressure.has_place
        while has_place(0) and (record := self._room.first(has_place)) is not None:
            try:  # its model may have gone, or changed, meanwhile
                self._reassignment.enter(record, now_ns)
            except BrokerError as error:
                self._ledger.end(record, Trigger.FAIL, error, now_ns)
                continue
            self._ledger.leave_room(record)
            record.starts_in_room = self._ledger.attempts_made
            self._enter(record, now_ns)
            has_entered = True
        return has_entered


def _nobody(record: Record, now_ns: int) -> None:
    """Hears of nothing."""
