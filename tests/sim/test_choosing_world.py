"""Drawn worlds in which half of the agents name an alias, or only say what their model must be.

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
from broker.core.errors import NoBackend
from broker.core.lifecycle import State
from broker.core.record import Record
from broker.core.requests import Outcome, RequestKey
from broker.core.requirements import BUILT_IN_ALIASES, Alias, Preference, Requirements
from broker.core.stimuli import ModelSpec, Stimulus
from broker.core.targets import known_of
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Task
from broker.sim.world import World
from tests.sim.draw_tasks import PATIENT_NS
from tests.sim.scenario import Scenario, draw

SEEDS = range(2000, 2040)
REST_NS = 24 * 3600 * 1_000_000_000
GB = 1_000_000_000


def wishing(scenario: Scenario) -> tuple[list[Task], dict[str, Alias]]:
    """Its tasks, about half of which name no model, and the aliases there."""
    chance = Random(scenario.seed)
    names = scenario.model_names
    aliases = {**BUILT_IN_ALIASES, "list": Alias(models=tuple(chance.sample(names, len(names))))}
    tasks = []
    for task in scenario.tasks:
        if chance.random() < 0.5:
            wants = Requirements(
                context_min=chance.choice((0, 0, 5000)),
                size_bytes_max=chance.choice((0, 0, GB, 5 * GB)),
                prefer=chance.choice((None, *Preference)),
            )
            word = chance.choice(("", *aliases))
            task = replace(task, model=word, wants=wants if not word else None)
        tasks.append(task)
    return tasks, aliases


class Judge:
    """After each turn: who named no model was answered by one that is as was wanted, and waits for
    one that is there as long as any such is."""

    def __init__(self, engine: Engine, tasks: Sequence[Task], aliases: dict[str, Alias]) -> None:
        self._engine = engine
        self._tasks = {task.key: task for task in tasks}
        self._aliases = aliases
        self.chosen = 0
        self.chosen_anew = 0
        self._models: dict[RequestKey, str] = {}

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        invariants.check(self._engine)
        for effect in effects:
            if isinstance(effect, StartAttempt):
                self._started(effect)
        models = {}
        for key, record in self._engine.records.items():
            if record.sent is not None and record.state is State.QUEUED:
                models[key] = record.model
                self.chosen_anew += self._models.get(key, record.model) != record.model
                self._check_place(record, now_ns)
        self._models = models

    def _started(self, effect: StartAttempt) -> None:
        task = self._tasks[effect.key]
        is_wish = not task.model or task.model in self._aliases
        assert bool(effect.chosen_because) is is_wish
        if not is_wish:
            return
        self.chosen += 1
        assert effect.substituted_for == ""
        runner = self._engine.attempts[effect.attempt].residency.runner
        backend = self._engine.backends[effect.backend]
        having = [each for each in backend.models.values() if each.runner == runner]
        record = self._engine.records[effect.key]
        if not record.is_for_level:
            assert any(self._fits(each, task) for each in having), f"{effect.model} is not so"

    def _fits(self, model: ModelSpec, task: Task) -> bool:
        known, wants = known_of(model), task.wants or Requirements()
        is_listed = task.model != "list" or model.name in self._aliases["list"].models
        is_small = not wants.size_bytes_max or known.size_bytes <= wants.size_bytes_max
        context = max(wants.context_min, task.num_ctx_needed)
        return is_listed and is_small and known.context_max >= context

    def _check_place(self, record: Record, now_ns: int) -> None:
        """What it waits for is gone only where nothing else would do."""
        runner, sent = record.line[0], record.sent
        if sent is None or any(runner in x.by_runner for x in self._engine.backends.values()):
            return
        try:
            is_other_ready = self._engine.choosing.select(sent, now_ns).is_ready
        except NoBackend:
            is_other_ready = False
        assert not is_other_ready, f"{record.spec.key} waits for what is gone"

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...


def play(seed: int) -> Judge:
    """All of a world's requests end, each once."""
    scenario = draw(seed)
    tasks, aliases = wishing(scenario)
    engine = Engine(replace(scenario.policy, aliases=aliases))
    judge = Judge(engine, tasks, aliases)
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
def test_who_names_no_model_is_answered_by_one_that_fits(seed: int) -> None:
    play(seed)


def test_the_worlds_are_about_this() -> None:
    judges = [play(seed) for seed in SEEDS[:10]]
    assert sum(each.chosen for each in judges) > 0
    assert sum(each.chosen_anew for each in judges) > 0
