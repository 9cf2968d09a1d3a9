"""The heap and the buckets leak nothing, keep no reference, and stay whole if something raises."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from _sched.bucket import BucketArray
from _sched.heap import IndexedHeap
from broker.core.timers import Timers

ROUNDS = 2_000
# Python's own caches (interned numbers, free lists) may take a few blocks whenever they like; one
# leak a round would be a hundred times that.
BLOCKS_SLACK = 20
BIG = 2**40  # not one of the small numbers that Python keeps once for all


def exercise_heap() -> None:
    heap = IndexedHeap(100)
    handles = [heap.push(BIG + key) for key in range(101)]
    for handle in handles[:50]:
        heap.rekey(handle, BIG - handle)
        heap.key_of(handle)
    for handle in handles[20:40]:
        heap.remove(handle)
        heap.remove(handle)
    heap.peek_best()
    heap.peek_worst()
    heap.pop_due(BIG)
    while heap.pop_best() and heap.pop_worst():
        heap.check()


def exercise_buckets() -> None:
    buckets = BucketArray()
    handles = [buckets.add(10.5, 20.5, BIG) for _ in range(40)]
    for handle in handles:
        buckets.acquire(handle, 20.25, BIG)
        buckets.acquire(handle, 20.25, BIG)
        buckets.refund(handle, 1.25, BIG)
        buckets.settle(handle, 1.25, 30.25, BIG)
        buckets.level(handle, BIG)
        buckets.time_until(handle, 2.25, BIG)
        buckets.is_full(handle, BIG)
        buckets.configure(handle, 11.5, 21.5, BIG)
        buckets.remove(handle)


def refuse_in_heap() -> None:
    heap = IndexedHeap(4)
    handle = heap.push(BIG)
    text: Any = "a number"
    refused: list[Callable[[], Any]] = [
        partial(IndexedHeap, 0),
        partial(IndexedHeap, text),
        partial(heap.push, 2**63),
        partial(heap.push, text),
        partial(heap.rekey, handle, -(2**63) - 1),
        partial(heap.rekey, -1, 1),
        partial(heap.remove, 2**64),
        partial(heap.remove, text),
        partial(heap.key_of, text),
        partial(heap.pop_due, text),
    ]
    for call in refused:
        with pytest.raises((ValueError, TypeError, OverflowError)):
            call()
    assert heap.pop_best() == (BIG, handle)


def refuse_in_buckets() -> None:
    buckets = BucketArray()
    handle = buckets.add(1, 2, 0)
    text: Any = "a number"
    refused: list[Callable[[], Any]] = [
        partial(buckets.add, -1, 1, 0),
        partial(buckets.add, text, 1, 0),
        partial(buckets.add, 1, 1, 2**63),
        partial(buckets.acquire, handle, -1, 0),
        partial(buckets.acquire, handle, text, 0),
        partial(buckets.acquire, handle, 1, 2**63),
        partial(buckets.acquire, handle + 1, 1, 0),
        partial(buckets.remove, -1),
        partial(buckets.configure, handle, 1, float("nan"), 0),
    ]
    for call in refused:
        with pytest.raises((ValueError, TypeError, OverflowError, KeyError)):
            call()
    assert buckets.level(handle, 0) == 2


def blocks_gained(work: Callable[[], None], rounds: int) -> int:
    """Python's memory blocks after so many rounds, less those before. Always 0 where Python
    allocates by malloc, as `make debug` has it: there AddressSanitizer looks at the memory."""
    for _ in range(3):
        work()  # fills what is filled once: caches, free lists
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(rounds):
        work()
    gc.collect()
    return sys.getallocatedblocks() - before


@pytest.mark.parametrize("work", [exercise_heap, exercise_buckets])
def test_use_leaves_no_memory_behind(work: Callable[[], None]) -> None:
    assert blocks_gained(work, ROUNDS // 20) <= BLOCKS_SLACK


@pytest.mark.parametrize("work", [refuse_in_heap, refuse_in_buckets])
def test_errors_leave_no_memory_behind(work: Callable[[], None]) -> None:
    assert blocks_gained(work, ROUNDS // 20) <= BLOCKS_SLACK


def test_no_reference_to_what_is_passed_in_is_kept_or_lost() -> None:
    heap, buckets = IndexedHeap(ROUNDS), BucketArray()
    key, rate, now_ns = BIG + 1, 10.5, BIG + 2
    handle, bucket = heap.push(key), buckets.add(rate, rate, now_ns)
    passed = (key, rate, now_ns, handle, bucket)
    before = [sys.getrefcount(each) for each in passed]
    for _ in range(ROUNDS):
        heap.push(key)
        heap.rekey(handle, key)
        heap.key_of(handle)
        buckets.add(rate, rate, now_ns)
        buckets.acquire(bucket, rate, now_ns)
        buckets.settle(bucket, rate, rate, now_ns)
        with pytest.raises(TypeError):
            heap.push(heap)  # type: ignore[arg-type]
    assert [sys.getrefcount(each) for each in passed] == before
    assert sys.getrefcount(heap) == 2


def test_a_key_that_raises_while_it_is_read_leaves_the_heap_whole() -> None:
    class Raises:
        def __int__(self) -> int:
            heap.push(BIG)
            raise LookupError("no key")

    heap = IndexedHeap(10)
    handle = heap.push(1)
    for _ in range(3):
        with pytest.raises(LookupError):
            heap.rekey(handle, Raises())  # type: ignore[arg-type]
        with pytest.raises(LookupError):
            heap.push(Raises())  # type: ignore[arg-type]
    heap.check()
    assert len(heap) == 7
    assert heap.pop_best() == (1, handle)


def test_nothing_in_them_can_be_part_of_a_cycle() -> None:
    """They hold numbers only, so the collector need not know them."""
    assert not gc.is_tracked(IndexedHeap(1))
    assert not gc.is_tracked(BucketArray())


def test_the_memory_of_a_heap_is_told_and_bounded_by_what_it_held_at_once() -> None:
    heap = IndexedHeap(2**31 - 1)
    empty = sys.getsizeof(heap)
    for key in range(1000):
        assert heap.push(key)
    held = sys.getsizeof(heap)
    assert 1000 * 32 <= held - empty <= 1024 * 32 + 512
    while len(heap) > 3:  # few, as a debug build looks at all of them after every change
        heap.pop_worst()
    for key in range(1_000_000):
        heap.push(key)
        heap.pop_best()
    assert sys.getsizeof(heap) == held
    assert len(heap) == 3


def test_the_memory_of_buckets_is_told_and_bounded_by_what_there_was_at_once() -> None:
    buckets = BucketArray()
    handles = [buckets.add(1, 1, 0) for _ in range(1000)]
    held = sys.getsizeof(buckets)
    assert held >= 1000 * 40
    for handle in handles:
        assert buckets.remove(handle)
    for _ in range(100_000):
        assert buckets.remove(buckets.add(1, 1, 0))
    assert sys.getsizeof(buckets) == held
    assert len(buckets) == 0


def test_an_alarm_whose_action_raises_is_gone_and_the_others_remain() -> None:
    def fail(_: None, now_ns: int) -> None:
        raise LookupError("an action")

    def ring(_: None, now_ns: int) -> None:
        rung.append(now_ns)

    timers = Timers(8)
    rung: list[int] = []
    timers.set(1, ring)
    failing = timers.set(2, fail)
    for at_ns in (2, 3, 30):
        timers.set(at_ns, ring)
    with pytest.raises(LookupError):
        timers.fire(10)
    assert rung == [10]
    assert len(timers) == 3
    timers.cancel(failing)
    timers.fire(11)
    assert rung == [10, 11, 11]
    assert timers.next_ns() == 30


def test_alarms_that_raise_leave_no_memory_behind() -> None:
    def fail(_: None, now_ns: int) -> None:
        raise LookupError("an action")

    def work() -> None:
        timers = Timers(8)
        for at_ns in range(8):
            timers.set(BIG + at_ns, fail)
        for _ in range(8):
            with pytest.raises(LookupError):
                timers.fire(2 * BIG)
        assert len(timers) == 0

    before = sys.getrefcount(fail)
    assert blocks_gained(work, ROUNDS // 20) <= BLOCKS_SLACK
    assert sys.getrefcount(fail) == before
