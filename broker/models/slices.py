"""Long work on the loop, a little at a time: the steps of a generator, with room between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Final, TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]

# How long the loop waits for one slice of work at most, but for the step that is under way when it
# is over; and how long the others then have.
SLICE_S: Final = 0.001
PAUSE_S: Final = 0.001


def at_once(steps: Steps[T]) -> T:
    """All of it, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


async def in_slices(
    steps: Steps[T], clock: Callable[[], float] = time.perf_counter, pause_s: float = PAUSE_S
) -> T:
    """All of it, with the loop's other work in between. What takes less than one slice is done when
    this is first awaited, without one."""
    ends = clock() + SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        if clock() >= ends:
            await asyncio.sleep(pause_s)
            ends = clock() + SLICE_S
