"""The engine under everything that can happen, in any order: its laws hold after every turn, and
when the faults stop everything comes to an end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from broker.core.requests import Outcome
from broker.core.stimuli import DrainAsked
from tests.property.unruly_world import ACTIONS, Choose, T, UnrulyWorld, digest_of_story, replay
from tests.unit.core.scene import MINUTE_NS


def chooser(data: st.DataObject) -> Choose:
    return lambda among: data.draw(st.sampled_from(among))


def never(among: Sequence[T]) -> T:
    raise AssertionError("nothing is left to choose")


class EngineMachine(RuleBasedStateMachine):
    """Each step is one action of the world; the shell checks the laws, see there."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = UnrulyWorld(never)

    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def act(self, data: st.DataObject, action: str) -> None:
        self.shell.choose = chooser(data)
        getattr(self.shell, action)()

    def teardown(self) -> None:
        shell, engine = self.shell, self.shell.engine
        shell.come_to_rest()
        assert (engine.records, engine.lines, engine.attempts) == ({}, {}, {})
        ended = {each: n for each, n in engine.tally.outcomes.items() if each != Outcome.REFUSED}
        assert ended == {each: shell.outcomes.count(each) for each in ended}
        assert sum(ended.values()) == shell.admitted
        assert (engine.tally.queued, engine.tally.running) == (0, 0)
        shell.feed(DrainAsked(shell.now_ns))
        assert shell.drained == 1
        shell.wait(MINUTE_NS)
        renewals = sum(len(each.residents) for each in engine.backends.values())
        assert len(engine.timers) <= renewals
        assert replay(shell.story) == [answer for _, _, answer in shell.story]


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("seed", range(100))
def test_a_long_story_keeps_every_law(seed: int) -> None:
    assert digest_of_story(seed, 300)


def test_the_order_of_hashes_decides_nothing() -> None:
    """The same story under other hash seeds, each in a process of its own."""
    program = (
        "from tests.property.unruly_world import digest_of_story; print(digest_of_story(7, 400))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {digest_of_story(7, 400)}
