"""llama-swap's rule (`collating.py`) before a simulated server, on a virtual clock.

llama-swap starts llama-server itself; here loads cost what they cost everybody.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.requests import Outcome
from broker.sim.collating import Collating
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import Finished, Signal, Work, WorkKind
from broker.sim.rival_direct import Direct
from broker.sim.workload import Story

FOREVER_NS = -1  # it lets nothing go by itself


class Collation(Direct):
    """See the module. `resident_max` models may be ready at once."""

    def __init__(self, start: Callable[[], OllamaModel], resident_max: int) -> None:
        super().__init__(start)
        self._rule: Collating[Story] = Collating(
            resident_max, load=self._load, unload=self._unload, pass_on=self._call
        )

    def _place(self, story: Story) -> None:
        self._rule.come(story.task.model, story)

    def _end(self, story: Story, outcome: Outcome) -> None:
        super()._end(story, outcome)
        if story.attempts:
            self._rule.ended(story.task.model)
        else:
            self._rule.leave(story.task.model, story)

    def _load(self, model: str) -> None:
        self._ask(WorkKind.LOAD, model, FOREVER_NS, self._rule.loaded)

    def _unload(self, model: str) -> None:
        self._ask(WorkKind.UNLOAD, model, 0, self._rule.unloaded)

    def _ask(self, kind: WorkKind, model: str, keep_ns: int, then: Callable[[], None]) -> None:
        def hear(signal: Signal) -> None:
            if isinstance(signal, Finished):
                then()

        self.server.open(Work(kind=kind, model=model, keep_alive_ns=keep_ns), hear)
