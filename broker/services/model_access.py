"""Which agents may download, delete, load and unload models.

Operators' tools name no agent, and may; as long as callers are not identified, that holds for
whoever reaches the broker, as it does for the other levers of operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from broker.core.errors import AgentUnknown, ModelChangeDenied

TYPE_MARK: Final = "type:"


class ModelChange(Enum):
    """Values are the settings of [model_access]."""

    PULL = "pull"
    DELETE = "delete"
    LOAD = "load"
    UNLOAD = "unload"


class ModelAccess:
    """`allowed` has for each change globs of agent ids, and types of agents as "type:NAME";
    `type_of` says of which type an agent is."""

    def __init__(
        self, allowed: Mapping[ModelChange, tuple[str, ...]], type_of: Callable[[str], str]
    ) -> None:
        self._allowed = allowed
        self._type_of = type_of

    def configure(self, allowed: Mapping[ModelChange, tuple[str, ...]]) -> None:
        """From now on these."""
        self._allowed = allowed

    def check(self, change: ModelChange, agent_id: str) -> None:
        """ModelChangeDenied where this agent may not; "" is an operator's tool."""
        if not agent_id:
            return
        for each in self._allowed.get(change, ()):
            if each.startswith(TYPE_MARK):
                if self._is_of(agent_id, each.removeprefix(TYPE_MARK)):
                    return
            elif fnmatchcase(agent_id, each):
                return
        raise ModelChangeDenied(
            f"agent {agent_id!r} may not {change.value} models: model_access.{change.value} in the "
            f"broker's configuration does not name it"
        )

    def check_operator(self, what: str, agent_id: str) -> None:
        """ModelChangeDenied for every agent."""
        if agent_id:
            raise ModelChangeDenied(f"only operators may {what}; agent {agent_id!r} is none")

    def _is_of(self, agent_id: str, name: str) -> bool:
        try:
            return self._type_of(agent_id) == name
        except AgentUnknown:
            return False
