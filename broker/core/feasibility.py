"""Will an answer come in time? Judged only by what was measured, and only by what surely comes
before: the agent's own earlier requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker.core.agents import Agent
from broker.core.backlog import Backlog
from broker.core.backpressure import Backpressure, retry_after_bounded
from broker.core.errors import DeadlineExpired, DeadlineInfeasible
from broker.core.estimates import Estimates
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
    """How long a request waits at least, and then runs; `ahead` are those before it."""

    wait_ns: float
    run_ns: float
    ahead: int

    @property
    def answer_ns(self) -> float:
        return self.wait_ns + self.run_ns


class Feasibility:
    """See the module. Changes nothing."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        backpressure: Backpressure,
        estimates: Estimates,
        phases: Phases,
    ) -> None:
        self._backends = backends
        self._backlog = backlog
        self._backpressure = backpressure
        self._estimates = estimates
        self._phases = phases

    def _outlook(self, spec: RequestSpec, asker: Asker, line: LineKey) -> Outlook | None:
        """None: too few samples to say anything."""
        runner, estimates = line[0], self._estimates
        run_ns = estimates.expected_ns(runner, spec)
        if run_ns is None:
            return None
        ahead = 0
        # By deadline a later one may come first.
        if self._backpressure.policy.agent_order is AgentOrder.ARRIVAL:
            ahead = self._backlog.ahead(line, asker.priority, asker.compartment, asker.agent)
        if not ahead:
            return Outlook(0.0, run_ns, 0)
        slots = sum(
            each.by_runner[runner].slots
            for each in self._backends.values()
            if runner in each.by_runner
        )
        return Outlook(ahead * estimates.least_ns(runner) / max(1, slots), run_ns, ahead)

    def why_late(
        self, spec: RequestSpec, asker: Asker, model: str, line: LineKey, now_ns: int
    ) -> str:
        """Why it surely comes too late by this model and line, in words; "" where it may be in
        time."""
        outlook = self._outlook(spec, asker, line)
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
        DeadlineExpired. What it judged by is noted in `passage`."""
        passage.samples = self._estimates.samples(line[0], spec.kind)
        passage.remaining_ns = remaining_ns = self._phases.due_ns(spec, model, now_ns) - now_ns
        outlook = self._outlook(spec, asker, line)
        if outlook is None:
            return
        passage.wait_ns = outlook.answer_ns
        margin = self._backpressure.policy.deadline_margin
        if outlook.answer_ns <= remaining_ns * margin:
            return
        left = f"{remaining_ns / 1e9:.1f} s are left, and by what was measured an answer takes"
        if outlook.run_ns > remaining_ns * margin:  # to come again later would help nobody
            raise DeadlineExpired(f"{left} {outlook.run_ns / 1e9:.1f} s")
        short_ns = outlook.answer_ns / margin - remaining_ns
        raise DeadlineInfeasible(
            f"{left} {outlook.answer_ns / 1e9:.1f} s ({outlook.ahead} requests of this agent are "
            "before it)",
            retry_after_ns=retry_after_bounded(short_ns),
        )
