"""All tables, walked: what is listed is reachable, what is not listed is refused."""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Any

import pytest

from broker.core.level import Level
from broker.core.level_steps import LEVELS, MODES, LevelTrigger, Mode, ModeTrigger
from broker.core.lifecycle import LIFECYCLE, OUTCOME_OF, State, Trigger
from broker.core.residency import RESIDENCY, ResidencyState, ResidencyTrigger
from broker.core.state_machine import InvalidTransition, Machine

# Every table with its first state, its triggers and the states that nothing leaves.
TABLES = [
    pytest.param(LIFECYCLE, State.RECEIVED, Trigger, frozenset(OUTCOME_OF), id="lifecycle"),
    pytest.param(
        RESIDENCY, ResidencyState.ABSENT, ResidencyTrigger, frozenset[Enum](), id="residency"
    ),
    pytest.param(LEVELS, Level.NORMAL, LevelTrigger, frozenset[Enum](), id="level"),
    pytest.param(MODES, Mode.AUTOMATIC, ModeTrigger, frozenset[Enum](), id="mode"),
]
walked = pytest.mark.parametrize(("machine", "first", "triggers", "terminals"), TABLES)


@walked
def test_every_state_is_reachable(
    machine: Machine[Any, Any], first: Enum, triggers: type[Enum], terminals: frozenset[Enum]
) -> None:
    reached, edge = {first}, [first]
    while edge:
        state = edge.pop()
        for (before, _), after in machine.table.items():
            if before is state and after not in reached:
                reached.add(after)
                edge.append(after)
    assert reached == set(type(first))


@walked
def test_exactly_the_terminals_have_no_way_out(
    machine: Machine[Any, Any], first: Enum, triggers: type[Enum], terminals: frozenset[Enum]
) -> None:
    left = {before for before, _ in machine.table}
    assert set(type(first)) - left == terminals


@walked
def test_every_pair_is_a_step_or_an_invalid_transition(
    machine: Machine[Any, Any], first: Enum, triggers: type[Enum], terminals: frozenset[Enum]
) -> None:
    for state, trigger in product(type(first), triggers):
        if (state, trigger) in machine.table:
            assert machine.step(state, trigger) is machine.table[state, trigger]
        else:
            with pytest.raises(InvalidTransition, match=f"{state.name} .* {trigger.name}"):
                machine.step(state, trigger)


@walked
def test_every_trigger_is_used(
    machine: Machine[Any, Any], first: Enum, triggers: type[Enum], terminals: frozenset[Enum]
) -> None:
    assert {trigger for _, trigger in machine.table} == set(triggers)
