"""Faults of a server that serves: it lies of what it holds, crawls, or has other guests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.fault_scene import LONG, MODEL, SHORT, Scene, scene, until

OTHER = "llama3.2:1b"
LISTS = 6  # so many times is what is listed a lie


async def _holds(at: Scene, *models: str) -> bool:
    """Does the broker believe that these and no others are loaded?"""
    held = {each.name.partition(":")[0] for each in (await at.at_rest()).backends[0].models}
    return held == {each.partition(":")[0] for each in models}


async def test_a_model_that_is_listed_and_gone_is_served(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="linger", model=MODEL, count=LISTS)
        await at.simulator.set_fault(kind="evict", model=MODEL)
        await at.simulator.wait_until("resident", [])
        heard = await asyncio.gather(*(at.ask(SHORT) for _ in range(4)))
        assert all(each.is_done for each in heard), heard
        await until(lambda: _holds(at, MODEL))
        await at.serves()


async def test_a_model_that_is_there_and_not_listed_is_served(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="hide", model=MODEL, count=LISTS)
        await until(lambda: _holds(at))
        heard = await asyncio.gather(*(at.ask(SHORT) for _ in range(4)))
        assert all(each.is_done for each in heard), heard
        await until(lambda: _holds(at, MODEL))
        await at.serves()


async def test_a_server_ten_times_as_slow_is_waited_for_and_stays_well(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        usual = (await at.ask(LONG)).events[-1]
        await at.simulator.set_fault(kind="slow", factor=10)
        slow, waiting = await at.in_flight_and_waiting()
        assert slow.is_done, slow.error
        assert waiting.is_done, waiting.error
        await at.simulator.set_fault(kind="slow", factor=1)
        again = (await at.ask(LONG)).events[-1]
        assert type(usual) is type(again)
        status = await at.at_rest()
        assert (status.backends[0].health, status.backends[0].loads_failed) == ("well", 0)


async def test_a_stranger_who_loads_again_and_again_costs_loads_and_nothing_else(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as at:
        asking = asyncio.create_task(_ask_many(at))
        while not asking.done():
            await at.simulator.ask("POST", "/api/generate", {"model": OTHER, "keep_alive": "1m"})
        assert asking.result() == 6
        await at.simulator.ask("POST", "/api/generate", {"model": OTHER, "keep_alive": 0})
        await at.serves()


async def _ask_many(at: Scene) -> int:
    """How many of six were served, one after the other."""
    return sum([(await at.ask(SHORT)).is_done for _ in range(6)])
