"""Faults of the broker's own host: it is stopped, its clock jumps, names are gone, or files."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.backends.ollama import OllamaBackend
from broker.config.schema import Config
from broker.config.serving import BackendConfig
from broker.runtime.clock import LoopClock
from broker_client import AsyncClient, Chunk, Event, NoBackend
from tests.e2e.fault_scene import IDLE_MAX, LONG, MODEL, scene, until
from tests.e2e.processes import QUICK as QUICK_FILE
from tests.e2e.processes import SERVER, backend_table, brokerd
from tests.integration.daemon import FREE_PORTS, QUICK, RunningDaemon, running_daemon
from tests.integration.ollama_sim_process import start_simulator


async def test_a_broker_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """Longer than any client is silent, and than a frozen stream may be: what came meanwhile is
    read first."""
    async with scene(tmp_path) as at:
        stopped = asyncio.Event()

        def stop(event: Event) -> None:
            if isinstance(event, Chunk) and not stopped.is_set():
                at.broker.tell(signal.SIGSTOP)
                stopped.set()

        running = asyncio.create_task(at.ask(LONG, on=stop))
        waiting = asyncio.create_task(at.ask())
        await stopped.wait()
        await asyncio.sleep(4.0)  # the fault itself
        at.broker.tell(signal.SIGCONT)
        assert (await running).is_done, (await running).error
        assert (await waiting).is_done, (await waiting).error
        await at.serves()
        assert set(await at.broker.outcomes()) == {"completed"}


async def test_a_server_that_hangs_as_a_whole_is_restarted_by_the_operators_command(
    tmp_path: Path,
) -> None:
    """It takes connections, so that nothing says that it is away; it is no server that is down."""
    simulator = start_simulator("--speed", "50", "--seed", "7")
    wake = f'restart_command = ["kill", "-CONT", "{simulator.process.pid}"]'
    hasty = "connect_timeout_ms = 100"  # each look takes that and five seconds
    table = backend_table(simulator.port, f"{wake}\n{hasty}")
    config = SERVER + QUICK_FILE + "[healing]\nmute_s = 1\n" + table
    try:
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            simulator.process.send_signal(signal.SIGSTOP)
            said = await broker.said("restarting a backend")
            assert said["command"][:2] == ["kill", "-CONT"]
            assert "gave no answer within" in (await broker.said("wedged"))["evidence"]
            again = await broker.until_status(lambda status: status.backends[0].up)
            assert again.backends[0].restarts == 1
    finally:
        simulator.process.send_signal(signal.SIGCONT)
        simulator.stop()


async def test_a_server_that_is_gone_is_started_again_where_its_operator_wants_that(
    tmp_path: Path,
) -> None:
    """The command starts another one; until then the broker has waited as long as it was told."""
    first = start_simulator("--speed", "50", "--seed", "7")
    pid_file = tmp_path / "pid"
    start = f"{sys.executable} -m broker.sim.ollama_sim --port {first.port} --speed 50"
    script = f"{start} >/dev/null 2>&1 & echo $! > {pid_file}"
    table = backend_table(first.port, f"restart_command = ['sh', '-c', '{script}']")
    config = SERVER + QUICK_FILE + "[healing]\nrestart_away_s = 1\n" + table
    try:
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            first.stop()
            said = await broker.said("wedged")
            assert "nobody has answered there for" in said["evidence"]
            await broker.said("restarting")
            await broker.said("restarted")
            again = await broker.until_status(lambda status: status.backends[0].up)
            assert again.backends[0].restarts == 1
    finally:
        first.stop()
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), signal.SIGTERM)


async def test_a_broker_without_descriptors_is_back_when_it_has_some(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        process = psutil.Process(at.broker.process.pid)
        limits = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # no further one
        await at.simulator.set_fault(kind="cut", after=3, count=0)  # so that it must connect anew
        cut = [await at.ask(deadline_s=1.0) for _ in range(IDLE_MAX)]
        assert all(each.error is not None for each in cut)
        await at.broker.said("backend does not answer")
        status = await at.broker.until_status(lambda status: not status.backends[0].up)
        assert "Too many open files" in status.backends[0].problem
        waiting = asyncio.create_task(at.ask())
        await at.simulator.ask("DELETE", "/sim/faults")
        process.rlimit(resource.RLIMIT_NOFILE, limits)
        await at.broker.said("backend answers", times=2)
        assert (await waiting).is_done, (await waiting).error
        await at.serves()


class Resolver:
    """In the place of the system's: one name resolves only while `works`."""

    name = "ollama.localhost"

    def __init__(self) -> None:
        self.works = False
        self._real: Callable[..., Any] = socket.getaddrinfo

    def __call__(self, host: Any, *more: Any, **named: Any) -> Any:
        if host not in (self.name, self.name.encode()):
            return self._real(host, *more, **named)
        if not self.works:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real("127.0.0.1", *more, **named)


@asynccontextmanager
async def in_this_process(host: str) -> AsyncIterator[tuple[RunningDaemon, AsyncClient]]:
    """A daemon whose backend is the simulator at `host`, and a client of it."""
    simulator = start_simulator("--speed", "5")
    backend = OllamaBackend(name="b", host=f"{host}:{simulator.port}")
    config = Config(
        server=FREE_PORTS,
        backends=(BackendConfig(name="b", poll_interval_ms=100, retry_interval_ms=100),),
        **QUICK,
    )
    try:
        async with (
            running_daemon(config, others={"b": backend}) as daemon,
            AsyncClient(f"127.0.0.1:{daemon.port}", agent_id="system-1", pace=False) as client,
        ):
            yield daemon, client
    finally:
        await backend.close()
        simulator.stop()


async def tasks_at_most(most: int) -> None:
    """No more tasks than that remain, once what has ended is gone."""

    async def holds() -> bool:
        return len(asyncio.all_tasks()) <= most

    await until(holds)


async def test_a_name_that_does_not_resolve_is_told_and_found_when_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    async with in_this_process(resolver.name) as (daemon, client):
        status = await daemon.until_status(lambda status: bool(status.backends[0].problem))
        assert "Name or service not known" in status.backends[0].problem
        with pytest.raises(NoBackend, match="Name or service not known"):
            await client.generate(model=MODEL, prompt="go", deadline_s=0.5)
        before = len(asyncio.all_tasks())
        waiting = asyncio.create_task(client.generate(model=MODEL, prompt="go", max_tokens=8))
        resolver.works = True
        await daemon.until_status(lambda status: status.backends[0].up)
        assert (await waiting).usage.output_tokens == 8
        assert (await client.generate(model=MODEL, prompt="go", max_tokens=8)).text
        await tasks_at_most(before + 1)  # the renewal of what is loaded now


async def test_a_clock_that_jumps_changes_nothing_but_dates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jumps = [0]
    unix_ns = LoopClock.unix_ns
    monkeypatch.setattr(LoopClock, "unix_ns", lambda clock: unix_ns(clock) + jumps[-1])
    async with in_this_process("127.0.0.1") as (daemon, client):
        await client.generate(model=MODEL, prompt="go", max_tokens=8)
        before = len(asyncio.all_tasks())
        for jump_ns in (-3_600_000_000_000, 86_400_000_000_000, 0):
            jumps.append(jump_ns)
            running = asyncio.create_task(client.generate(model=MODEL, prompt="go"))
            waiting = client.generate(model=MODEL, prompt="go", max_tokens=8)
            assert (await waiting).usage.output_tokens == 8
            assert (await running).finish_reason in ("stop", "length")
        assert await daemon.outcomes() == {"completed": 7}
        await tasks_at_most(before + 1)
