"""What surely comes too late neither starts nor waits; what may be in time is left alone."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.effects import Effect, Finish, StartAttempt
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome, RequestKey
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    serving,
)

MARGINS: Final = (1.0, 2.0, 3.5)
AGENTS: Final = ("a", "b", "c")


class Line:
    """One model with two slots, whose requests were measured; people with and without time."""

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._scene: Scene = serving(
            model("m", slots=2), queue=QueuePolicy(deadline_margin=margin), first_agent="z"
        )
        self._scene.measured(10 * SECOND_NS, agent="z")
        self._come = 0
        self._planned_ns: dict[RequestKey, int] = {}  # what each needs, as known when it came

    def _needs_ns(self) -> int:
        spec = arrived("any").spec
        surely_ns = self._scene.engine.estimates.expected_ns("blob-m", spec)
        assert surely_ns is not None
        return int(surely_ns / self._margin)

    def arrive(self, agent: str, left_ns: int) -> None:
        """A request with so much time left; refused is only what needs more than that."""
        self._come += 1
        at_ns, needs_ns = self._scene.now_ns + left_ns, self._needs_ns()
        name = f"r{self._come}"
        self._planned_ns[agent, name] = needs_ns
        self._judge(self._scene.turn(arrived(name, agent=agent, deadline_ns=at_ns)), needs_ns)
        if left_ns < needs_ns:
            assert (agent, name) not in self._scene.engine.records

    def wait(self, duration_ns: int) -> None:
        """Time passes, alarm by alarm."""
        until_ns, needs_ns = self._scene.now_ns + duration_ns, self._needs_ns()
        while self._scene.alarm_ns is not None and self._scene.alarm_ns <= until_ns:
            self._judge(self._scene.wait(self._scene.alarm_ns - self._scene.now_ns), needs_ns)
        self._judge(self._scene.wait(until_ns - self._scene.now_ns), needs_ns)

    def end(self) -> None:
        """The oldest call ends; what is measured then counts from now on."""
        attempts = self._scene.engine.attempts
        if attempts:
            key = next(iter(attempts.values())).record.spec.key
            effects = self._scene.ends(key[1], agent=key[0])
            self._judge(effects, self._needs_ns())

    def _judge(self, effects: list[Effect], needs_ns: int) -> None:
        now_ns = self._scene.now_ns
        for each in of(effects, StartAttempt):
            left_ns = self._scene.engine.records[each.key].deadline_ns - now_ns
            assert left_ns >= min(needs_ns, self._planned_ns[each.key]), "started in vain"
        for end in of(effects, Finish):
            if end.outcome is not Outcome.EXPIRED:
                continue
            assert end.record is not None
            due_ns = end.record.deadline_ns
            if end.attempt is None:
                assert now_ns > due_ns - needs_ns, "ended though there was time"
            else:
                assert now_ns >= due_ns, "cut off before its time"


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(AGENTS), st.integers(1, 90)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("end")),
    ),
    max_size=60,
)


@pytest.mark.parametrize("margin", MARGINS)
@given(steps=STEPS)
def test_only_what_surely_comes_too_late_ends_early_and_none_of_it_starts(
    margin: float, steps: list[tuple[object, ...]]
) -> None:
    line = Line(margin)
    for step in steps:
        match step:
            case ("arrive", str() as agent, int() as left_s):
                line.arrive(agent, left_s * SECOND_NS)
            case ("wait", int() as seconds):
                line.wait(seconds * SECOND_NS)
            case _:
                line.end()
    line.wait(10 * MINUTE_NS)
