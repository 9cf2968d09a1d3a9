"""Drawn worlds in which half of the agents take whatever model is loaded: who answers whom.

The servers, faults and operators are those of `scenario.py`; its judges know of one model for each
request, so that this one judges for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from broker.core import invariants
from broker.core.effects import Effect, StartAttempt
from broker.core.engine import Engine
from broker.core.lifecycle import State
from broker.core.model_name import comparison_key
from broker.core.placement import serves
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.requests import Outcome, RequestKey
from broker.core.stimuli import Stimulus
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Task
from broker.sim.world import World
from tests.sim.draw_tasks import PATIENT_NS
from tests.sim.scenario import Scenario, draw

SEEDS = range(1000, 1040)
REST_NS = 24 * 3600 * 1_000_000_000


def flexible(scenario: Scenario) -> list[Task]:
    """Its tasks; about half accept one or two other models, and most of those if loaded."""
    chance = Random(scenario.seed)
    names = sorted({model.name for site in scenario.sites for model in site.models})
    tasks = []
    for task in scenario.tasks:
        others = [name for name in names if name != task.model]
        if others and chance.random() < 0.5:
            some = chance.sample(others, min(len(others), chance.choice((1, 1, 2))))
            prefers = chance.random() < 0.8
            task = replace(task, fallback_models=tuple(some), prefer_loaded=prefers)
        tasks.append(task)
    return tasks


class Judge:
    """After each turn: nobody was answered by what it did not name, and nobody who takes what is
    loaded waits beside it."""

    def __init__(self, engine: Engine, tasks: Sequence[Task]) -> None:
        self._engine = engine
        self._tasks = {task.key: task for task in tasks}
        self.answered_by_others = 0
        self.moves = 0
        self._lines: dict[RequestKey, LineKey] = {}

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        invariants.check(self._engine)
        for effect in effects:
            if isinstance(effect, StartAttempt):
                self._started(effect)
        lines = {}
        for key, record in self._engine.records.items():
            if record.state is State.QUEUED:
                lines[key] = record.line
                self.moves += self._lines.get(key, record.line) != record.line
                if record.accepts and record.may_join:
                    self._check_place(record)
        self._lines = lines

    def _started(self, effect: StartAttempt) -> None:
        task, model = self._tasks[effect.key], comparison_key(effect.model)
        runner = self._engine.attempts[effect.attempt].residency.runner
        models = self._engine.backends[effect.backend].models
        named = [comparison_key(each) for each in (task.model, *task.fallback_models)]
        # Where its own name is gone, the same file may have another.
        runners = {models[each].runner for each in named if each in models}
        assert model in named or runner in runners, f"{effect.key} did not name {model}"
        if model != named[0] and runner != getattr(models.get(named[0]), "runner", runner):
            self.answered_by_others += 1
            assert effect.substituted_for, f"{effect.key} is not told of {model}"
            assert any(each.startswith("model is ") for each in effect.changes)

    def _check_place(self, record: Record) -> None:
        """It waits for the first that is there, of all that it accepts."""
        at_hand = [each for each in record.accepts if self._is_at_hand(each.line)]
        if at_hand:
            assert record.line == at_hand[0].line, f"{record.spec.key} waits beside {at_hand[0]}"

    def _is_at_hand(self, line: LineKey) -> bool:
        return any(
            serves(each, line) and each.takes(line[0]) and line[0] not in each.broken_until_ns
            for each in self._engine.backends.values()
        )

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...


def play(seed: int) -> Judge:
    """All of a world's requests end, each once."""
    scenario = draw(seed)
    tasks = flexible(scenario)
    engine = Engine(scenario.policy)
    judge = Judge(engine, tasks)
    world = World(engine, scenario.world_sites(), judge=judge)
    world.add(tasks)
    world.afflict(scenario.faults)
    world.timeline.run(scenario.calm_ns)
    limit_ns = scenario.calm_ns + REST_NS
    while any(not each.endings for each in world.stories.values()):
        assert world.timeline.step(limit_ns), f"not all have ended in a world of seed {seed}"
    for story in world.stories.values():
        assert story.endings == 1, f"{story.task.key} ended {story.endings} times"
        if story.task.patience_ns == PATIENT_NS:
            assert story.outcome is not Outcome.EXPIRED, f"{story.task.key} waited for ever"
    return judge


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_waits_beside_what_it_takes_and_nobody_gets_what_it_does_not(seed: int) -> None:
    play(seed)


def test_the_worlds_are_about_this() -> None:
    judges = [play(seed) for seed in SEEDS[:10]]
    assert sum(each.answered_by_others for each in judges) > 0
    assert sum(each.moves for each in judges) > 0
