"""Loading ahead of need under whatever comes: its laws hold after every turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from broker.core.effects import AbortLoad, Effect, Load, StartAttempt, Unload
from broker.core.errors import LoadFailed
from broker.core.level import Level
from broker.core.placement import BackendPolicy
from broker.core.preload import DAY_NS, PreloadPolicy
from broker.core.requests import AttemptId
from broker.core.stimuli import (
    AttemptEnded,
    BackendSeen,
    LevelAsked,
    LoadEnded,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
    Stimulus,
    UnloadEnded,
    WallClockSet,
)
from tests.property.preload_books import PreloadBooks
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, resident

EAGER = PreloadPolicy(is_enabled=True, probability_min=0.05, margin=1.0, idle_ns=0, models_max=3)
NAMES = "mnop"
BACKENDS = (
    BackendPolicy(name="b1", resident_max=2, memory_bytes=3_000),
    BackendPolicy(name="b2", exclusive=True),
)
NORMAL = LevelAsked(level=None)
CHANGES = (LevelAsked(level=Level.LEVEL_1), NORMAL, NORMAL)
PAUSES = (PauseAsked, ResumeAsked, ResumeAsked)


class Story(Scene):
    """People who ask, servers that do as they are told or fail, an operator who changes levels."""

    def __init__(self, seed: int) -> None:
        super().__init__(*BACKENDS)
        self.chance = Random(seed)
        self.books = PreloadBooks(self.engine)
        self.calls: list[AttemptId] = []
        self.switching: dict[str, Load | Unload] = {}
        self.strangers: set[tuple[str, str]] = set()  # what nobody here loaded, by backend
        self.asked = 0
        self.turn(PolicyChanged(replace(self.engine.policy, preload=EAGER)))
        for each in BACKENDS:
            self.open(each.name, *(model(name, size_bytes=1_000) for name in NAMES))
            self.seen(each.name)
        self.turn(WallClockSet(4 * DAY_NS))

    def turn(self, stimulus: Stimulus) -> list[Effect]:
        effects = super().turn(stimulus)
        for each in effects:
            match each:
                case StartAttempt():
                    self.calls.append(each.attempt)
                case Load() | Unload():
                    assert each.backend not in self.switching
                    is_foreign = (each.backend, each.runner) in self.strangers
                    assert not (isinstance(each, Unload) and is_foreign), "it is not ours"
                    self.switching[each.backend] = each
                case AbortLoad():
                    assert self.switching[each.backend].runner == each.runner
        if hasattr(self, "books"):
            self.books.turned(effects)
        return effects

    def act(self) -> None:
        acts: list[tuple[int, Callable[[], object]]] = [
            (40, self.ask),
            (80, self.end_call),
            (80, self.end_switch),
            (60, lambda: self.wait(self.chance.randrange(1, 60) * SECOND_NS)),
            (4, lambda: self.turn(self.chance.choice(CHANGES))),
            (15, self.lose_or_gain),
            (3, lambda: self.turn(BackendSeen("b1", self.chance.random() < 0.8, "away"))),
            (3, lambda: self.turn(self.chance.choice(PAUSES)(scope=Scope()))),
        ]
        self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()

    def ask(self) -> None:
        self.asked += 1
        name = self.chance.choices(NAMES, (8, 4, 2, 1))[0]
        until_ns = self.now_ns + 20 * MINUTE_NS
        agent = f"a{self.chance.randrange(6)}"
        self.turn(arrived(f"r{self.asked}", agent=agent, model=name, deadline_ns=until_ns))

    def end_call(self) -> None:
        if self.calls:
            attempt = self.calls.pop(self.chance.randrange(len(self.calls)))
            self.turn(AttemptEnded(attempt, None, 5, 5))

    def end_switch(self) -> None:
        if not self.switching:
            return
        name = self.chance.choice(sorted(self.switching))
        effect = self.switching.pop(name)
        if isinstance(effect, Unload):
            self.turn(UnloadEnded(name, effect.runner))
            return
        residency = self.engine.backends[name].residents.get(effect.runner)
        is_bad = self.chance.random() < 0.1 or (residency is not None and residency.is_aborting)
        error = LoadFailed("it was not to be") if is_bad else None
        self.turn(LoadEnded(name, effect.runner, error))

    def lose_or_gain(self) -> None:
        """A server lets a model go, or somebody else loads one there."""
        backend = self.engine.backends["b1"]
        if "b1" in self.switching or not backend.up:
            return
        held = {
            each.model.removesuffix(":latest")
            for each in backend.residents.values()
            if each.running or self.chance.random() < 0.5
        }
        if self.chance.random() < 0.3 and len(held) < 2:
            name = self.chance.choice(sorted(set(NAMES) - held))
            if f"blob-{name}" not in backend.residents:
                held.add(name)
                self.strangers.add(("b1", f"blob-{name}"))
        self.strangers &= {("b1", f"blob-{name}") for name in held}
        self.seen("b1", *(resident(name) for name in sorted(held)))
        # What comes back so soon that a renewal of ours may have brought it is ours.
        there = self.engine.backends["b1"].residents
        self.strangers -= {
            ("b1", runner) for runner, residency in there.items() if residency.managed
        }


@pytest.mark.parametrize("first", [0, 8, 16])
def test_whatever_comes_its_laws_hold(first: int) -> None:
    """And it happens in every way: else they would say nothing."""
    stories = [Story(seed) for seed in range(first, first + 8)]
    for each in stories:
        for _ in range(400):
            each.act()
    views = [each.engine.preloads.view() for each in stories]
    assert sum(each.used for each in views) > 1
    assert sum(each.wasted for each in views) > 1
    assert sum(each.aborted + each.failed for each in views) > 1
