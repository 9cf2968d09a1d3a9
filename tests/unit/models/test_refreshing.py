"""The library is asked in the background, once at a time; a failure changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random

import pytest
from structlog.testing import capture_logs

from broker.core.kept_models import KeptBackend, KeptList, KeptModel, KeptTimes, KeptVariant
from broker.core.library import (
    Library,
    LibraryAway,
    LibraryFailed,
    LibraryModel,
    LibraryVariant,
    Transfer,
)
from broker.core.ports import ModelFacts
from broker.models.gathering import Gathering
from broker.models.index import Availability, Freshness, ModelIndex, ModelQuery, Order
from broker.models.refresh import HOUR_MS, RefreshPolicy
from broker.models.refreshing import LOOK_NS, Refreshing

MS = 1_000_000
PATIENCE_S = 30.0
MODEL = LibraryModel(name="x", variants=(LibraryVariant(name="x:1b"),), mark="m")
AWAY, BROKEN = LibraryAway("busy"), LibraryFailed("no listing")


class FakeLibrary:
    """Answers what a test puts there."""

    name = "fake"

    def __init__(self) -> None:
        self.transfer = Transfer()
        self.asked = 0
        self.asks: asyncio.Queue[int] = asyncio.Queue()
        self.known: list[dict[str, LibraryModel]] = []
        self.answers: asyncio.Queue[tuple[LibraryModel, ...] | Exception] = asyncio.Queue()

    async def models(self, known: Mapping[str, LibraryModel]) -> tuple[LibraryModel, ...]:
        self.asked += 1
        self.asks.put_nowait(self.asked)
        self.known.append(dict(known))
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing is open."""


class Stage:
    """One backend "a", a library, and a clock that a test moves."""

    def __init__(self, policy: RefreshPolicy | None = None, *, has_library: bool = True) -> None:
        self.now_ms = 100 * 24 * HOUR_MS
        self.index = ModelIndex()
        self.gathering = Gathering(self.index, lambda: {"a": "u"}, lambda: self.now_ms)
        self.library = FakeLibrary()
        self.problems: dict[str, str] = {}
        self.slept: asyncio.Queue[int] = asyncio.Queue()
        self.wake = asyncio.Event()
        self.looks: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        chance = Random(0)
        library: Library | None = self.library if has_library else None
        self.refreshing = Refreshing(
            self.gathering,
            library,
            policy or RefreshPolicy(),
            backends=lambda: ("a",),
            problems=lambda: self.problems,
            unix_ms=lambda: self.now_ms,
            sleep=self._sleep,
            chance=chance,
            file="/f",
        )

    async def _sleep(self, duration_ns: int) -> None:
        if duration_ns == LOOK_NS:
            look = asyncio.Event()
            self.looks.put_nowait(look)
            await look.wait()
            return
        self.slept.put_nowait(duration_ns // MS)
        await self.wake.wait()
        self.wake.clear()
        self.now_ms += duration_ns // MS

    def begin(self, age_ms: int | None) -> None:
        """With what the last run knew, so old."""
        then = None if age_ms is None else self.now_ms - age_ms
        models = [KeptModel(name="x", variants=(KeptVariant(name="x:1b"),), mark="m")]
        backends = {} if then is None else {"a": KeptBackend(url="u", listed_unix_ms=then)}
        times = KeptTimes(library_unix_ms=then, backends=backends)
        self.gathering.begin_with(KeptList(models=models, times=times))

    async def end_look(self) -> None:
        """The clock is looked at now."""
        (await asyncio.wait_for(self.looks.get(), PATIENCE_S)).set()
        await asyncio.sleep(0)

    async def next_wait_h(self) -> float:
        """What it sleeps for, in hours."""
        return await asyncio.wait_for(self.slept.get(), PATIENCE_S) / HOUR_MS

    def names(self) -> list[str]:
        query = ModelQuery(availability=Availability.ALL)
        return [each.name for each in self.index.page(query, Order.NAME, "", 10).models]


async def until_asked(library: FakeLibrary, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await library.asks.get() < times:
            pass


@pytest.mark.parametrize(
    ("age_h", "fresh", "asks", "loads"),
    [
        (1, Freshness.FRESH, False, False),
        (5.9, Freshness.FRESH, False, False),
        (6, Freshness.STALE, True, False),
        (23, Freshness.STALE, True, False),
        (24, Freshness.EXPIRED, True, True),
        (None, Freshness.EXPIRED, True, True),
    ],
)
async def test_what_a_start_does_by_the_age_of_what_it_finds(
    age_h: float | None, fresh: Freshness, asks: bool, loads: bool
) -> None:
    stage = Stage()
    stage.begin(None if age_h is None else int(age_h * HOUR_MS))
    stage.gathering.listed("a", [])
    assert stage.refreshing.state().freshness is fresh
    assert stage.names() == ["x:1b"], "it is used at once"
    task = asyncio.ensure_future(stage.refreshing.run())
    if asks:
        await until_asked(stage.library, 1)
        assert stage.refreshing.state().is_refreshing
        assert stage.index.is_loading is loads
        assert stage.library.known == [{"x": MODEL}], "what it said has a sign of its own"
        stage.library.answers.put_nowait((MODEL,))
        assert 6 <= await stage.next_wait_h() <= 6.6
    else:
        assert age_h is not None
        assert 6 - age_h <= await stage.next_wait_h() <= 6.6 - age_h
        assert stage.library.asked == 0
    state = stage.refreshing.state()
    assert state.freshness is Freshness.FRESH
    assert state.next_ms is not None
    assert not stage.index.is_loading
    task.cancel()


async def test_who_asks_while_it_is_asked_waits_for_the_same_answer() -> None:
    stage = Stage()
    asking = [asyncio.ensure_future(stage.refreshing.refresh()) for _ in range(3)]
    await until_asked(stage.library, 1)
    asking[0].cancel()  # who goes away takes nothing from the others
    stage.library.answers.put_nowait((MODEL,))
    assert await asyncio.gather(*asking[1:]) == [True, True]
    assert stage.library.asked == 1
    stage.library.answers.put_nowait((MODEL,))
    assert await stage.refreshing.refresh()
    assert stage.library.asked == 2


@pytest.mark.parametrize(
    ("error", "first_h"),
    [(AWAY, (15 / 3600, 30 / 3600)), (BROKEN, (0.5, 1)), (KeyError("bug"), (0.5, 1))],
)
async def test_a_failure_changes_nothing_and_is_tried_again_later(
    error: Exception, first_h: tuple[float, float]
) -> None:
    stage = Stage()
    stage.begin(25 * HOUR_MS)
    stage.gathering.listed("a", [])
    with capture_logs() as logs:
        task = asyncio.ensure_future(stage.refreshing.run())
        stage.library.answers.put_nowait(error)
        assert first_h[0] <= await stage.next_wait_h() <= first_h[1]
        state = stage.refreshing.state()
        assert (state.freshness, state.failed, state.refreshed) == (Freshness.EXPIRED, 1, 0)
        assert state.age_ms == 25 * HOUR_MS
        assert state.problem
        (backend, library) = stage.index.sources(stage.now_ms)
        assert (backend.name, backend.up) == ("a", True)
        assert (library.up, library.problem) == (False, state.problem)
        assert library.age_ms == 25 * HOUR_MS
        assert stage.names() == ["x:1b"]
        assert not stage.index.is_loading, "nothing is being loaded while it waits"
        stage.library.answers.put_nowait(error)
        stage.wake.set()
        await stage.next_wait_h()
        assert stage.library.asked == 2
        warned = [each for each in logs if each["log_level"] == "warning"]
        assert len(warned) == 1, "the same problem is told once"
        stage.library.answers.put_nowait((MODEL,))
        stage.wake.set()
        assert 6 <= await stage.next_wait_h() <= 6.6
        assert stage.refreshing.state().problem == ""
    task.cancel()


async def test_a_library_that_asks_for_a_pause_gets_it() -> None:
    stage = Stage()
    task = asyncio.ensure_future(stage.refreshing.run())
    stage.library.answers.put_nowait(LibraryAway("busy", retry_after_ns=7200 * 10**9))
    assert await stage.next_wait_h() == 2
    stage.library.answers.put_nowait(AWAY)
    stage.wake.set()
    assert await stage.next_wait_h() <= 60 / 3600
    task.cancel()


@pytest.mark.parametrize("later_h", [6, 100_000, -2, -100_000])
async def test_a_host_that_slept_or_whose_clock_was_set_asks(later_h: int) -> None:
    stage = Stage()
    stage.begin(HOUR_MS)
    stage.gathering.listed("a", [])
    run = asyncio.ensure_future(stage.refreshing.run())
    assert 5 <= await stage.next_wait_h() <= 5.5
    look = asyncio.ensure_future(stage.refreshing.watch_clock())
    for later_ms in (0, 4 * HOUR_MS, -4 * HOUR_MS):
        await stage.end_look()
        assert stage.library.asked == 0
        stage.now_ms += later_ms
    stage.now_ms += later_h * HOUR_MS
    await stage.end_look()
    await until_asked(stage.library, 1)
    stage.library.answers.put_nowait((MODEL,))
    assert 6 <= await stage.next_wait_h() <= 6.6
    await stage.end_look()
    assert stage.library.asked == 1
    for each in (run, look):
        each.cancel()


async def test_the_measured_speed_says_when_it_is_asked_again() -> None:
    stage = Stage()
    task = asyncio.ensure_future(stage.refreshing.run())
    await until_asked(stage.library, 1)
    stage.library.transfer = Transfer(received_bytes=3_600_000, receiving_ns=360 * 10**9)
    stage.library.answers.put_nowait((MODEL,))
    assert 10 <= await stage.next_wait_h() <= 11, (
        "six minutes are one part in a hundred of ten hours"
    )
    assert stage.refreshing.state().bytes_per_s == 10_000
    task.cancel()


async def test_a_file_here_is_read_at_each_start_and_looked_at_again_soon() -> None:
    stage = Stage(RefreshPolicy(is_local=True))
    stage.begin(0)
    task = asyncio.ensure_future(stage.refreshing.run())
    stage.library.answers.put_nowait((MODEL,))
    assert await stage.next_wait_h() * 60 <= 1.1
    assert stage.library.asked == 1
    task.cancel()


async def test_another_policy_holds_at_once() -> None:
    stage = Stage()
    stage.begin(HOUR_MS)
    task = asyncio.ensure_future(stage.refreshing.run())
    assert await stage.next_wait_h() > 4
    stage.refreshing.configure(RefreshPolicy(fresh_ms=HOUR_MS // 2, expired_ms=HOUR_MS))
    await until_asked(stage.library, 1)
    assert stage.refreshing.state().freshness is Freshness.EXPIRED
    task.cancel()
    stage.refreshing.close()


async def test_without_a_library_nothing_is_asked_and_backends_are_all() -> None:
    stage = Stage(has_library=False)
    await stage.refreshing.run()
    assert not await stage.refreshing.refresh()
    assert stage.library.asked == 0
    state = stage.refreshing.state()
    assert (state.freshness, state.age_ms, state.next_ms) == (Freshness.EMPTY, None, None)
    (source,) = stage.index.sources(stage.now_ms)
    assert (source.up, source.age_ms, source.freshness) == (False, None, Freshness.EMPTY)
    assert source.problem == "it has not answered yet"
    assert stage.index.is_loading
    stage.problems["a"] = "connection refused"
    assert not stage.index.is_loading, "it was asked, and does not answer"
    assert stage.index.sources(stage.now_ms)[0].problem == "connection refused"
    assert stage.refreshing.state().problem == "a: connection refused"
    stage.problems.clear()
    stage.gathering.listed("a", [ModelFacts(name="y:1b", runner="r", digest="d", size_bytes=1)])
    stage.now_ms += 7 * HOUR_MS
    (source,) = stage.index.sources(stage.now_ms)
    assert (source.up, source.age_ms, source.problem) == (True, 7 * HOUR_MS, "")
    state = stage.refreshing.state()
    assert (state.freshness, state.age_ms) == (Freshness.STALE, 7 * HOUR_MS)
    assert (state.downloaded, state.downloadable, state.file) == (1, 0, "/f")


async def test_a_backend_that_is_down_keeps_what_was_known_with_its_age() -> None:
    stage = Stage(has_library=False)
    facts = ModelFacts(name="y:1b", runner="r", digest="d", size_bytes=1)
    models = [
        KeptModel(
            name="y",
            variants=(
                KeptVariant(name="y:1b", downloaded=True, listed=False, backends={"a": facts}),
            ),
        )
    ]
    then = stage.now_ms - 30 * HOUR_MS
    times = KeptTimes(backends={"a": KeptBackend(url="u", listed_unix_ms=then)})
    stage.gathering.begin_with(KeptList(models=models, times=times))
    assert stage.index.is_loading, "it is being asked, and what there is is too old to go by"
    stage.problems["a"] = "connection refused"
    assert stage.names() == ["y:1b"]
    (source,) = stage.index.sources(stage.now_ms)
    assert (source.up, source.age_ms) == (False, 30 * HOUR_MS)
    assert source.freshness is Freshness.EXPIRED
    assert not stage.index.is_loading


async def test_what_is_known_of_a_backend_nobody_knows_since_when_is_old_and_not_nothing() -> None:
    stage = Stage(has_library=False)
    facts = ModelFacts(name="y:1b", runner="r", digest="d", size_bytes=1)
    variants = (KeptVariant(name="y:1b", downloaded=True, listed=False, backends={"a": facts}),)
    kept = KeptModel(name="y", variants=variants)
    assert stage.index.sources(stage.now_ms)[0].freshness is Freshness.EMPTY
    stage.gathering.begin_with(KeptList(models=[kept], times=KeptTimes()))
    (source,) = stage.index.sources(stage.now_ms)
    assert (source.age_ms, source.freshness) == (None, Freshness.EXPIRED)
    assert stage.index.is_loading


async def test_what_is_left_of_a_library_that_is_switched_off_says_so() -> None:
    stage = Stage(has_library=False)
    stage.begin(HOUR_MS)
    stage.gathering.listed("a", [])
    (_, library) = stage.index.sources(stage.now_ms)
    assert (library.up, library.age_ms) == (False, HOUR_MS)
    assert "configuration" in library.problem
    assert not stage.index.is_loading
