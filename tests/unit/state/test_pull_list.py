"""The file of the downloads that are not over: what is written is read, and nothing breaks it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.core.pull_entries import PullEntry
from broker.state.disk import RealDisk
from broker.state.pull_list import FILE_BYTES_MAX, PullList, file_name

ENTRY = PullEntry(
    name="llama3:8b",
    backend="gpu",
    agent_id="opus-1",
    asked_unix_ms=1_700_000_000_000,
    is_urgent=True,
    completed_bytes=5,
    total_bytes=10,
)
STEPS = ("create", "write", "sync", "replace", "sync_folder")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "pulls.json"


class FailingDisk(RealDisk):
    """Full, or gone, at one step."""

    def __init__(self, step: str) -> None:
        self.step = step

    def __getattribute__(self, name: str) -> object:
        if name in STEPS and name == object.__getattribute__(self, "step"):
            return _fail
        return super().__getattribute__(name)


class SlowDisk(RealDisk):
    """Its first write takes as long as it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.goes_on = threading.Event()

    def sync(self, file: int) -> None:
        if not self.began.is_set():
            self.began.set()
            assert self.goes_on.wait(30)
        super().sync(file)


def _fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


async def test_what_is_written_is_read(file: Path) -> None:
    pulls = PullList(file)
    assert pulls.read() == ()
    both = (ENTRY, replace(ENTRY, name="b", is_urgent=False))
    await pulls.write(both)
    assert PullList(file).read() == both
    await pulls.write(())
    assert PullList(file).read() == ()
    assert [each.name for each in file.parent.iterdir()] == ["pulls.json"]


async def test_the_last_that_was_asked_for_is_the_last_that_is_written(file: Path) -> None:
    pulls = PullList(file)
    await asyncio.gather(*(pulls.write((replace(ENTRY, total_bytes=n),)) for n in range(20)))
    assert PullList(file).read()[0].total_bytes == 19


async def test_a_caller_that_leaves_meanwhile_does_not_put_an_older_list_there(file: Path) -> None:
    disk = SlowDisk()
    pulls = PullList(file, disk)
    leaving = asyncio.ensure_future(pulls.write((ENTRY,)))
    await asyncio.to_thread(disk.began.wait, 30)
    leaving.cancel()
    others = [asyncio.ensure_future(pulls.write((ENTRY,) * each)) for each in (2, 3)]
    await asyncio.wait(others, timeout=0.01)
    assert not any(each.done() for each in others), "there is no room for two at once"
    disk.goes_on.set()
    await asyncio.gather(*others)
    assert PullList(file).read() == (ENTRY,) * 3
    assert leaving.cancelled()


@pytest.mark.parametrize("step", STEPS)
async def test_a_failed_write_leaves_what_was_there_and_is_told_once(file: Path, step: str) -> None:
    await PullList(file).write((ENTRY,))
    disk = FailingDisk(step)
    pulls = PullList(file, disk)
    with capture_logs() as logs:
        await pulls.write(())
        await pulls.write(())
    assert [each["log_level"] for each in logs] == ["warning"]
    assert PullList(file).read() in ((ENTRY,), ())
    assert [each.name for each in file.parent.iterdir()] == ["pulls.json"]
    disk.step = ""
    await pulls.write((ENTRY,))
    assert PullList(file).read() == (ENTRY,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "pulls": []}',
        b'{"version": 1, "pulls": [{"name": "m"}]}',
        b'{"version": 1, "pulls": [], "more": 1}',
        b" " * (FILE_BYTES_MAX + 1),
        b'{"version": 1, "pulls": [{"name": "m\xff"}]}',
    ],
    ids=["empty", "cut", "other", "version", "fields", "more", "large", "no text"],
)
def test_what_makes_no_sense_is_set_aside(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with capture_logs() as logs:
        assert PullList(file).read() == ()
    assert [each["log_level"] for each in logs] == ["warning"]
    assert [each.name for each in file.parent.iterdir()] == ["pulls.broken"]


def test_two_brokers_of_a_host_do_not_share_it() -> None:
    names = {file_name(each) for each in ("127.0.0.1:1", "127.0.0.1:2", "[::1]:1")}
    assert len(names) == 3
    assert all("/" not in each for each in names)
