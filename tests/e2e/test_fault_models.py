"""Faults of models: loads that die or hang, runners that freeze, what others do to models."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker_client import BackendFailed, Chunk, Event, LoadFailed, ModelUnknown, Requeued
from tests.e2e.fault_scene import LONG, QUICK, SHORT, Scene, scene, until

OTHER = "llama3.2:1b"
# What finds a frozen stream is its own usual gap, not the time-out.
BY_ITS_GAP = QUICK.replace("token_gap_s = 3", "token_gap_s = 60").replace(
    "[healing]", "[healing]\ngap_extra_s = 0.5"
)


async def test_a_load_that_dies_half_way_is_told_and_made_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="die_mid_load", model=OTHER)
        heard = await at.ask(model=OTHER)
        assert isinstance(heard.error, LoadFailed) or heard.is_done, heard
        waiting, other = await asyncio.gather(at.ask(model=OTHER), at.ask())
        assert waiting.is_done, waiting  # the client heard when it may come again
        assert other.is_done
        status = await at.at_rest()
        assert status.backends[0].loads_failed == 1


async def test_a_load_that_hangs_is_given_up_and_others_go_on(tmp_path: Path) -> None:
    async with scene(tmp_path, flags=("--max-loaded", "2"), backend="resident_max = 2") as at:
        await at.simulator.set_fault(kind="hang_load", model=OTHER)
        hung, beside = await asyncio.gather(at.ask(model=OTHER), at.ask())
        assert beside.is_done
        assert hung.is_done or isinstance(hung.error, LoadFailed), hung
        again = await at.ask(model=OTHER)
        assert again.is_done, again


async def test_a_frozen_model_is_noticed_cured_and_loaded_again(tmp_path: Path) -> None:
    async with scene(tmp_path, config=BY_ITS_GAP) as at:
        await at.simulator.set_fault(kind="freeze", after=100)
        frozen, waiting = await at.in_flight_and_waiting(on_interruption="restart")
        assert frozen.is_done, frozen.error
        assert frozen.one_of(Requeued)
        assert waiting.is_done, waiting.error
        await at.serves()
        assert "gave nothing for" in await at.explained(frozen)
        status = await at.at_rest()
        assert status.backends[0].health == "well"


async def test_a_frozen_model_fails_who_does_not_allow_another_attempt(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="freeze", after=100)
        frozen, waiting = await at.in_flight_and_waiting()
        assert isinstance(frozen.error, BackendFailed), frozen.error
        assert frozen.error.outcome == "failed"
        assert waiting.is_done, waiting.error
        await at.serves()


async def test_a_file_that_was_replaced_under_its_name_is_served(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="wrong_digest", model="tinyllama")
        first, second = await at.in_flight_and_waiting()
        assert first.is_done, first.error
        assert second.is_done, second.error
        await at.serves()


async def test_a_model_that_somebody_unloads_is_loaded_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        loads = (await at.at_rest()).backends[0].loads
        await at.simulator.set_fault(kind="evict", model="tinyllama")
        await at.simulator.wait_until("resident", [])
        await until(lambda: _has_no_model(at))
        await at.serves()
        assert (await at.at_rest()).backends[0].loads == loads + 1
        evicting = list[asyncio.Task[None]]()

        def evict(event: Event) -> None:
            if isinstance(event, Chunk) and not evicting:
                fault = at.simulator.set_fault(kind="evict", model="tinyllama")
                evicting.append(asyncio.create_task(fault))

        running, waiting = await asyncio.gather(at.ask(LONG, on=evict), at.ask(SHORT))
        await evicting[0]
        assert running.is_done, running.error  # Ollama unloads what is idle
        assert waiting.is_done, waiting.error
        await at.serves()


async def _has_no_model(at: Scene) -> bool:
    return not (await at.at_rest()).backends[0].models


async def test_a_model_deleted_while_it_is_queued_for_is_told_to_who_waits(tmp_path: Path) -> None:
    backend = "catalogue_interval_s = 1"
    async with scene(tmp_path, backend=backend) as at:
        deleting = list[asyncio.Task[None]]()

        def delete(event: Event) -> None:
            if isinstance(event, Chunk) and not deleting:
                fault = at.simulator.set_fault(kind="delete", model=OTHER)
                deleting.append(asyncio.create_task(fault))

        running = asyncio.create_task(at.ask(LONG, on=delete))
        waiting = await at.ask(model=OTHER)
        assert (await running).is_done
        await deleting[0]
        assert isinstance(waiting.error, ModelUnknown | LoadFailed) or waiting.is_done, waiting
        await until(lambda: _is_unknown(at))
        await at.serves()


async def _is_unknown(at: Scene) -> bool:
    return isinstance((await at.ask(model=OTHER)).error, ModelUnknown)
