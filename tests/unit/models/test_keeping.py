"""The list is kept a while after it changed, and as the broker leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from broker.core.kept_models import KeptList, KeptModel, KeptTimes, KeptVariant
from broker.core.ports import ModelFacts
from broker.models.gathering import Gathering
from broker.models.index import ModelIndex
from broker.models.keeping import GATHER_NS, TIMES_NS, Keeping

PATIENCE_S = 30.0


class FakeKeeper:
    """Remembers what it is given; a write ends when the test lets it."""

    place = "nowhere"

    def __init__(self) -> None:
        self.kept: KeptList | None = None
        self.writes: asyncio.Queue[list[str]] = asyncio.Queue()
        self.times: asyncio.Queue[KeptTimes] = asyncio.Queue()
        self.has_room = True
        self.may_end = asyncio.Event()
        self.may_end.set()

    def read(self) -> KeptList | None:
        return self.kept

    async def write(self, models: Iterator[KeptModel], times: KeptTimes) -> bool:
        names = [each.name for each in models]
        await self.may_end.wait()
        self.writes.put_nowait(names)
        return self.has_room

    async def write_times(self, times: KeptTimes) -> bool:
        self.times.put_nowait(times)
        return True


class Stage:
    def __init__(self) -> None:
        self.index = ModelIndex()
        self.gathering = Gathering(self.index, lambda: {"a": "u"}, lambda: 1_000)
        self.keeper = FakeKeeper()
        self.sleeps: asyncio.Queue[tuple[int, asyncio.Event]] = asyncio.Queue()
        self.keeping = Keeping(self.gathering, self.keeper, self._sleep)

    async def _sleep(self, duration_ns: int) -> None:
        over = asyncio.Event()
        self.sleeps.put_nowait((duration_ns, over))
        await over.wait()

    async def end_sleep(self, duration_ns: int) -> None:
        """Lets the next sleep of this length end."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                length, over = await self.sleeps.get()
                if length == duration_ns:
                    over.set()
                    return

    def listed(self, *names: str) -> None:
        facts = [ModelFacts(name=each, runner="r", digest=each, size_bytes=1) for each in names]
        self.gathering.listed("a", facts)


async def test_changes_that_come_together_are_one_write() -> None:
    stage = Stage()
    task = asyncio.ensure_future(stage.keeping.run())
    stage.listed("x:1b")
    stage.listed("x:1b", "y:1b")
    await stage.end_sleep(GATHER_NS)
    assert await asyncio.wait_for(stage.keeper.writes.get(), PATIENCE_S) == ["x", "y"]
    stage.listed("z:1b")
    await stage.end_sleep(GATHER_NS)
    assert await asyncio.wait_for(stage.keeper.writes.get(), PATIENCE_S) == ["z"]
    assert stage.keeping.writes == 2
    task.cancel()


async def test_without_a_change_only_the_age_is_brought_up_to_date() -> None:
    stage = Stage()
    task = asyncio.ensure_future(stage.keeping.run())
    await stage.end_sleep(TIMES_NS)
    await asyncio.wait_for(stage.keeper.times.get(), PATIENCE_S)
    assert stage.keeping.writes == 0
    task.cancel()


async def test_what_could_not_be_written_is_tried_again_without_another_change() -> None:
    stage = Stage()
    task = asyncio.ensure_future(stage.keeping.run())
    stage.keeper.has_room = False
    stage.listed("x:1b")
    await stage.end_sleep(GATHER_NS)
    assert await asyncio.wait_for(stage.keeper.writes.get(), PATIENCE_S) == ["x"]
    await stage.end_sleep(TIMES_NS)
    assert await asyncio.wait_for(stage.keeper.writes.get(), PATIENCE_S) == ["x"]
    stage.keeper.has_room = True
    await stage.end_sleep(TIMES_NS)
    assert await asyncio.wait_for(stage.keeper.writes.get(), PATIENCE_S) == ["x"]
    await stage.end_sleep(TIMES_NS)
    await asyncio.wait_for(stage.keeper.times.get(), PATIENCE_S)
    task.cancel()


async def test_what_could_not_be_written_is_tried_once_more_as_the_broker_leaves() -> None:
    stage = Stage()
    stage.keeper.has_room = False
    stage.listed("x:1b")
    await stage.keeping.close()
    stage.keeper.has_room = True
    await stage.keeping.close()
    await stage.keeping.close()
    assert stage.keeper.writes.qsize() == 2


async def test_as_the_broker_leaves_what_has_changed_is_written() -> None:
    stage = Stage()
    await stage.keeping.close()
    assert stage.keeper.writes.empty(), "nothing has changed"
    stage.listed("x:1b")
    await stage.keeping.close()
    assert stage.keeper.writes.get_nowait() == ["x"]


async def test_a_write_under_way_is_waited_for_as_the_broker_leaves() -> None:
    stage = Stage()
    task = asyncio.ensure_future(stage.keeping.run())
    stage.keeper.may_end.clear()
    stage.listed("x:1b")
    await stage.end_sleep(GATHER_NS)
    await asyncio.sleep(0)
    stage.listed("y:1b")
    closing = asyncio.ensure_future(stage.keeping.close())
    task.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    stage.keeper.may_end.set()
    await asyncio.wait_for(closing, PATIENCE_S)
    written = [stage.keeper.writes.get_nowait() for _ in range(stage.keeper.writes.qsize())]
    assert written[-1] == ["y"]
    assert stage.keeping.writes == len(written)


def test_what_was_kept_is_there_when_it_has_been_read() -> None:
    stage = Stage()
    stage.keeping.read()
    assert len(stage.index) == 0
    variants = (KeptVariant(name="x:1b"), KeptVariant(name="x:2b", downloaded=True))
    model = KeptModel(name="x", variants=variants)
    stage.keeper.kept = KeptList(models=[model], times=KeptTimes())
    stage.keeping.read()
    assert (stage.index.downloaded, stage.index.downloadable) == (1, 1)
