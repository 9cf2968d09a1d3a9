"""State machines are tables: `(state, trigger) -> state`, and one way to move.

Guards choose the trigger, the table chooses the state. A pair that is not listed is a bug.
Source: the shape is h11's (`_state.py`): the table is the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from broker.core.errors import InvariantBroken


class Symbol(Enum):
    """A state or a trigger. Hashed by identity: members are single, and Enum's own hash is a call
    into Python, paid twice per step."""

    __hash__ = object.__hash__


S = TypeVar("S", bound=Enum)
T = TypeVar("T", bound=Enum)


class InvalidTransition(InvariantBroken):
    """A trigger that its state does not know."""


class Machine(Generic[S, T]):
    """One table. Holds no state itself; whoever has the state asks for the next one."""

    __slots__ = ("name", "table")

    def __init__(self, name: str, table: Mapping[tuple[S, T], S]) -> None:
        self.name = name
        self.table = table

    def step(self, state: S, trigger: T) -> S:
        """The state after `trigger`. InvalidTransition (our bug) where the table has none."""
        after = self.table.get((state, trigger))
        if after is None:
            raise InvalidTransition(f"{self.name}: {state.name} does not know {trigger.name}")
        return after
