"""Who asks: maps agent ids to types. Types bear rates, weights and ceilings later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from broker.core.errors import AgentUnknown, FieldProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentType:
    """A kind of agent and the ids that belong to it, as globs."""

    name: str
    match: tuple[str, ...]


class AgentTypes:
    """The first type with a glob that fits. Answers are kept, as ids come again and again; the
    memory is bounded by forgetting all when it is full."""

    REMEMBERED_MAX = 10_000

    def __init__(self, types: Sequence[AgentType], default_type: str | None) -> None:
        self._types = tuple(types)
        self._default = default_type
        self._remembered: dict[str, str] = {}

    def type_of(self, agent_id: str) -> str:
        """The name of its type. AgentUnknown where none fits and there is no default."""
        known = self._remembered.get(agent_id)
        if known is not None:
            return known
        for each in self._types:
            if any(fnmatchcase(agent_id, glob) for glob in each.match):
                return self._remember(agent_id, each.name)
        if self._default is None:
            globs = ", ".join(glob for each in self._types for glob in each.match)
            problem = f"{agent_id!r} is of no configured type (known: {globs or 'none'})"
            raise AgentUnknown((FieldProblem(field="agent_id", problem=problem),))
        return self._remember(agent_id, self._default)

    def _remember(self, agent_id: str, name: str) -> str:
        if len(self._remembered) >= self.REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[agent_id] = name
        return name
