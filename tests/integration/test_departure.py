"""A broker that leaves takes along what it loaded, and nothing else."""

from __future__ import annotations

from broker.core.errors import BackendFailed
from broker.runtime.departure import give_back
from broker.runtime.streams import Done
from tests.integration.shell import Shell, read, running_shell


async def _serve_once(shell: Shell) -> None:
    reader = shell.submit()
    (await shell.backend.calls.get()).complete()
    await read(reader, Done)
    shell.driver.leave(reader)


async def test_what_the_broker_loaded_leaves_with_it() -> None:
    async with running_shell() as shell:
        await _serve_once(shell)
        assert list(shell.backend.loaded) == ["m:latest"]
        await give_back(shell.driver.snapshot(), {"b": shell.backend})
        assert shell.backend.loaded == {}


async def test_what_still_runs_stays() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        await give_back(shell.driver.snapshot(), {"b": shell.backend})
        assert list(shell.backend.loaded) == ["m:latest"]
        call.complete()
        await read(reader, Done)


async def test_a_backend_that_fails_does_not_hold_up_the_end() -> None:
    async with running_shell() as shell:
        await _serve_once(shell)
        shell.backend.problem = BackendFailed("no")
        await give_back(shell.driver.snapshot(), {"b": shell.backend})
        assert list(shell.backend.loaded) == ["m:latest"]
