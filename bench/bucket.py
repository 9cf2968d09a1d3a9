"""The array of token buckets against a bucket written in plain Python, the clock passed in."""

from __future__ import annotations

import gc
import time
from math import ceil

from _sched.bucket import BucketArray

BUCKETS = 131  # as many agents as the fleet has
RATE_PER_S = 10.0
BURST = 20.0
# All of them in turn, each 1.5 times as often as its rate grants: so both answers are given.
STEP_NS = int(1e9 / (RATE_PER_S * 1.5) / BUCKETS)


class PlainBucket:
    """What one would write in Python, with the answers of `BucketArray.acquire`."""

    __slots__ = ("_at_ns", "_burst", "_level", "_per_ns")

    def __init__(self, rate_per_s: float, burst: float, now_ns: int) -> None:
        self._per_ns = rate_per_s / 1e9
        self._burst = burst
        self._level = burst
        self._at_ns = now_ns

    def acquire(self, amount: float, now_ns: int) -> int:
        elapsed_ns = now_ns - self._at_ns
        if elapsed_ns > 0:
            level = self._level + elapsed_ns * self._per_ns
            self._level = level if level < self._burst else self._burst
            self._at_ns = now_ns
        if amount <= self._level:
            self._level -= amount
            return 0
        if amount > self._burst:
            return -1
        return ceil((amount - self._level) / self._per_ns)


def array_ns(operations: int) -> tuple[float, int]:
    """(ns of processor time per acquire, how many were granted) of ours."""
    buckets = BucketArray()
    handles = [buckets.add(RATE_PER_S, BURST, 0) for _ in range(BUCKETS)]
    acquire, granted, now_ns = buckets.acquire, 0, 0
    gc.disable()
    try:
        started_ns = time.process_time_ns()
        for _ in range(operations // BUCKETS):
            for handle in handles:
                now_ns += STEP_NS
                if not acquire(handle, 1.0, now_ns):
                    granted += 1
        took_ns = time.process_time_ns() - started_ns
    finally:
        gc.enable()
    return took_ns / (operations // BUCKETS * BUCKETS), granted


def plain_ns(operations: int) -> tuple[float, int]:
    """The same of plain Python."""
    buckets = [PlainBucket(RATE_PER_S, BURST, 0) for _ in range(BUCKETS)]
    granted, now_ns = 0, 0
    gc.disable()
    try:
        started_ns = time.process_time_ns()
        for _ in range(operations // BUCKETS):
            for bucket in buckets:
                now_ns += STEP_NS
                if not bucket.acquire(1.0, now_ns):
                    granted += 1
        took_ns = time.process_time_ns() - started_ns
    finally:
        gc.enable()
    return took_ns / (operations // BUCKETS * BUCKETS), granted
