"""llama-swap's rule before a simulated server: swaps in order of request, one model's collated.

What asks for a model that is ready is passed on at once, whoever waits for another: a ready model
is left only when nothing of it is in flight, so the wait for another has no bound. Then the first
that waits has its model loaded, and all that wait for the same go with it. A load belongs to no
client. No agents, no priorities, no deadlines (reference/PEERS.md). llama-swap starts llama-server
itself; here loads cost what they cost everybody.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.requests import Outcome
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import Finished, Signal, Work, WorkKind
from broker.sim.rival_direct import Direct
from broker.sim.workload import Story

FOREVER_NS = -1  # it lets nothing go by itself


class Collation(Direct):
    """See the module. `resident_max` models may be ready at once."""

    def __init__(self, start: Callable[[], OllamaModel], resident_max: int) -> None:
        super().__init__(start)
        self._resident_max = resident_max
        self._waiting: list[Story] = []
        self._in_flight: dict[str, int] = {}  # of each ready model, the one used longest ago first
        self._is_swapping = False

    def _place(self, story: Story) -> None:
        model = story.task.model
        if model in self._in_flight:
            self._pass_on(story)
        else:
            self._waiting.append(story)
            self._look()

    def _pass_on(self, story: Story) -> None:
        model = story.task.model
        self._in_flight[model] = self._in_flight.pop(model) + 1
        self._call(story)

    def _end(self, story: Story, outcome: Outcome) -> None:
        super()._end(story, outcome)
        if story.attempts:
            self._in_flight[story.task.model] -= 1
            self._look()
        else:
            self._waiting.remove(story)

    def _look(self) -> None:
        """Swaps, if somebody waits and a place is free or can be made."""
        if self._is_swapping or not self._waiting:
            return
        model = self._waiting[0].task.model
        if len(self._in_flight) < self._resident_max:
            self._load(model)
            return
        idle = next((name for name, count in self._in_flight.items() if not count), None)
        if idle is not None:
            self._is_swapping = True
            del self._in_flight[idle]
            self._ask(WorkKind.UNLOAD, idle, 0, lambda: self._load(model))

    def _load(self, model: str) -> None:
        self._is_swapping = True
        self._ask(WorkKind.LOAD, model, FOREVER_NS, lambda: self._loaded(model))

    def _loaded(self, model: str) -> None:
        self._is_swapping = False
        self._in_flight[model] = 0
        ready = [each for each in self._waiting if each.task.model == model]
        self._waiting = [each for each in self._waiting if each.task.model != model]
        for story in ready:
            self._pass_on(story)
        self._look()

    def _ask(self, kind: WorkKind, model: str, keep_ns: int, then: Callable[[], None]) -> None:
        def hear(signal: Signal) -> None:
            if isinstance(signal, Finished):
                then()

        self.server.open(Work(kind=kind, model=model, keep_alive_ns=keep_ns), hear)
