"""The arena hands out each slot once at a time, knows stale handles, and grows without a loss."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from _sched.arena import Arena

LIVE_MAX = 40


class ArenaMachine(RuleBasedStateMachine):
    """The arena beside two sets: the handles that are live, and those that were."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(24, LIVE_MAX)
        self.live: list[int] = []
        self.stale: list[int] = []

    @rule(times=st.integers(1, 12))
    def take(self, times: int) -> None:
        for _ in range(times):
            if len(self.live) == LIVE_MAX:
                with pytest.raises(MemoryError):
                    self.arena.take()
                return
            handle = self.arena.take()
            assert handle not in {0, *self.live, *self.stale}
            self.live.append(handle)

    @rule(at=st.integers(0, LIVE_MAX))
    def give_back(self, at: int) -> None:
        if self.live:
            handle = self.live.pop(at % len(self.live))
            assert self.arena.give_back(handle)
            assert not self.arena.give_back(handle)
            self.stale.append(handle)

    @rule(handle=st.integers(0, 2**64 - 1))
    def nonsense(self, handle: int) -> None:
        if handle not in self.live:
            assert not self.arena.is_live(handle)
            assert not self.arena.give_back(handle)

    @invariant()
    def agrees(self) -> None:
        self.arena.check()
        assert len(self.arena) == len(self.live) <= self.arena.capacity <= LIVE_MAX
        assert all(self.arena.is_live(each) for each in self.live)
        assert not any(self.arena.is_live(each) for each in self.stale)


ArenaMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
)
TestArena = ArenaMachine.TestCase


def test_its_size_is_what_it_holds() -> None:
    arena = Arena(64)
    empty = sys.getsizeof(arena)
    for _ in range(1_000):
        arena.take()
    assert sys.getsizeof(arena) - empty == 64 * (arena.capacity + 1)
    assert 1_000 <= arena.capacity <= 1_500


@pytest.mark.parametrize("block_bytes", [0, 7, 4097, -1])
def test_a_block_of_no_use_is_refused(block_bytes: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Arena(block_bytes)


@pytest.mark.parametrize("live_max", [0, -1, 2**31, 2**32])
def test_a_limit_out_of_range_is_refused(live_max: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Arena(8, live_max)
