"""A loop on a faster clock: a year of it passes while a test waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from bench.quick_loop import QuickClock, QuickLoop

YEAR_S = 365 * 24 * 3600
IN_A_BLINK = YEAR_S * 100.0


def run(speed: float, scene: Callable[[QuickClock], Coroutine[None, None, None]]) -> None:
    clock = QuickClock(speed)
    with asyncio.Runner(loop_factory=lambda: QuickLoop(clock)) as runner:
        runner.run(scene(clock))


def test_sleeps_and_timers_and_both_clocks_are_of_the_loops_own_time() -> None:
    async def a_year(clock: QuickClock) -> None:
        loop = asyncio.get_running_loop()
        rang = asyncio.Event()
        began_ns, began_s, began_unix_ns = clock.monotonic_ns(), loop.time(), clock.unix_ns()
        loop.call_later(YEAR_S, rang.set)
        await rang.wait()
        await clock.sleep(YEAR_S * 1_000_000_000)
        assert clock.monotonic_ns() - began_ns >= 2 * YEAR_S * 1_000_000_000
        assert clock.unix_ns() - began_unix_ns >= 2 * YEAR_S * 1_000_000_000
        assert loop.time() - began_s >= 2 * YEAR_S

    run(IN_A_BLINK, a_year)


def test_a_time_out_is_by_the_clock_too() -> None:
    async def late(clock: QuickClock) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(YEAR_S):
                await asyncio.Event().wait()

    run(IN_A_BLINK, late)


def test_what_is_ready_is_not_waited_for() -> None:
    async def ready(clock: QuickClock) -> None:
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(done.set_result, "soon")
        assert await done == "soon"

    run(0.001, ready)
