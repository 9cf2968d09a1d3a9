"""The way in: may this request enter, and as what? One gate after the other, each with its reason.

Order (DESIGN.md): identity and signature, replay window, validation, idempotency, request bucket,
cache, single flight, degradation gate, token bucket, backpressure, feasibility. Built so far:
identity as far as the configuration knows it, validation against the catalogue, idempotency (in
`arrivals.py`), both buckets, the level, backpressure and feasibility; the others take their place
between these, in that order. What a later gate refuses gets back what it paid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Final, NamedTuple

from broker.core.agents import Agent, Agents
from broker.core.backlog import Backlog
from broker.core.backpressure import Backpressure
from broker.core.choosing import Choosing
from broker.core.degradation import Degradation
from broker.core.errors import AgentBlocked, BrokerError, DeadlineExpired
from broker.core.estimates import Estimates
from broker.core.failover import Ways, check_own, fallback_keys, find_target
from broker.core.feasibility import Asker, Feasibility
from broker.core.flexible import Flexible
from broker.core.lateness import Lateness
from broker.core.model_name import comparison_key
from broker.core.offers import is_held as mask_holds
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.queueing import LineKey, QueuePolicy
from broker.core.quota import Quotas
from broker.core.record import Passage, Record
from broker.core.requests import RequestSpec
from broker.core.stimuli import ModelSpec
from broker.core.tally import Tally


class GateName:
    """The names of the gates, in their order."""

    IDEMPOTENCY: Final = "idempotency"
    DRAINING: Final = "draining"
    IDENTITY: Final = "identity"
    VALIDATION: Final = "validation"
    REQUEST_BUCKET: Final = "request bucket"
    LEVEL: Final = "level"
    TOKEN_BUCKET: Final = "token bucket"
    BACKPRESSURE: Final = "backpressure"
    FEASIBILITY: Final = "feasibility"


class Place(Enum):
    """Where a request that may enter goes."""

    QUEUE = "queue"
    DISPLACE = "displace"  # into the queue, at another's cost
    ROOM = "room"
    NONE = "none"  # it is answered at once


class Target(NamedTuple):
    """The model that is to answer, and the line to wait in for it."""

    model: str  # comparison key
    substituted_for: str
    is_for_level: bool  # another model, because only small ones run
    line: LineKey
    instead: str = ""  # why another one, where it is not for the level
    is_in_haste: bool = False  # because the line of its own would take too long
    is_at_hand: bool = False  # because it is loaded, and its own is not


class Admission(NamedTuple):
    """What the gates decided: the model that will answer, the line to wait in, and where."""

    agent: Agent
    priority: int
    compartment: int
    model: str  # comparison key
    substituted_for: str
    is_for_level: bool  # another model, because only small ones run
    line: LineKey
    instead: str  # why another one, in words
    is_in_haste: bool
    is_at_hand: bool
    place: Place
    victim: Record | None
    passage: Passage
    spec: RequestSpec  # with the model that was chosen, where it named none
    sent: RequestSpec | None  # as it came, where that names none
    because: str  # why this model was chosen then


class Gates:
    """Takes requests through the gates. `passage` says how far the last one came."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        agents: Agents,
        quotas: Quotas,
        degradation: Degradation,
        backlog: Backlog,
        backpressure: Backpressure,
        estimates: Estimates,
        tally: Tally,
        phases: Phases,
        lateness: Lateness,
        flexible: Flexible,
        choosing: Choosing,
    ) -> None:
        self._flexible = flexible
        self._choosing = choosing
        self._backends = backends
        self._agents = agents
        self._quotas = quotas
        self._degradation = degradation
        self._offers = backlog.offers
        self._backlog = backlog
        self._backpressure = backpressure
        self._estimates = estimates
        self._tally = tally
        self._feasibility = Feasibility(
            backends, backlog, backpressure, estimates, phases, lateness
        )
        self._gate = ""
        self._passage = Passage()

    @property
    def _policy(self) -> QueuePolicy:
        return self._backpressure.policy

    def at(self, gate: str) -> None:
        """The request is at this gate now."""
        self._gate = gate

    def begin(self) -> None:
        """A request comes."""
        self._gate, self._passage = GateName.IDENTITY, Passage()

    def passage_refused(self) -> Passage:
        """How far the last request came, and what stopped it."""
        self._passage.stopped_at = self._gate
        return self._passage

    def decide(self, spec: RequestSpec, live: int, now_ns: int) -> Admission:
        """Takes a request through the gates; `live` requests are under way. Raises the BrokerError
        of the first that says no: then nothing is paid."""
        agent = self._agents.meet(spec.key[0], now_ns)
        if agent.is_blocked:
            raise AgentBlocked(f"an operator blocked {agent.blocked_whom}")
        self._gate = GateName.VALIDATION
        if spec.deadline_ns <= now_ns:
            raise DeadlineExpired("the deadline had passed when the request arrived")
        sent, because = None, ""
        if self._choosing.concerns(spec):
            sent = spec
            spec, because, _ = self._choosing.choose(spec, now_ns)
        named = spec
        target = self._find_target(spec, now_ns)
        self._gate = GateName.REQUEST_BUCKET
        try:
            self._quotas.take_request(agent.purse, agent.type.name, now_ns)
        finally:
            self._passage.requests_left = self._quotas.requests_left(agent.purse, now_ns)
        priority = max(spec.priority, agent.priority_best)
        compartment = self._agents.compartment(agent, spec.criticality)
        place, victim = Place.NONE, None
        try:
            if self._offers.level:
                target = self._offer(spec, priority, compartment, target, now_ns)
                spec = self._as_cut(spec)
            if not self._offers.has_small_only:  # then the level has chosen
                target = self._in_time(spec, agent, priority, compartment, target, now_ns)
            if not self._passage.is_answered:
                self._reserve_tokens(spec, agent, target.line, now_ns)
                is_barred = self._offers.bars(target.line[0], priority, compartment)
                place, victim = self._find_place(spec, agent, priority, live, is_barred=is_barred)
                self._gate = GateName.FEASIBILITY
                asker = Asker(agent, priority, compartment)
                model, line = target.model, target.line
                self._feasibility.check(spec, asker, model, line, self._passage, now_ns)
        except BrokerError:
            reserved = self._passage.tokens_reserved
            self._quotas.give_back(agent.purse, agent.type.name, reserved, now_ns)
            raise
        if sent is not None:  # its caller named no model that another could answer for
            target = target._replace(substituted_for="")
        return Admission(
            agent,
            priority,
            compartment,
            *target,
            place,
            victim,
            self._passage,
            named,
            sent,
            because,
        )

    def _find_target(self, spec: RequestSpec, now_ns: int) -> Target:
        """The model that was asked for, or its fallback, and its line."""
        own, offers = check_own(spec, self._backends), self._offers
        # From level 2 on another one may answer; what does is looked at there.
        if own and offers.has_small_only and not offers.is_small_runner(own[0].runner):
            return Target(comparison_key(spec.model), "", False, own[1])
        at_hand = self._flexible.find(spec, self._flexible.accepted(spec))
        if at_hand is not None:
            substituted_for = spec.model if at_hand.instead else ""
            model, line, instead = at_hand.model, at_hand.line, at_hand.instead
            is_at_hand = at_hand.is_at_hand
            return Target(model, substituted_for, False, line, instead, is_at_hand=is_at_hand)
        found = find_target(spec, self._ways(now_ns))
        substituted_for = spec.model if found.instead else ""
        return Target(found.key, substituted_for, False, found.line, found.instead)

    def _ways(self, now_ns: int) -> Ways:
        return Ways(self._backends, self._backlog.ready, self._suits, now_ns)

    def _suits(self, model: ModelSpec) -> bool:
        """May it stand in for another, as far as the level goes?"""
        return not self._offers.has_small_only or self._offers.is_small(model)

    # The level

    def _offer(
        self, spec: RequestSpec, priority: int, compartment: int, target: Target, now_ns: int
    ) -> Target:
        """The model that answers at this level. What the level would hold back or refuse gets the
        operator's default answer, where its caller allows it: `passage` says so."""
        self._gate = GateName.LEVEL
        offers, passage = self._offers, self._passage
        passage.offer = f"the level is {offers.level.word}"
        is_held = offers.held and mask_holds(offers.held, priority, compartment)
        if is_held and offers.allows_answer(spec):
            self._answer()
            return target
        retry_after_ns = self._degradation.retry_after_ns(now_ns)
        offers.check_critical(spec, priority, retry_after_ns)
        if not offers.has_small_only or offers.is_small_runner(target.line[0]):
            return target
        small = offers.small_model(spec, now_ns)
        if small is not None:
            passage.offer += f"; {small.key} answers instead of {spec.model}"
            return Target(small.key, spec.model, True, small.line)
        if offers.allows_answer(spec):
            self._answer()
            return target
        raise offers.no_small_model(spec, target.model, retry_after_ns)

    def _answer(self) -> None:
        self._passage.offer += "; the operator's default answer was given"
        self._passage.is_answered = True

    def _as_cut(self, spec: RequestSpec) -> RequestSpec:
        """The request as the level lets it run: what it reserves and how long it takes follow."""
        most = self._offers.output_tokens_max(spec)
        return spec if most is None else replace(spec, output_tokens_max=most)

    def _reserve_tokens(self, spec: RequestSpec, agent: Agent, line: LineKey, now_ns: int) -> None:
        if not self._quotas.counts_tokens(agent.purse, agent.type.name):
            return
        self._gate = GateName.TOKEN_BUCKET
        tokens = self._estimates.tokens(line[0], spec)
        try:
            self._quotas.reserve(agent.purse, agent.type.name, tokens, now_ns)
            self._passage.tokens_reserved = tokens
        finally:
            self._passage.tokens_left = self._quotas.tokens_left(agent.purse, now_ns)

    def _find_place(
        self, spec: RequestSpec, agent: Agent, priority: int, live: int, *, is_barred: bool
    ) -> tuple[Place, Record | None]:
        self._gate = GateName.BACKPRESSURE
        pressure, passage = self._backpressure, self._passage
        passage.queued, passage.queued_max = self._tally.queued, self._policy.queued_max
        passage.agent_queued = self._backlog.of_agent(agent)
        passage.queued_bytes = self._backlog.size_bytes
        pressure.check(agent, spec.size_bytes, live)
        if pressure.has_place(spec.size_bytes):
            return Place.QUEUE, None
        victim = pressure.victim(spec, agent, priority, is_barred=is_barred)
        if victim is not None:
            passage.displaced = victim.spec.key
            return Place.DISPLACE, victim
        if not pressure.may_stand(agent, priority):
            raise pressure.full(spec.size_bytes)
        passage.was_in_room = True
        return Place.ROOM, None

    # The time that is left

    def _in_time(
        self,
        spec: RequestSpec,
        agent: Agent,
        priority: int,
        compartment: int,
        target: Target,
        now_ns: int,
    ) -> Target:
        """The first of the caller's fallbacks by which there is an answer in time, where by the
        line that it would wait in there surely is none."""
        if not fallback_keys(spec):
            return target
        feasibility, asker = self._feasibility, Asker(agent, priority, compartment)
        late = feasibility.why_late(spec, asker, target.model, target.line, now_ns)
        if not late:
            return target
        for found in self._ways(now_ns).fallbacks(spec):
            if not feasibility.why_late(spec, asker, found.key, found.line, now_ns):
                instead = target.instead or late
                return Target(found.key, spec.model, False, found.line, instead, True)
        return target
