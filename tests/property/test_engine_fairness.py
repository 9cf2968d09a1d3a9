"""Two agents that stay backlogged are served alike by the engine, whatever their requests cost.

docs/scheduling.md has the proof: a charge at the start is an estimate, settled at the end, so that
what runs is all that can be judged wrongly. Here the engine itself estimates, charges and settles.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from broker.core.effects import Effect, StartAttempt
from broker.core.placement import BackendPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import AttemptId
from broker.core.stimuli import AttemptEnded
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, of

PROMPT_MAX, OUTPUT_MAX = 400, 800
QUEUE = QueuePolicy(prompt_token_cost=1, output_token_cost=2)
LARGEST = PROMPT_MAX * QUEUE.prompt_token_cost + OUTPUT_MAX * QUEUE.output_token_cost
RIVALS = ("ann", "bob")


class Shop:
    """One model with so many slots; the two rivals always have something waiting."""

    def __init__(self, slots: int, seed: int) -> None:
        self.chance = Random(seed)
        self.scene = Scene(BackendPolicy(name="b1"), queue=QUEUE)
        self.waiting: Counter[str] = Counter()
        self.running: dict[AttemptId, str] = {}
        self.served: Counter[str] = Counter()
        self._arrivals = 0
        self.sizes = {
            agent: self.chance.choice((0.01, 0.3, 1.0)) for agent in (*RIVALS, "cyd", "dan")
        }
        self.scene.open("b1", model("m", slots=slots))

    def send(self, agent: str) -> None:
        self._arrivals += 1
        deadline_ns = self.scene.now_ns + 1000 * MINUTE_NS
        sent = arrived(f"r{self._arrivals}", agent=agent, deadline_ns=deadline_ns)
        self.waiting[agent] += 1
        self._note(self.scene.turn(sent))

    def keep_backlogged(self) -> None:
        for agent in RIVALS:
            while self.waiting[agent] < 2:
                self.send(agent)

    def end_one(self) -> None:
        attempt = self.chance.choice(list(self.running))
        agent = self.running.pop(attempt)
        prompt = 1 + int(self.chance.random() * self.sizes[agent] * (PROMPT_MAX - 1))
        output = int(self.chance.random() * self.sizes[agent] * OUTPUT_MAX)
        cost = QUEUE.prompt_token_cost * prompt + QUEUE.output_token_cost * output
        self.served[agent] += cost
        self.scene.now_ns += SECOND_NS
        self._note(self.scene.turn(AttemptEnded(attempt, None, prompt, output)))

    def load(self) -> None:
        self._note(self.scene.loaded("m"))

    def _note(self, effects: list[Effect]) -> None:
        for started in of(effects, StartAttempt):
            self.waiting[started.key[0]] -= 1
            self.running[started.attempt] = started.key[0]


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_two_agents_that_stay_backlogged_are_served_alike(slots: int, seed: int) -> None:
    shop = Shop(slots, seed)
    shop.keep_backlogged()
    shop.load()
    for _ in range(250):
        shop.keep_backlogged()
        if shop.chance.random() < 0.2:
            shop.send(shop.chance.choice(("cyd", "dan")))
        if shop.running:
            shop.end_one()
        apart = abs(shop.served["ann"] - shop.served["bob"])
        assert apart < (slots + 1) * LARGEST
    assert min(shop.served[each] for each in RIVALS) > 10 * LARGEST * min(shop.sizes.values())
