"""What watchers of models are told: each change once, whatever it came with, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from broker.core.engine import Engine
from broker.core.errors import Draining, SubscribersFull
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView, Snapshot, take_snapshot
from broker.models.index import ModelIndex
from broker.models.known import KnownModel, base_of
from broker.models.query import ModelQuery
from broker.services import model_news
from broker.services.model_news import CHANGES_TOLD_MAX, ModelNews, Watcher
from tests.unit.services.test_system_topics import RESIDENT

PATIENCE_S = 30.0


def model(name: str, **changed: Any) -> KnownModel:
    """On the disk of backend b, whose runner for it is its digest."""
    digest = changed.pop("digest", f"digest of {name}")
    known = KnownModel(name=name, base=base_of(name), downloaded=True, size_bytes=1000)
    return replace(known, digest=digest, runners={"b": digest}, **changed)


class Shelf:
    """What a test leads: the models on disks, and what the backend holds."""

    def __init__(self, **settings: Any) -> None:
        self.index = ModelIndex()
        self.snapshot: Snapshot = take_snapshot(
            Engine(EnginePolicy(backends=(BackendPolicy(name="b"),))), 0
        )
        self.around: Hashable = ()
        self.began: list[bool] = []  # for each first watcher, whether it was seen to watch
        self.news = ModelNews(
            self.index,
            lambda: self.snapshot,
            surroundings=lambda: self.around,
            watchers_max=settings.get("watchers_max", 10),
            on_watched=lambda: self.began.append(self.news.is_watched),
        )

    def put(self, *models: KnownModel) -> None:
        """From now on these are there."""
        self.index.replace(1, local=models)

    def hold(self, *residents: ResidencyView, up: bool = True) -> None:
        """The backend holds these."""
        backend = replace(self.snapshot.backends[0], up=up, residents=residents)
        self.snapshot = replace(self.snapshot, backends=(backend,))


def resident(runner: str, **changed: Any) -> ResidencyView:
    return replace(RESIDENT, runner=runner, **changed)


async def told(watcher: Watcher) -> list[tuple[str, str]]:
    """What comes next, as name and kind."""
    await asyncio.wait_for(watcher.wait(), PATIENCE_S)
    return [(each.name, each.kind.value) for each in watcher.take()]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATHER_S", "PAUSE_S", "LOOK_INTERVAL_S"):
        monkeypatch.setattr(model_news, name, 0.001)


@pytest_asyncio.fixture
async def shelf() -> AsyncIterator[Shelf]:
    made = Shelf()
    yield made
    made.news.close()


async def test_what_becomes_of_models_is_told(shelf: Shelf) -> None:
    shelf.put(model("a:1"), model("b:1"))
    watcher = shelf.news.open(ModelQuery())
    assert watcher.take() == ()
    shelf.put(model("a:1"), model("b:1"), model("c:1"))
    assert await told(watcher) == [("c:1", "added")]
    shelf.put(model("b:1"), model("c:1"))
    assert await told(watcher) == [("a:1", "removed")]
    for change in (
        {"digest": "another"},
        {"size_bytes": 2},
        {"capabilities": frozenset({"tools"})},
        {"runners": {"b": "x", "elsewhere": "y"}},
    ):
        shelf.put(replace(model("b:1"), **change), model("c:1"))
        assert await told(watcher) == [("b:1", "changed")], change


async def test_what_is_the_same_as_before_is_no_change(shelf: Shelf) -> None:
    """But the list is told anew: of the library's models none is told apart."""
    shelf.put(model("a:1"))
    watcher = shelf.news.open(ModelQuery())
    shelf.put(model("a:1"))
    assert await told(watcher) == []


async def test_what_models_do_in_memory_is_told_but_not_how_many_run(shelf: Shelf) -> None:
    one, twin, other = model("a:1"), replace(model("a:2"), runners={"b": "w"}), model("c:1")
    shelf.put(replace(one, runners={"b": "w"}), twin, other)
    watcher = shelf.news.open(ModelQuery())
    shelf.hold(resident("w", state=ResidencyState.LOADING))
    names = await told(watcher)
    assert names == [("a:1", "state"), ("a:2", "state"), ("c:1", "state")], "b answers now"
    shelf.hold(resident("w"))
    assert await told(watcher) == [("a:1", "state"), ("a:2", "state")]
    shelf.hold(resident("w", running=3, queued=9))
    shelf.around = "a sign that it was looked"
    assert await told(watcher) == []
    shelf.hold(resident("w", memory_bytes=7))
    assert await told(watcher) == [("a:1", "state"), ("a:2", "state")]
    shelf.hold(up=False)
    assert len(await told(watcher)) == 3


async def test_several_changes_of_one_model_are_told_as_what_came_of_them(shelf: Shelf) -> None:
    shelf.put(model("a:1"))
    watcher, quick = shelf.news.open(ModelQuery()), shelf.news.open(ModelQuery())

    async def seen_by_the_other() -> None:
        await told(quick)

    shelf.put()
    await seen_by_the_other()
    shelf.put(model("a:1", digest="another"), model("b:1"))
    await seen_by_the_other()
    shelf.put(model("a:1", digest="another"))
    await seen_by_the_other()
    assert await told(watcher) == [("a:1", "changed")], "b:1 came and went"


async def test_only_what_is_watched_is_told(shelf: Shelf) -> None:
    able = frozenset({"tools"})
    watcher = shelf.news.open(ModelQuery(search="good", capabilities=able))
    shelf.put(model("good:1", capabilities=able), model("bad:1", capabilities=able))
    assert await told(watcher) == [("good:1", "added")]
    shelf.put(model("good:1"), model("good:2"))
    assert await told(watcher) == [("good:1", "changed")], "it was one of them"
    shelf.put()
    assert await told(watcher) == []


async def test_more_changes_than_are_told_or_kept_are_cut_to_the_last(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = shelf.news.open(ModelQuery())
    shelf.put(*(model(f"m:{number:05}") for number in range(CHANGES_TOLD_MAX + 7)))
    found = await told(watcher)
    assert len(found) == CHANGES_TOLD_MAX
    assert found[-1] == (f"m:{CHANGES_TOLD_MAX + 6:05}", "added")
    many = model_news.CHANGES_KEPT_MAX + 10
    shelf.put(*(model(f"n:{number:05}") for number in range(many)))
    assert len(await told(watcher)) == CHANGES_TOLD_MAX
    assert len(shelf.news._entries) == model_news.CHANGES_KEPT_MAX


async def test_a_source_that_is_others_than_before_is_told_too(shelf: Shelf) -> None:
    watcher = shelf.news.open(ModelQuery())
    before = shelf.news.revision
    shelf.around = "loading"
    assert await told(watcher) == []
    assert shelf.news.revision > before


async def test_nothing_is_looked_at_while_nobody_watches() -> None:
    shelf = Shelf()
    shelf.put(model("a:1"))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not shelf.news.is_watched
    assert shelf.news.seq == 0
    watcher = shelf.news.open(ModelQuery())
    assert shelf.began == [True]
    second = shelf.news.open(ModelQuery())
    assert shelf.began == [True]
    watcher.close()
    watcher.close()
    assert shelf.news.is_watched
    second.close()
    assert not shelf.news.is_watched
    assert shelf.news._routine is None
    shelf.put()
    late = shelf.news.open(ModelQuery())
    assert late.take() == ()
    assert shelf.began == [True, True]
    late.close()


async def test_who_comes_first_after_a_while_does_not_get_what_was_made_before(
    shelf: Shelf,
) -> None:
    watcher = shelf.news.open(ModelQuery())
    before = shelf.news.revision
    watcher.close()
    shelf.put(model("a:1"))
    shelf.news.open(ModelQuery())
    assert shelf.news.revision > before


async def test_as_many_watch_as_may() -> None:
    shelf = Shelf(watchers_max=2)
    first, _ = shelf.news.open(ModelQuery()), shelf.news.open(ModelQuery())
    with pytest.raises(SubscribersFull, match="watchers_max") as caught:
        shelf.news.open(ModelQuery())
    assert caught.value.retry_after_ns
    first.close()
    shelf.news.open(ModelQuery())
    shelf.news.close()


async def test_watchers_end_with_the_broker(shelf: Shelf) -> None:
    waits, reads = shelf.news.open(ModelQuery()), shelf.news.open(ModelQuery())
    waiting = asyncio.ensure_future(waits.wait())
    await asyncio.sleep(0)
    shelf.news.close()
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await reads.wait()
    with pytest.raises(Draining):
        shelf.news.open(ModelQuery())
