"""What was learned of the use of models, over a restart: the last of it is there, whole, whatever
fails and whoever leaves while it is written."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.core.preload import NOTHING_LEARNED, SLOTS, Learned, LearnedModel
from broker.state.disk import RealDisk
from broker.state.learned_habits import FILE_BYTES_MAX, LearnedHabits, file_name

EARLIER = Learned(
    days=(1.0,) * SLOTS,
    models=tuple(
        LearnedModel(model=f"m{each}", needs=(1.5,) * SLOTS, asked=2.0, successors=())
        for each in range(64)
    ),
)
LATER = NOTHING_LEARNED


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "habits.json"


class SlowDisk(RealDisk):
    """Its first write takes as long as it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.goes_on = threading.Event()

    def write(self, file: int, content: bytes) -> None:
        if not self.began.is_set():
            self.began.set()
            assert self.goes_on.wait(30)
        super().write(file, content)


class FullDisk(RealDisk):
    """Until it is told otherwise."""

    def __init__(self) -> None:
        self.is_full = True

    def write(self, file: int, content: bytes) -> None:
        if self.is_full:
            super().write(file, content[:10])
            raise OSError(28, "No space left on device")
        super().write(file, content)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def kept(habits: LearnedHabits, *learned: Learned) -> None:
    """All of these, each when the one before is written."""
    task = asyncio.create_task(habits.run())
    for each in learned:
        before = habits.written
        habits.keep(each)
        while habits.written == before:  # noqa: ASYNC110 - the writer's own thread
            await asyncio.sleep(0)
    await ended(task)


async def test_what_was_learned_is_there_for_the_next_one(file: Path) -> None:
    assert LearnedHabits(file).read() is None
    await kept(LearnedHabits(file), LATER, EARLIER)
    assert LearnedHabits(file).read() == EARLIER
    assert [each.name for each in file.parent.iterdir()] == [file.name]


async def test_who_leaves_while_it_is_written_leaves_the_last_of_it(file: Path) -> None:
    disk = SlowDisk()
    habits = LearnedHabits(file, disk)
    task = asyncio.create_task(habits.run())
    habits.keep(EARLIER)
    await asyncio.to_thread(disk.began.wait, 30)
    habits.keep(LATER)
    asyncio.get_running_loop().call_soon(disk.goes_on.set)
    with capture_logs() as logs:
        await ended(task)
    assert not logs
    assert LearnedHabits(file).read() == LATER
    assert [each.name for each in file.parent.iterdir()] == [file.name]


async def test_a_full_disk_leaves_what_was_there_and_is_told_once_each_time(file: Path) -> None:
    await kept(LearnedHabits(file), EARLIER)
    disk = FullDisk()
    habits = LearnedHabits(file, disk)
    with capture_logs() as logs:
        await kept(habits, LATER, LATER)
        assert LearnedHabits(file).read() == EARLIER
        disk.is_full = False
        await kept(habits, LATER)
        assert LearnedHabits(file).read() == LATER
        disk.is_full = True
        await kept(habits, EARLIER)
    assert len(logs) == 2
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe", b"[]", b'{"version":1}', b" " * (FILE_BYTES_MAX + 1)),
        b'{"version":1,"learned":{"days":[],"models":[]}}',
        b'{"version":2,"learned":{"days":[],"models":[{"model":"\xff"}]}}',
    ],
)
def test_what_makes_no_sense_is_set_aside(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with capture_logs() as logs:
        assert LearnedHabits(file).read() is None
    assert [each["log_level"] for each in logs] == ["warning"]
    assert [each.name for each in file.parent.iterdir()] == ["habits.broken"]


def test_two_brokers_of_a_host_do_not_share_it() -> None:
    assert file_name("127.0.0.1:1") != file_name("127.0.0.1:2")
