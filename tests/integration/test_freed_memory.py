"""A switch of models on a host with a GPU: the sensor is asked, and the next load waits for it."""

from __future__ import annotations

import asyncio

from broker.core.residency import ResidencyState
from broker.core.stimuli import GpusSensed
from broker.runtime.streams import Done
from tests.integration.shell import Shell, read, running_shell
from tests.unit.core.sensed import card, gpus

HELD_GB = 1200 / 1e9  # what the fake backend says that each of its models takes


def sense(shell: Shell, held_gb: float) -> None:
    """The sensor answers."""
    reading = gpus(card(held_gb, ours_gb=held_gb), at_ns=shell.driver.now_ns())
    shell.driver.feed(GpusSensed(reading))


async def test_the_next_load_waits_until_the_memory_is_seen_to_be_back() -> None:
    async with running_shell("a:latest", "b:latest", is_local=True) as shell:
        asked = asyncio.Event()
        shell.driver.sense_gpus = asked.set
        first = shell.submit("r1", model="a:latest")
        (await shell.backend.calls.get()).complete()
        await read(first, Done)
        await shell.discovery.ask()
        sense(shell, HELD_GB)
        second = shell.submit("r2", model="b:latest")
        await asked.wait()  # a was unloaded, and is not listed any more
        assert (shell.backend.unloads, shell.backend.loads) == (["a:latest"], ["a:latest"])
        (backend,) = shell.driver.snapshot().backends
        assert [each.state for each in backend.residents] == [ResidencyState.FREEING]
        sense(shell, 0.0)
        (await shell.backend.calls.get()).complete()
        await read(second, Done)
        assert shell.backend.loads == ["a:latest", "b:latest"]
