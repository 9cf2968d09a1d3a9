"""The indexed heap against Python's heapq and against C++'s std::priority_queue.

    python -m bench.heap indexed|heapq DEPTH OPERATIONS SEED

The hold model: at constant depth the best is popped and pushed back with a random later key. Keys
and steps are uniform in [0, 2**40), which is 18 minutes in ns. Time is the processor's, the
collector off on both sides: that spares heapq, whose tuples it would look at. Each side runs in a
process of its own, as C++ does: what one leaves of Python's memory would slow down the other.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from pathlib import Path

from _sched.heap import IndexedHeap
from bench.processes import output_of, printed_by

KEY_BITS = 40
REPEATS = 5  # as in hold.cpp
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
    """The least of REPEATS, as whatever disturbs makes it more."""
    steps = [chance.getrandbits(KEY_BITS) for _ in range(operations)]
    took_ns = []
    gc.disable()
    try:
        for _ in range(REPEATS):
            started_ns = time.process_time_ns()
            hold(steps)
            took_ns.append(time.process_time_ns() - started_ns)
    finally:
        gc.enable()
    return min(took_ns) / operations


Hold = Callable[[int, int, int], Awaitable[float]]  # (depth, operations, seed) -> ns


def in_process(side: str, core: int) -> Hold:
    """Ours ("indexed") or heapq ("heapq"), in a fresh process on this core."""

    async def hold(depth: int, operations: int, seed: int) -> float:
        arguments = ["-m", "bench.heap", side, str(depth), str(operations), str(seed)]
        return float(await output_of(arguments, core=core))

    return hold


@asynccontextmanager
async def cpp(core: int) -> AsyncIterator[Hold | str]:
    """The same of std::priority_queue, compiled with -O3; where that cannot be, why."""
    compiler = next((found for each in COMPILERS if (found := shutil.which(each))), None)
    if compiler is None:
        yield f"there is no C++ compiler here ({', '.join(COMPILERS)})"
        return
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "hold")
        try:
            await printed_by(compiler, ["-std=c++17", "-O3", "-o", program, str(SOURCE)])
        except RuntimeError as error:
            yield f"{SOURCE.name} is not compiled: {error}"
            return

        async def hold(depth: int, operations: int, seed: int) -> float:
            arguments = [str(depth), str(operations), str(seed)]
            printed = await printed_by(program, arguments, core=core)
            return float(printed.split()[0])

        yield hold


SIDES = {"indexed": indexed_ns, "heapq": heapq_ns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    for name in ("depth", "operations", "seed"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    print(SIDES[options.side](options.depth, options.operations, options.seed))


if __name__ == "__main__":
    main()
