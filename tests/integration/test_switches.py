"""Loads and unloads against a backend that fails in the middle of them: what the engine is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from broker.core.effects import Load, Unload
from broker.core.errors import BackendFailed, BackendUnreachable, BrokerError, LoadFailed
from broker.core.ports import Resident
from broker.core.stimuli import LoadEnded, ResidentsSeen, Stimulus, UnloadEnded
from broker.runtime.clock import LoopClock
from broker.runtime.streams import Done
from broker.runtime.switches import SwitchLimits, run_load, run_unload
from tests.integration.fake_backend import FakeBackend
from tests.integration.shell import read, running_shell

LOAD = Load("b", "blob-m", "m:latest", None)
AT_ONCE = SwitchLimits(load_timeout_s=0.0, look_timeout_s=0.0)


class _Faulty(FakeBackend):
    """Loads what it is told to, but says so wrongly or never."""

    def __init__(self, *, is_done: bool = True, never_says: bool = False) -> None:
        super().__init__("m:latest")
        self.is_done = is_done
        self.never_says = never_says
        self.never_lists = False
        self.says: BrokerError | None = None
        self.look_problem: BrokerError | None = None
        self.looks = 0

    async def load(self, model: str, *, num_ctx: int | None, keep_alive_s: int) -> None:
        if self.is_done:
            await super().load(model, num_ctx=num_ctx, keep_alive_s=keep_alive_s)
        if self.never_says:
            await asyncio.Event().wait()
        if self.says is not None:
            raise self.says

    async def residents(self) -> tuple[Resident, ...]:
        self.looks += 1
        if self.never_lists:
            await asyncio.Event().wait()
        if self.look_problem is not None:
            raise self.look_problem
        return await super().residents()


async def _outcome(backend: FakeBackend, limits: SwitchLimits) -> LoadEnded:
    """The one word that ends the load; looks come before it."""
    told = list[Stimulus]()
    await run_load(LOAD, backend, limits, LoopClock(), told.append)
    *looks, end = told
    assert all(isinstance(each, ResidentsSeen) for each in looks)
    assert isinstance(end, LoadEnded)
    return end


async def test_a_load_whose_result_cannot_be_looked_at_is_loaded_all_the_same() -> None:
    backend = _Faulty()
    for problem in (BackendFailed("too slow"), BackendUnreachable("closed")):
        backend.look_problem = problem
        assert (await _outcome(backend, SwitchLimits())).error is None
    backend.never_lists = True
    assert (await _outcome(backend, SwitchLimits(look_timeout_s=0.0))).error is None


async def test_a_load_that_was_done_counts_though_its_call_was_too_slow_or_broke() -> None:
    limits = SwitchLimits(load_timeout_s=0.0)
    assert (await _outcome(_Faulty(never_says=True), limits)).error is None
    backend = _Faulty()
    backend.says = BackendFailed("cut off")
    assert (await _outcome(backend, SwitchLimits())).error is None


async def test_a_load_that_failed_is_told_so_after_a_look() -> None:
    backend = _Faulty(is_done=False)
    backend.says = BackendFailed("invalid file magic")
    error = (await _outcome(backend, SwitchLimits())).error
    assert isinstance(error, LoadFailed)
    assert "invalid file magic" in error.message
    assert backend.looks == 1


async def test_a_load_that_took_too_long_and_cannot_be_looked_at_has_failed() -> None:
    backend = _Faulty(is_done=False, never_says=True)
    backend.never_lists = True
    assert isinstance((await _outcome(backend, AT_ONCE)).error, LoadFailed)


async def test_a_server_that_takes_no_connection_is_not_asked_what_it_holds() -> None:
    backend = _Faulty(is_done=False)
    backend.says = BackendUnreachable("refused")
    assert (await _outcome(backend, SwitchLimits())).error is backend.says
    assert backend.looks == 0


async def test_a_renewal_under_way_is_closed_before_the_unload_is_sent() -> None:
    async with running_shell("a:latest", "b:latest", keep_alive_ns=100_000_000) as shell:
        first = shell.submit("r1", model="a:latest")
        (await shell.backend.calls.get()).complete()
        await read(first, Done)
        shell.backend.hanging.add("a:latest")
        assert await shell.backend.hung.get() == "a:latest"
        second = shell.submit("r2", model="b:latest")
        (await shell.backend.calls.get()).complete()
        await read(second, Done)
        assert set(shell.backend.story[:-1]) == {"a:latest closed"}
        assert shell.backend.story[-1] == "a:latest unloaded"


class _Renaming(FakeBackend):
    """A runner that lists itself under another name of its model after it was told to leave."""

    def __init__(self) -> None:
        super().__init__("m:latest")
        self.loaded["m:latest"] = 4096
        self.rows_left = 2

    async def unload(self, model: str) -> None:
        self.unloads.append(model)

    async def residents(self) -> tuple[Resident, ...]:
        rows = await super().residents()
        if not self.unloads:
            return rows
        self.rows_left -= 1
        return tuple(replace(each, name="alias:latest") for each in rows if self.rows_left >= 0)


async def test_a_model_that_is_listed_under_another_name_has_not_left() -> None:
    backend, told = _Renaming(), list[Stimulus]()
    effect = Unload("b", "blob-m", "m:latest")
    await run_unload(effect, backend, SwitchLimits(), LoopClock(), told.append)
    looks = [each.residents for each in told if isinstance(each, ResidentsSeen)]
    assert [len(each) for each in looks] == [1, 1, 1, 0]
    assert told[-1] == UnloadEnded("b", "blob-m", None)


async def test_a_hung_load_that_nobody_waits_for_gives_way_to_another() -> None:
    async with running_shell("a:latest", "b:latest") as shell:
        shell.backend.hanging.add("a:latest")
        first = shell.submit("r1", model="a:latest")
        await shell.backend.hung.get()
        second = shell.submit("r2", model="b:latest")
        shell.driver.leave(first)
        (await shell.backend.calls.get()).complete()
        await read(second, Done)
        assert shell.backend.story == ["a:latest closed"]


async def test_a_load_that_is_aborted_before_its_first_step_ends_as_well() -> None:
    async with running_shell("a:latest", "b:latest") as shell:
        first = shell.submit("r1", model="a:latest")
        second = shell.submit("r2", model="b:latest")
        shell.driver.leave(first)  # the load's task has not run yet
        (await shell.backend.calls.get()).complete()
        await read(second, Done)
        assert shell.backend.loads == ["b:latest"]
