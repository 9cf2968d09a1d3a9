"""What operators said of agents, by the prose: who is paused, blocked, boosted, and of what type.

Every question is answered anew from the list of all that is in force; nothing is carried along.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from broker.core.agent_policy import BATCH, CRITICAL, AgentTypePolicy
from broker.core.policy import EnginePolicy
from broker.core.requests import Criticality
from broker.core.stimuli import (
    BlockAsked,
    BoostAsked,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
    Stimulus,
    TimerFired,
)

Change = BoostAsked | BlockAsked | PauseAsked
NOT_LIMITED: Final = ""  # the compartment of all that no bulkhead limited when it came


@dataclass(slots=True)
class OperatorBooks:
    """`policy` is the one in force."""

    policy: EnginePolicy
    changes: dict[tuple[Scope, type[Change]], Change]

    def __init__(self, policy: EnginePolicy) -> None:
        self.policy = policy
        self.changes = {}

    def hear(self, stimulus: Stimulus, now_ns: int) -> None:
        match stimulus:
            case BoostAsked() | BlockAsked() | PauseAsked():
                self.changes[stimulus.scope, type(stimulus)] = stimulus
            case ResumeAsked():
                for kind in (BoostAsked, BlockAsked, PauseAsked):
                    self.changes.pop((stimulus.scope, kind), None)
            case PolicyChanged():
                self.policy = stimulus.policy
                names = ("", *(each.name for each in self.policy.agents.types))
                self.changes = {
                    key: each for key, each in self.changes.items() if key[0].agent_type in names
                }
            case TimerFired():
                self.changes = {
                    key: each
                    for key, each in self.changes.items()
                    if each.until_ns is None or each.until_ns > now_ns
                }

    def type_of(self, agent: str) -> AgentTypePolicy:
        return next(
            each
            for each in self.policy.agents.types
            if any(fnmatchcase(agent, glob) for glob in each.match)
        )

    def means(self, scope: Scope, agent: str) -> bool:
        """Does a scope mean this agent?"""
        named = scope in (Scope(agent_id=agent), Scope(agent_type=self.type_of(agent).name))
        return named or scope == Scope()

    def _applying(self, agent: str) -> list[Change]:
        """From what is said of everybody to what is said of this one."""
        scopes = (Scope(), Scope(agent_type=self.type_of(agent).name), Scope(agent_id=agent))
        return [
            change for scope in scopes for (of, _), change in self.changes.items() if of == scope
        ]

    def is_paused(self, agent: str) -> bool:
        return any(isinstance(each, PauseAsked) for each in self._applying(agent))

    def is_blocked(self, agent: str) -> bool:
        return any(isinstance(each, BlockAsked) for each in self._applying(agent))

    def _boosts(self, agent: str) -> list[BoostAsked]:
        return [each for each in self._applying(agent) if isinstance(each, BoostAsked)]

    def is_boosted(self, agent: str) -> bool:
        return any(
            (each.weight_factor, each.rate_factor, each.priority_best) != (1.0, 1.0, 0)
            for each in self._boosts(agent)
        )

    def weight(self, agent: str) -> float:
        weight = self.type_of(agent).weight
        for each in self._boosts(agent):
            weight *= each.weight_factor
        return weight

    def rate_factor(self, agent: str) -> float:
        factor = 1.0
        for each in self._boosts(agent):
            factor *= each.rate_factor
        return factor

    def priority(self, agent: str, asked: int) -> int:
        """The one asked for, or the best that this agent may have."""
        best = self.type_of(agent).priority_best
        for each in self._boosts(agent):
            best = each.priority_best or best
        return max(asked, best)

    def compartment(self, agent: str, criticality: Criticality) -> str:
        """The bulkhead that a request of this agent runs in, if it is limited."""
        of = self.type_of(agent)
        name = of.compartment or of.name
        if criticality is Criticality.BATCH:
            name = BATCH
        elif criticality is Criticality.CRITICAL and of.may_be_critical:
            name = CRITICAL
        return name

    def limit(self, compartment: str) -> int | None:
        return self.policy.agents.bulkheads.get(compartment)
