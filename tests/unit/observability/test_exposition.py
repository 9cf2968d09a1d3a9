"""The text of a scrape: whole, written beside the loop, and once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.core.events import BusCounts
from broker.core.level import Level
from broker.core.snapshot import take_snapshot
from broker.core.views import LevelView
from broker.observability import exposition
from broker.observability.exposition import Exposition, pieces
from broker.observability.prometheus import Picture, metrics_registry
from tests.unit.core.scene import model, serving

PATIENCE_S = 30.0
NORMAL = LevelView(
    level=Level.NORMAL,
    before=None,
    is_automatic=True,
    since_ns=0,
    until_ns=None,
    why="",
    load=None,
    parts=(),
    sensors=(),
    host=None,
    gpus=(),
)
QUIET = BusCounts(subscribers=0, subscribers_max=2_000, published={}, missed=0)


class SlowCollector(Collector):
    """Tells when the test lets it. Notes in which threads it was asked."""

    def __init__(self) -> None:
        self.may_tell = threading.Event()
        self.threads: list[str] = []

    def collect(self) -> Iterator[Metric]:
        self.threads.append(threading.current_thread().name)
        assert self.may_tell.wait(PATIENCE_S)
        yield GaugeMetricFamily("slow", "Is it told", value=len(self.threads))


class Stage:
    """An exposition over a collector that a test leads. Notes who took pictures."""

    def __init__(self) -> None:
        self.slow = SlowCollector()
        self.looks: list[str] = []
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self.slow)
        self.shown = Exposition(self.registry, self._look)

    def _look(self) -> Picture:
        self.looks.append(threading.current_thread().name)
        snapshot = take_snapshot(serving(model("m")).engine, 0)
        return Picture(snapshot=snapshot, level=NORMAL, firing=(), bus=QUIET)


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.slow.may_tell.set()
        stage.shown.close()


async def test_the_loop_goes_on_while_a_scrape_is_written() -> None:
    async with staged() as stage:
        scrape = asyncio.ensure_future(stage.shown.text())
        async with asyncio.timeout(PATIENCE_S):
            while not stage.slow.threads:  # noqa: ASYNC110 - it is another thread's
                await asyncio.sleep(0)
        assert not scrape.done()
        stage.slow.may_tell.set()
        text = await asyncio.wait_for(scrape, PATIENCE_S)
    assert b"\nslow 1.0\n" in text
    assert b"\nbroker_level 0.0\n" in text
    assert stage.looks == [threading.main_thread().name]
    assert stage.slow.threads == ["metrics_0"]


async def test_scrapes_at_the_same_time_are_one() -> None:
    async with staged() as stage:
        scrapes = [asyncio.ensure_future(stage.shown.text()) for _ in range(5)]
        await asyncio.sleep(0)
        scrapes[0].cancel()  # whose client goes away: the others are told all the same
        stage.slow.may_tell.set()
        texts = await asyncio.wait_for(asyncio.gather(*scrapes[1:]), PATIENCE_S)
        assert len(stage.looks) == len(stage.slow.threads) == 1
        assert len(set(texts)) == 1
        later = await asyncio.wait_for(stage.shown.text(), PATIENCE_S)
        assert b"\nslow 2.0\n" in later


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_pieces_make_what_the_whole_would(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "PIECE_SAMPLES", size)
    metrics_registry()  # leaves out when each series began
    registry = CollectorRegistry(auto_describe=False)
    waits = Histogram("waits", "Of two\nlines", ["model"], registry=registry)
    count = Counter("counts", "All", ["agent"], registry=registry)
    Counter("none", "Nobody", ["agent"], registry=registry)
    for number in range(7):
        waits.labels(f"m{number}").observe(number)
        count.labels(f'a"\n{number}').inc(number)
    assert b"".join(pieces(registry.collect())) == generate_latest(registry)
