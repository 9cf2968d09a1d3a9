"""The engine under everything that can happen, in any order: its laws hold after every turn, and
when the faults stop everything comes to an end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.property.house_rules import HOUSES, House
from tests.property.unruly_people import Choose, T
from tests.property.unruly_world import (
    ACTIONS,
    PRESSED_ACTIONS,
    UnrulyWorld,
    digest_of_story,
    replay,
    story,
)


def chooser(data: st.DataObject) -> Choose:
    return lambda among: data.draw(st.sampled_from(among))


def never(among: Sequence[T]) -> T:
    raise AssertionError("nothing is left to choose")


class EngineMachine(RuleBasedStateMachine):
    """Each step is one action of the world; `PerfectShell` holds the answers against the laws."""

    @initialize(house=st.sampled_from(HOUSES))
    def open(self, house: House) -> None:
        self.world = UnrulyWorld(never, house)

    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def act(self, data: st.DataObject, action: str) -> None:
        self.world.choose = chooser(data)
        getattr(self.world, action)()

    def teardown(self) -> None:
        self.world.come_to_rest()
        self.world.check_nothing_remains()
        assert replay(self.world) == [answer for _, _, answer in self.world.story]


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=120, stateful_step_count=60)


@pytest.mark.parametrize("seed", range(100))
def test_a_long_story_keeps_every_law(seed: int) -> None:
    assert digest_of_story(seed, 300)


@pytest.mark.parametrize("seed", range(40))
def test_a_story_of_urgent_work_keeps_every_law(seed: int) -> None:
    story(seed, 200, PRESSED_ACTIONS)


def test_in_those_stories_work_is_set_aside() -> None:
    """Else they would say nothing of that."""
    worlds = [story(seed, 200, PRESSED_ACTIONS) for seed in range(16)]
    assert sum(each.engine.preemptions.count for each in worlds) >= 4


def test_in_those_stories_what_begins_alike_is_taken_for_shorter() -> None:
    """While it waits: else they would say nothing of that."""
    stories = [story(seed, 200, each) for each in (ACTIONS, PRESSED_ACTIONS) for seed in range(12)]
    assert sum(each.order.eased for each in stories) >= 4


def test_in_those_stories_models_are_chosen_for_who_names_none() -> None:
    """Not always the same: else they would say little of that."""
    chosen = sum((story(seed, 200, ACTIONS).levels.chosen for seed in range(12)), Counter[str]())
    assert len(chosen) > 1
    assert chosen.total() >= 4


STORIES = 40
TELL = f"print([digest_of_story(seed, 150) for seed in range({STORIES})])"


def test_the_order_of_hashes_decides_nothing() -> None:
    """The same stories under other hash seeds, each set in a process of its own."""
    program = f"from tests.property.unruly_world import digest_of_story; {TELL}"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert told == {str([digest_of_story(seed, 150) for seed in range(STORIES)])}
