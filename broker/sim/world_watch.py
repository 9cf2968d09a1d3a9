"""Sees the streams of a world fall silent, as runtime/watch.py does: by looks at their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.core.looks import LOOK_NS, Looks
from broker.core.requests import AttemptId
from broker.core.stimuli import Stimulus
from broker.sim.timeline import Timeline
from broker.sim.workload import Story


@dataclass(frozen=True, slots=True)
class _Call:
    attempt: AttemptId
    story: Story

    @property
    def first_ns(self) -> int:
        return self.story.first_token_ns

    @property
    def pieces_count(self) -> int:
        return self.story.tokens_heard


class Watch:
    """Only for calls of which each token is told. `is_stopped`: nobody looks now."""

    def __init__(
        self, timeline: Timeline, feed: Callable[[Stimulus], None], is_stopped: Callable[[], bool]
    ) -> None:
        self._timeline = timeline
        self._feed = feed
        self._is_stopped = is_stopped
        self._looks = Looks()
        self._calls: dict[AttemptId, _Call] = {}
        self._is_on = False

    def start(self, attempt: AttemptId, story: Story) -> None:
        self._calls[attempt] = _Call(attempt, story)
        if not self._is_on:
            self._is_on = True
            self._timeline.after(LOOK_NS, self._look)

    def end(self, attempt: AttemptId) -> None:
        self._calls.pop(attempt, None)

    def __contains__(self, attempt: AttemptId) -> bool:
        return attempt in self._calls

    def _look(self) -> None:
        self._is_on = bool(self._calls)
        if self._is_on:
            self._timeline.after(LOOK_NS, self._look)
        if self._is_stopped():
            return
        for each in self._looks.look(list(self._calls.values()), self._timeline.now_ns):
            self._feed(each)
