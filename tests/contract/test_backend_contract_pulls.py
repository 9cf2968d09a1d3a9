"""What `core.ports.Backend` promises of models that come and go, held by every adapter."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker.core.errors import (
    BackendFailed,
    BackendRefused,
    BackendUnreachable,
    DiskFull,
    ModelUnknown,
    PullFailed,
)
from broker.core.model_name import comparison_key
from broker.core.ports import PullProgress, PullStep
from tests.contract.backend_stages import Stage

NAME = "smollm2:135m"  # 270 MB, which takes less than a tenth of a second of the simulator's time


async def names(stage: Stage) -> set[str]:
    return {comparison_key(each.name) for each in await stage.backend.models()}


async def refuses(stage: Stage) -> bool:
    """Does it keep its models? Then it says so."""
    if not stage.backend.keeps_models:
        return False
    with pytest.raises(BackendRefused, match="keeps its models"):
        await stage.backend.pull(NAME, lambda progress: None)
    with pytest.raises(BackendRefused, match="keeps its models"):
        await stage.backend.delete(stage.dialect.speaker)
    return True


async def test_a_model_is_downloaded_and_deleted(stage: Stage) -> None:
    if await refuses(stage):
        return
    heard = list[PullProgress]()
    await stage.backend.pull(NAME, heard.append)
    assert heard[0] == PullProgress(step=PullStep.MANIFEST)
    assert heard[-1].completed_bytes == heard[-1].total_bytes == 270_898_672
    done = [each.completed_bytes for each in heard]
    assert done == sorted(done)
    assert {each.step for each in heard} == set(PullStep)
    assert comparison_key(NAME) in await names(stage)
    await stage.backend.delete(NAME)
    assert comparison_key(NAME) not in await names(stage)
    with pytest.raises(ModelUnknown):
        await stage.backend.delete(NAME)


async def test_a_download_that_was_left_goes_on(stage: Stage) -> None:
    if await refuses(stage):
        return
    begun = asyncio.Event()
    heard = list[PullProgress]()

    def hear(progress: PullProgress) -> None:
        heard.append(progress)
        if progress.completed_bytes:
            begun.set()

    pull = asyncio.create_task(stage.backend.pull(NAME, hear))
    await begun.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    left_at = heard[-1].completed_bytes
    await stage.simulator.wait_until("files_coming", 0)
    heard.clear()
    await stage.backend.pull(NAME, hear)
    assert next(each for each in heard if each.total_bytes).completed_bytes >= left_at
    await stage.backend.delete(NAME)


async def test_each_failure_of_a_download_is_told_apart(stage: Stage) -> None:
    if await refuses(stage):
        return

    async def failing(name: str = NAME) -> BaseException:
        with pytest.raises((PullFailed, DiskFull, BackendFailed)) as raised:
            await stage.backend.pull(name, lambda progress: None)
        return raised.value

    for name in ("nobody/nothing", "a b"):
        unknown = await failing(name)
        assert isinstance(unknown, PullFailed)
        assert unknown.is_final
    for fault in ({"kind": "registry_down"}, {"kind": "pull_drop", "after": 10}):
        await stage.simulator.set_fault(**fault)
        dropped = await failing()
        assert isinstance(dropped, PullFailed)
        assert not dropped.is_final
    await stage.simulator.set_fault(kind="disk_full", after=10)
    assert isinstance(await failing(), DiskFull)
    await stage.simulator.set_fault(kind="pull_cut", after=10)
    assert isinstance(await failing(), BackendFailed)


async def test_a_server_that_is_away_neither_downloads_nor_deletes(stage: Stage) -> None:
    if await refuses(stage):
        return
    with closed_port() as port:
        backend = stage.dialect.adapter(f"127.0.0.1:{port}")
        try:
            with pytest.raises(BackendUnreachable):
                await backend.pull(NAME, lambda progress: None)
            with pytest.raises(BackendUnreachable):
                await backend.delete(stage.dialect.speaker)
        finally:
            await backend.close()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is ours and that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
