"""Nobody who is patient waits for longer than it was told when it came: the bound on waiting.

docs/scheduling.md says what is promised, under which assumptions, and why. Worlds are drawn in
which these hold, with any load up to 0.9; and so that this is not true for nothing, the same judge
is shown rules that starve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from broker.core.demands import Demand, View
from broker.core.placement_rule import PlacementRule
from broker.core.residency import Residency
from broker.core.worth import Worth
from broker.sim.workload import Task
from tests.property.patient_worlds import (
    DAY_NS,
    RHO_MAX,
    SECOND_NS,
    Machine,
    draw_machine,
    draw_tasks,
    play,
)

REQUESTS = 250
SEEDS = range(24)
STATED_MIN = REQUESTS // 3  # of each world: else too little was measured to say anything


@pytest.mark.parametrize("seed", SEEDS)
def test_every_request_starts_within_the_bound_that_was_stated_when_it_came(seed: int) -> None:
    chance = Random(seed)
    machine = draw_machine(chance)
    tasks = draw_tasks(chance, machine, REQUESTS, chance.uniform(0.3, RHO_MAX))
    waits = play(machine, tasks, tasks[-1].at_ns + 36_000 * SECOND_NS)
    assert len(waits) == REQUESTS
    assert sum(each.bound_ns is not None for each in waits) >= STATED_MIN
    assert [each for each in waits if not each.is_kept] == []


# What must not be true for nothing: rules that starve, and the same judge.


class Stubborn(Worth):
    """From some moment on nothing leaves any more."""

    def __init__(self, from_ns: int) -> None:
        super().__init__()
        self._from_ns = from_ns

    def leaving(
        self, view: View, target: Demand, candidates: Sequence[Residency]
    ) -> list[Residency]:
        if view.now_ns >= self._from_ns:
            return []
        return super().leaving(view, target, candidates)


class Impatient(Worth):
    """The product's rule, but nobody is ever overdue: what is worth most goes first, always."""

    def patience_ns(self, view: View) -> int:
        return DAY_NS


PAIR = Machine(servers=1, resident=1, slots=2, loads_s=(5.0, 5.0), weights=(1, 1))
BUSY = replace(PAIR, slots=4)


def test_a_rule_under_which_a_model_never_comes_back_is_found_out() -> None:
    chance = Random(1)
    tasks = draw_tasks(chance, PAIR, 2 * REQUESTS, 0.6)
    from_ns = tasks[REQUESTS].at_ns
    waits = play(PAIR, tasks, from_ns + 7_200 * SECOND_NS, Stubborn(from_ns))
    broken = [each for each in waits if not each.is_kept]
    assert len({each.task.model for each in broken}) == 1
    assert len(broken) > REQUESTS // 4


def popular_and_rare() -> list[Task]:
    """A model that is asked for just so often that no queue forms and its slots always work, and
    another that is asked for twice: before all others, so that its load is known, and later."""
    popular, rare = BUSY.names
    often = [
        Task(
            at_ns=60 * SECOND_NS + number * 25 * SECOND_NS // 4,
            agent_id=f"agent-{number % 12}",
            request_id=str(number),
            model=popular,
            priority=5,
            prompt_tokens=2_000,
            output_tokens=950,  # 20 s with the prompt
            output_tokens_max=1_000,
            patience_ns=DAY_NS,
        )
        for number in range(640)
    ]
    twice = [
        replace(often[0], at_ns=at_ns, request_id=f"rare-{at_ns}", model=rare)
        for at_ns in (SECOND_NS, 1_000 * SECOND_NS)
    ]
    return sorted((*often, *twice), key=lambda each: each.at_ns)


@pytest.mark.parametrize(("rule", "is_kept"), [(None, True), (Impatient(), False)])
def test_without_patience_what_few_ask_for_starves(
    rule: PlacementRule | None, is_kept: bool
) -> None:
    waits = play(BUSY, popular_and_rare(), 4_000 * SECOND_NS, rule)
    late = [each for each in waits if each.task.model == BUSY.names[1]][-1]
    assert late.bound_ns is not None
    assert late.is_kept is is_kept
