"""Drawn worlds in which operators have models loaded and unloaded by hand, amid work and faults.

The servers, faults and tasks are those of `scenario.py`; this judge adds that every wish has one
answer, that the answer is so on the server itself, and that no wish costs a request its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from broker.core import invariants
from broker.core.effects import Effect, WishEnded
from broker.core.engine import Engine
from broker.core.model_name import comparison_key
from broker.core.residency import ResidencyState
from broker.core.stimuli import LoadAsked, Stimulus, UnloadAsked, WishWithdrawn
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.world import World
from tests.sim.scenario import SECOND_NS, Scenario, draw

SEEDS = range(3000, 3040)
REST_NS = 24 * 3600 * SECOND_NS
WISHES = 40


class Judge:
    """After each turn: the laws of the engine, and of wishes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.open: dict[int, LoadAsked | UnloadAsked] = {}
        self.ends: Counter[str] = Counter()

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        invariants.check(self._engine)
        match stimulus:
            case LoadAsked() | UnloadAsked():
                self.open[stimulus.wish] = stimulus
            case WishWithdrawn():
                self.open.pop(stimulus.wish, None)
        for effect in effects:
            if isinstance(effect, WishEnded):
                self._ended(effect)
        assert len(self._engine.wishes) == len(self.open)

    def _ended(self, effect: WishEnded) -> None:
        asked = self.open.pop(effect.wish)  # KeyError: answered twice
        kind = "load" if isinstance(asked, LoadAsked) else "unload"
        self.ends[kind if effect.error is None else effect.error.reason] += 1
        if effect.error is not None or kind == "unload":
            return
        (name,) = effect.backends
        backend = self._engine.backends[name]
        runner = backend.models[comparison_key(asked.model)].runner
        assert backend.residents[runner].state is ResidencyState.RESIDENT

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...


def wishes(scenario: Scenario) -> list[tuple[int, Stimulus]]:
    """When what is wished, and when somebody goes away."""
    chance = Random(scenario.seed)
    names = [*scenario.model_names, "nobody:latest"]
    places = ["", *(site.name for site in scenario.sites)]
    found: list[tuple[int, Stimulus]] = []
    for wish in range(1, WISHES + 1):
        at_ns = chance.randrange(scenario.calm_ns)
        until_ns = at_ns + chance.choice((2, 30, 300)) * SECOND_NS
        model, backend = chance.choice(names), chance.choice(places)
        if chance.random() < 0.6:
            asked: Stimulus = LoadAsked(wish=wish, model=model, backend=backend, until_ns=until_ns)
        else:
            hold_ns = chance.choice((0, 0, until_ns + 10 * SECOND_NS))
            asked = UnloadAsked(
                wish=wish,
                model=model,
                backend=backend,
                until_ns=until_ns,
                hold_until_ns=hold_ns,
            )
        found.append((at_ns, asked))
        if chance.random() < 0.2:
            found.append((at_ns + chance.randrange(40 * SECOND_NS), WishWithdrawn(wish)))
    return found


def play(seed: int) -> Judge:
    """All wishes have been answered, and all requests end, each once."""
    scenario = draw(seed)
    engine = Engine(scenario.policy)
    judge = Judge(engine)
    world = World(engine, scenario.world_sites(), judge=judge)
    world.add(scenario.tasks)
    world.afflict(scenario.faults)
    for at_ns, asked in wishes(scenario):
        world.command(at_ns, asked)
    world.timeline.run(scenario.calm_ns + 400 * SECOND_NS)
    assert judge.open == {}, "somebody waits past the moment that was named"
    limit_ns = scenario.calm_ns + REST_NS
    while any(not each.endings for each in world.stories.values()):
        assert world.timeline.step(limit_ns), f"not all have ended in a world of seed {seed}"
    for story in world.stories.values():
        assert story.endings == 1, f"{story.task.key} ended {story.endings} times"
    return judge


@pytest.mark.parametrize("seed", SEEDS)
def test_every_wish_has_one_answer_and_it_is_so(seed: int) -> None:
    play(seed)


def test_the_worlds_are_about_this() -> None:
    ends = sum((play(seed).ends for seed in SEEDS[:10]), Counter[str]())
    assert {"load", "unload", "MODEL_UNKNOWN"} <= ends.keys()
    assert {"NO_ROOM", "MODEL_IN_USE"} & ends.keys()
