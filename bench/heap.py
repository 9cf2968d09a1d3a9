"""The indexed heap against Python's heapq and against C++'s std::priority_queue.

The hold model: at constant depth the best is popped and pushed back with a random later key. Keys
and steps are uniform in [0, 2**40), which is 18 minutes in ns. Time is the processor's, the
collector off on both sides: that spares heapq, whose tuples it would look at.
"""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from pathlib import Path

from _sched.heap import IndexedHeap

KEY_BITS = 40
SOURCE = Path(__file__).parent / "hold.cpp"
COMPILERS = ("g++", "c++", "clang++")


def indexed_ns(depth: int, operations: int, seed: int) -> float:
    """ns per pop and push of ours, called from Python."""
    chance = random.Random(seed)
    heap = IndexedHeap(depth)
    for _ in range(depth):
        heap.push(chance.getrandbits(KEY_BITS))

    def hold(steps: Sequence[int]) -> None:
        pop_best, push = heap.pop_best, heap.push
        for step in steps:
            best = pop_best()
            assert best is not None
            push(best[0] + step)

    return _cpu_ns(hold, chance, operations)


def heapq_ns(depth: int, operations: int, seed: int) -> float:
    """The same of heapq with tuples (key, counter)."""
    chance = random.Random(seed)
    heap = [(chance.getrandbits(KEY_BITS), counter) for counter in range(depth)]
    heapify(heap)

    def hold(steps: Sequence[int]) -> None:
        counter = depth
        for step in steps:
            best = heappop(heap)
            heappush(heap, (best[0] + step, counter))
            counter += 1

    return _cpu_ns(hold, chance, operations)


def _cpu_ns(hold: Callable[[Sequence[int]], None], chance: random.Random, operations: int) -> float:
    steps = [chance.getrandbits(KEY_BITS) for _ in range(operations)]
    hold(steps[: operations // 10])  # caches and branches are warm
    gc.disable()
    try:
        started_ns = time.process_time_ns()
        hold(steps)
        return (time.process_time_ns() - started_ns) / operations
    finally:
        gc.enable()


Hold = Callable[[int, int, int], float]


@asynccontextmanager
async def cpp() -> AsyncIterator[Hold | str]:
    """The same of std::priority_queue, compiled with -O3; where that cannot be, why."""
    compiler = next((found for each in COMPILERS if (found := shutil.which(each))), None)
    if compiler is None:
        yield f"there is no C++ compiler here ({', '.join(COMPILERS)})"
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "hold"
        command = [compiler, "-std=c++17", "-O3", "-o", str(program), str(SOURCE)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, problem = await process.communicate()
        if process.returncode != 0:
            yield f"{compiler} does not compile {SOURCE.name}: {problem.decode().strip()[:300]}"
            return

        def hold(depth: int, operations: int, seed: int) -> float:
            arguments = [str(program), str(depth), str(operations), str(seed)]
            ran = subprocess.run(arguments, capture_output=True, text=True, check=True)
            return float(ran.stdout.split()[0])

        yield hold
