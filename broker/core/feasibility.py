"""Will an answer come in time? Judged only by what was measured, and only by what surely comes
before: the load of a model that is not there, and the agent's own earlier requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker.core.agents import Agent
from broker.core.backlog import Backlog
from broker.core.backpressure import Backpressure, retry_after_bounded
from broker.core.errors import DeadlineExpired, DeadlineInfeasible
from broker.core.estimates import Estimates
from broker.core.lateness import Lateness, Needs
from broker.core.phases import Phases
from broker.core.placement import BackendState
from broker.core.queueing import AgentOrder, LineKey
from broker.core.record import Passage
from broker.core.requests import RequestSpec


class Asker(NamedTuple):
    """Whose request it is, and what decides where it would stand."""

    agent: Agent
    priority: int
    compartment: int


class Outlook(NamedTuple):
    """What a request needs, and for how long those `ahead` of it occupy all slots."""

    needs: Needs
    line_ns: float
    ahead: int

    @property
    def wait_ns(self) -> float:
        return self.needs.load_ns + self.line_ns

    @property
    def answer_ns(self) -> float:
        return self.needs.answer_ns + self.line_ns

    @property
    def words(self) -> str:
        if not self.ahead:
            return self.needs.words
        text = self.needs._replace(run_ns=self.needs.run_ns + self.line_ns).words
        return f"{text} ({self.ahead} requests of this agent are before it)"


class Feasibility:
    """See the module. Changes nothing."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        backpressure: Backpressure,
        estimates: Estimates,
        phases: Phases,
        lateness: Lateness,
    ) -> None:
        self._backends = backends
        self._backlog = backlog
        self._backpressure = backpressure
        self._estimates = estimates
        self._phases = phases
        self._lateness = lateness

    def _outlook(
        self, spec: RequestSpec, asker: Asker, line: LineKey, now_ns: int
    ) -> Outlook | None:
        """None: too few samples to say anything."""
        runner = line[0]
        needs = self._lateness.needs(runner, spec, now_ns)
        if needs is None:
            return None
        ahead = 0
        policy = self._backpressure.policy
        # By deadline a later one may come first.
        if policy.agent_order is not AgentOrder.DEADLINE:
            ahead = self._backlog.ahead(line, asker.priority, asker.compartment, asker.agent)
        if ahead and policy.agent_order is AgentOrder.SIZE:
            size_ns = self._estimates.size_ns(runner, spec)
            credit_ns = policy.session_credit_ns if spec.session_id else 0
            stand_ns = now_ns + policy.stand_back_ns(size_ns, credit_ns)
            ahead = self._backlog.ahead(
                line, asker.priority, asker.compartment, asker.agent, stand_ns
            )
        if not ahead:
            return Outlook(needs, 0.0, 0)
        slots = sum(
            each.by_runner[runner].slots
            for each in self._backends.values()
            if runner in each.by_runner
        )
        line_ns = ahead * self._estimates.least_ns(runner) / max(1, slots)
        return Outlook(needs, line_ns, ahead)

    def why_late(
        self, spec: RequestSpec, asker: Asker, model: str, line: LineKey, now_ns: int
    ) -> str:
        """Why it surely comes too late by this model and line, in words; "" where it may be in
        time."""
        outlook = self._outlook(spec, asker, line, now_ns)
        if outlook is None:
            return ""
        margin = self._backpressure.policy.deadline_margin
        if outlook.answer_ns > (self._phases.due_ns(spec, model, now_ns) - now_ns) * margin:
            return f"by what was measured {model} answers after the deadline"
        limit_ns = self._phases.limits_of(spec, model).queue_ns
        if limit_ns is not None and outlook.wait_ns > limit_ns * margin:
            return f"by what was measured the line of {model} is longer than it may wait"
        return ""

    def check(
        self,
        spec: RequestSpec,
        asker: Asker,
        model: str,
        line: LineKey,
        passage: Passage,
        now_ns: int,
    ) -> None:
        """Refuses only what would be late even if all went `deadline_margin` times faster than
        measured. Where it would be late without those before it, too, that is final:
        DeadlineExpired; but not where its model may soon be there, as others want it too. What it
        judged by is noted in `passage`."""
        passage.samples = self._estimates.samples(line[0], spec.kind)
        passage.remaining_ns = remaining_ns = self._phases.due_ns(spec, model, now_ns) - now_ns
        outlook = self._outlook(spec, asker, line, now_ns)
        if outlook is None:
            return
        passage.wait_ns, passage.load_ns = outlook.answer_ns, outlook.needs.load_ns
        passage.lasting_ns = outlook.needs.lasting_ns
        margin = self._backpressure.policy.deadline_margin
        if outlook.answer_ns <= remaining_ns * margin:
            return
        words = f"{remaining_ns / 1e9:.1f} s are left, and by what was measured"
        needs, is_coming = outlook.needs, outlook.needs.is_loading or line in self._backlog.lines
        alone_ns = needs.run_ns if is_coming else needs.answer_ns
        if alone_ns > remaining_ns * margin:  # to come again later would help nobody
            raise DeadlineExpired(f"{words} {needs.words}")
        short_ns = outlook.answer_ns / margin - remaining_ns
        raise DeadlineInfeasible(
            f"{words} {outlook.words}", retry_after_ns=retry_after_bounded(short_ns)
        )
