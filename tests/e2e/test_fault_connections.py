"""Faults of the way to a server: nobody listens, nothing comes back, everything is turned away."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker_client import BackendFailed, BrokerError, Requeued, TimedOut
from tests.e2e.fault_scene import LONG, QUICK, SHORT, scene
from tests.integration.ollama_sim_process import start_simulator


async def test_a_server_that_is_gone_refuses_and_is_found_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="go_silent", after=20)
        running = asyncio.create_task(at.ask(LONG, on_interruption="restart", request_id="lost"))
        waiting = asyncio.create_task(at.ask(SHORT))
        await at.simulator.wait_until("active", 1)
        at.simulator.stop()  # every connection breaks, and nobody listens any more
        await at.broker.said("backend does not answer")
        status = await at.broker.until_status(lambda status: not status.backends[0].up)
        assert "Connection refused" in status.backends[0].problem
        port = at.simulator.port
        at.simulator.process = start_simulator("--speed", "5", "--port", str(port)).process
        assert (await running).is_done
        assert (await waiting).is_done
        await at.serves()
        assert "lost" in await at.explained(await running)


async def test_a_connection_reset_before_a_token_costs_another_attempt_only(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        # What an idle connection meets is no attempt; there is one for each request.
        await at.simulator.set_fault(kind="reset", after=0, count=3)
        first, second = await asyncio.gather(at.ask(), at.ask())
        assert first.is_done, first.error
        assert second.is_done, second.error
        assert first.one_of(Requeued) or second.one_of(Requeued)
        await at.serves()
        assert "failed" not in await at.broker.outcomes()


async def test_a_half_open_connection_is_given_up(tmp_path: Path) -> None:
    """The stream says nothing more, and nothing else is answered: not even what is loaded."""
    quick = QUICK.replace("[healing]", "[healing]\ngap_extra_s = 0.5")
    async with scene(tmp_path, config=quick) as at:
        await at.simulator.set_fault(kind="go_silent", after=20)
        running = asyncio.create_task(at.ask(LONG))
        await at.simulator.wait_until("active", 1)
        await at.simulator.set_fault(kind="half_open", count=0)
        heard = await running
        assert isinstance(heard.error, BackendFailed | TimedOut), heard
        assert heard.error.outcome == "failed"
        await at.simulator.ask("DELETE", "/sim/faults")
        await at.serves()


async def test_a_call_that_is_never_answered_is_given_up_in_time(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.simulator.set_fault(kind="go_silent", after=0)
        first, second = await asyncio.gather(at.ask(), at.ask())
        assert first.is_done, first.error
        assert second.is_done, second.error
        await at.serves()
        assert "TIMED_OUT" in await at.explained(first) + await at.explained(second)


async def test_a_storm_of_503_is_told_and_ends(tmp_path: Path) -> None:
    config = QUICK.replace("failures = 1000", "failures = 3")
    async with scene(tmp_path, config=config) as at:
        await at.simulator.set_fault(kind="busy", count=0)
        told = await asyncio.gather(*(at.ask() for _ in range(6)))
        assert all(isinstance(each.error, BrokerError) or each.is_done for each in told)
        assert any(each.error is not None for each in told)
        assert any("busy" in each.error.message for each in told if each.error is not None)
        await at.simulator.ask("DELETE", "/sim/faults")
        await at.serves()
        assert all(each.state == "closed" for each in (await at.at_rest()).backends[0].breakers)
