"""The heap at native speed does what its oracle does, whatever is asked of it in whatever order."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from _sched.heap import IndexedHeap
from _sched.reference import IndexedHeap as Oracle

KEYS = st.one_of(st.integers(0, 8), st.integers(-(2**63), 2**63 - 1))
CAPACITY = 24


class HeapMachine(RuleBasedStateMachine):
    """Every entry is known by a pair of handles: the heap's and the oracle's."""

    pairs = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.heap = IndexedHeap(CAPACITY)
        self.oracle = Oracle(CAPACITY)
        self.twin: dict[int, int] = {}

    @rule(target=pairs, key=KEYS)
    def push(self, key: int) -> tuple[int, int]:
        mine, theirs = self.heap.push(key), self.oracle.push(key)
        assert (mine == 0) == (theirs == 0)
        assert mine not in self.twin
        if mine:
            self.twin[mine] = theirs
        return mine, theirs

    @rule()
    def pop_best(self) -> None:
        self._same(self.heap.pop_best(), self.oracle.pop_best())

    @rule()
    def pop_worst(self) -> None:
        self._same(self.heap.pop_worst(), self.oracle.pop_worst())

    @rule(now=KEYS)
    def pop_due(self, now: int) -> None:
        mine, theirs = self.heap.pop_due(now), self.oracle.pop_due(now)
        assert self.twin.get(mine, 0) == theirs

    @rule(pair=pairs)
    def remove(self, pair: tuple[int, int]) -> None:
        assert self.heap.remove(pair[0]) == self.oracle.remove(pair[1])

    @rule(pair=pairs, key=KEYS)
    def rekey(self, pair: tuple[int, int], key: int) -> None:
        assert self.heap.rekey(pair[0], key) == self.oracle.rekey(pair[1], key)

    @rule(pair=pairs)
    def key_of(self, pair: tuple[int, int]) -> None:
        assert self.heap.key_of(pair[0]) == self.oracle.key_of(pair[1])

    @invariant()
    def agrees(self) -> None:
        assert len(self.heap) == len(self.oracle)
        self._same(self.heap.peek_best(), self.oracle.peek_best())
        self._same(self.heap.peek_worst(), self.oracle.peek_worst())
        self.heap.check()

    def _same(self, mine: tuple[int, int] | None, theirs: tuple[int, int] | None) -> None:
        if mine is None or theirs is None:
            assert mine is theirs
            return
        assert mine[0] == theirs[0]
        assert self.twin[mine[1]] == theirs[1]


HeapMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestHeap = HeapMachine.TestCase


def test_a_removed_parent_gap_filled_by_a_smaller_entry_rises() -> None:
    """The removal that one peer gets wrong: the filler must rise, not only sink."""
    heap = IndexedHeap(16)
    handles = {key: heap.push(key) for key in (1, 10, 2, 11, 12, 3, 4)}
    assert heap.remove(handles[11])
    heap.check()
    assert [entry[0] for entry in iter(heap.pop_best, None)] == [1, 2, 3, 4, 10, 12]


@pytest.mark.parametrize("entries_max", [3, 7, 40])
def test_both_ends_stay_right_over_long_histories_of_moves_and_removals(entries_max: int) -> None:
    """Chance reaches what a search for short histories does not: each corner, often."""
    chance = Random(entries_max)
    heap, live = IndexedHeap(entries_max), dict[int, tuple[int, int]]()
    for age in range(6_000):
        if len(live) < entries_max and chance.random() < 0.5:
            key = chance.randrange(50)
            live[heap.push(key)] = key, age
        elif live:
            handle, key = chance.choice(list(live)), chance.randrange(50)
            if chance.random() < 0.7:
                assert heap.rekey(handle, key)
                live[handle] = key, live[handle][1]
            else:
                assert heap.remove(handle)
                del live[handle]
        heap.check()
        if live:
            best, worst = min(live, key=live.__getitem__), max(live, key=live.__getitem__)
            assert heap.peek_best() == (live[best][0], best)
            assert heap.peek_worst() == (live[worst][0], worst)


def test_an_entry_alone_in_the_last_node_becomes_the_worst_when_that_one_moves() -> None:
    """It is in no array of worst entries, so a gap there falls past it."""
    heap = IndexedHeap(16)
    handles = {key: heap.push(key) for key in (0, 10, 5)}
    assert heap.rekey(handles[10], 3)
    heap.check()
    assert [entry[0] for entry in iter(heap.pop_worst, None)] == [5, 3, 0]


def test_a_stale_handle_is_refused_after_its_slot_is_used_again() -> None:
    heap = IndexedHeap(1)
    old = heap.push(5)
    assert heap.remove(old)
    new = heap.push(5)
    assert new != old
    assert not heap.remove(old)
    assert not heap.rekey(old, 1)
    assert heap.key_of(old) is None
    assert heap.key_of(new) == 5


@pytest.mark.parametrize("capacity", [0, -1, 2**31])
def test_a_capacity_out_of_range_is_refused(capacity: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        IndexedHeap(capacity)


def test_a_full_heap_answers_zero_and_loses_nothing() -> None:
    heap = IndexedHeap(2)
    assert heap.push(1)
    assert heap.push(2)
    assert heap.push(0) == 0
    assert [entry[0] for entry in iter(heap.pop_best, None)] == [1, 2]
