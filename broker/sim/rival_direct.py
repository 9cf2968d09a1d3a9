"""Agents before a simulated Ollama itself, with nothing in between: what a broker is measured by.

Each agent opens its call when its request comes and closes it when it gives up, as a client with a
time-out does. The order is Ollama's own: first come, first served, but for requests whose model is
loaded, which jump its queue (OLLAMA.md §3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from broker.core.errors import BackendUnreachable, Cancelled
from broker.core.requests import Outcome, RequestKey
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import (
    CutOff,
    Failed,
    Finished,
    Signal,
    SlotTaken,
    Token,
    Work,
    WorkKind,
)
from broker.sim.timeline import Timeline
from broker.sim.workload import Story, Task
from broker.sim.world_server import Call, Server
from broker.sim.world_wire import error_of


class Direct:
    """One server and its agents on a timeline of their own. Fallbacks, priorities and deadlines
    mean nothing here. What has a slot of the server counts as started.

    `sees_loads`: an agent whose model is being loaded for its sake does not give up. No client of
    Ollama can see that; but one that leaves ends the load, for whomever it would have served, and
    to be measured by that would be too easy.
    """

    def __init__(self, start: Callable[[], OllamaModel], *, sees_loads: bool = True) -> None:
        self._sees_loads = sees_loads
        self.timeline = Timeline()
        self.server = Server("alone", start, self.timeline)
        self.stories: list[Story] = []
        self._calls: dict[RequestKey, Call] = {}

    def add(self, tasks: Iterable[Task]) -> None:
        """Plans arrivals, and what their clients do afterwards."""
        for task in tasks:
            self.timeline.at(task.at_ns, partial(self._arrive, Story(task=task)))

    def _arrive(self, story: Story) -> None:
        self.stories.append(story)
        if story.task.gives_up_after_ns:
            self.timeline.after(story.task.gives_up_after_ns, partial(self._give_up, story))
        self._place(story)

    def _place(self, story: Story) -> None:
        """Where it goes when it comes."""
        self._call(story)

    def _call(self, story: Story) -> None:
        work = Work(
            kind=WorkKind.GENERATE,
            model=story.task.model,
            prompts=(story.task.prompt,),
            output_tokens=story.task.output_tokens,
        )
        story.attempts += 1
        call = self.server.open(work, partial(self._hear, story))
        if isinstance(call, Call):  # else the server is away, and says so
            self._calls[story.task.key] = call

    def _hear(self, story: Story, signal: Signal) -> None:
        match signal:
            case SlotTaken():
                story.started_ns = self.timeline.now_ns
            case Token(index=0):
                story.first_token_ns = self.timeline.now_ns
            case Finished():
                self._end(story, Outcome.COMPLETED)
            case Failed():
                story.error = error_of(signal, story.task.model)
                self._end(story, Outcome.FAILED)
            case CutOff():
                story.error = BackendUnreachable("the server was terminated")
                self._end(story, Outcome.FAILED)

    def _give_up(self, story: Story) -> None:
        if not story.started_ns and not story.endings:
            call = self._calls.get(story.task.key)
            if call is not None:
                if self._sees_loads and self.server.model.loads_for == call.exchange:
                    return
                call()
            story.error = Cancelled("it gave up")
            self._end(story, Outcome.CANCELLED)

    def _end(self, story: Story, outcome: Outcome) -> None:
        story.outcome, story.ended_ns = outcome, self.timeline.now_ns
        story.endings += 1
        self._calls.pop(story.task.key, None)
