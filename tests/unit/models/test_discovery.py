"""Discovery tells the engine what a backend says, and when it does not answer; time is a number."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing

from broker.core.errors import BackendFailed, BackendSilent, BackendUnreachable
from broker.core.ports import ModelFacts, Resident
from broker.core.stimuli import BackendSeen, ModelsListed, ResidentsSeen, Stimulus
from broker.models.catalog import Catalog
from broker.models.discovery import Discovery, DiscoveryPolicy
from tests.integration.fake_backend import FakeBackend

POLL_NS, CATALOG_NS, RETRY_NS, WATCH_NS = 5, 20, 2, 1


class Stage:
    """A discovery whose clock moves only as it sleeps."""

    def __init__(self) -> None:
        self.backend = FakeBackend("m:latest")
        self.heard: list[Stimulus] = []
        self.slept: list[int] = []
        self.slept_often = asyncio.Event()
        self.now_ns = 1000
        self.waits_for_ever = False
        policy = self.policy = DiscoveryPolicy(
            slots=3,
            poll_interval_ns=POLL_NS,
            catalog_interval_ns=CATALOG_NS,
            retry_interval_ns=RETRY_NS,
            watch_interval_ns=WATCH_NS,
        )
        self.is_watched = False
        self.heard_of: list[str] = []  # by who listens to the catalogue
        catalog = Catalog({})
        catalog.listener = self
        self.discovery = Discovery(
            self.backend,
            policy,
            catalog,
            self.heard.append,
            lambda: self.now_ns,
            self.sleep,
            lambda: self.is_watched,
        )

    async def sleep(self, duration_ns: int) -> None:
        if self.waits_for_ever:
            await asyncio.Event().wait()
        self.slept.append(duration_ns)
        if len(self.slept) == 4:
            self.slept_often.set()
        self.now_ns += duration_ns
        await asyncio.sleep(0)

    def listed(self, backend: str, facts: Sequence[ModelFacts]) -> None:
        self.heard_of.append("listed")

    def same(self, backend: str) -> None:
        self.heard_of.append("same")

    def forget(self, backend: str) -> None:
        self.heard_of.append("forget")

    def kinds(self) -> list[type]:
        return [type(each) for each in self.heard]


async def test_the_first_look_tells_everything_in_an_order_that_can_be_planned_with() -> None:
    stage = Stage()
    assert await stage.discovery.ask()
    assert stage.kinds() == [ModelsListed, ResidentsSeen, BackendSeen]
    listed, residents, seen = stage.heard
    assert isinstance(listed, ModelsListed)
    assert [(each.name, each.slots) for each in listed.models] == [("m:latest", 3)]
    assert isinstance(residents, ResidentsSeen)
    assert (residents.residents, residents.asked_ns) == ((), 1000)
    assert seen == BackendSeen("b", up=True)
    assert stage.discovery.version == "1.2.3"


async def test_the_catalogue_is_asked_for_seldom() -> None:
    stage = Stage()
    for _ in range(9):
        await stage.discovery.ask()
        stage.now_ns += POLL_NS
    assert stage.kinds().count(ResidentsSeen) == 9
    assert stage.kinds().count(ModelsListed) == 3


async def test_residents_are_as_old_as_the_question() -> None:
    stage = Stage()
    await stage.discovery.ask()

    async def slow() -> tuple[()]:
        stage.now_ns += 100
        return ()

    stage.backend.residents = slow  # type: ignore[method-assign]  # an answer that takes its time
    await stage.discovery.ask()
    told = [each for each in stage.heard if isinstance(each, ResidentsSeen)][-1]
    assert told.asked_ns == 1000


@pytest.mark.parametrize("problem", [BackendUnreachable("refused"), BackendFailed("garbage")])
async def test_a_backend_that_does_not_answer_is_down_with_a_reason(problem: BackendFailed) -> None:
    stage = Stage()
    stage.backend.problem = problem
    assert not await stage.discovery.ask()
    assert stage.heard == [BackendSeen("b", up=False, problem=problem.message)]


async def test_since_when_it_does_not_answer_is_kept_until_it_does() -> None:
    stage = Stage()
    assert stage.discovery.down_since_ns is None
    stage.backend.problem = BackendUnreachable("refused")
    for _ in range(2):
        await stage.discovery.ask()
        stage.now_ns += POLL_NS
    assert stage.discovery.down_since_ns == 1000
    stage.backend.problem = None
    await stage.discovery.ask()
    assert stage.discovery.down_since_ns is None


async def test_a_list_of_residents_that_times_out_makes_the_backend_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it says its version: what it holds is what placement and the load are judged by."""
    stage = Stage()
    assert await stage.discovery.ask()
    stage.heard.clear()

    async def silent() -> tuple[Resident, ...]:
        raise BackendFailed("/api/ps gave no answer within 25 s")

    with monkeypatch.context() as patched:
        patched.setattr(stage.backend, "residents", silent)
        assert not await stage.discovery.ask()
    assert stage.heard == [
        BackendSeen("b", up=False, problem="/api/ps gave no answer within 25 s"),
    ]
    assert await stage.discovery.ask()
    assert stage.heard[-1] == BackendSeen("b", up=True)


async def test_an_answer_the_broker_fails_on_does_not_end_the_loop() -> None:
    stage = Stage()
    version, failures = stage.backend.version, [ValueError("no sense"), ValueError("no sense")]

    async def odd() -> str:
        if failures:
            raise failures.pop()
        return await version()

    stage.backend.version = odd  # type: ignore[method-assign]  # what nobody foresaw
    with structlog.testing.capture_logs() as logged:
        task = asyncio.ensure_future(stage.discovery.run())
        waits = asyncio.ensure_future(stage.slept_often.wait())
        await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    problem = "the broker failed on its answer (ValueError: no sense)"
    down = BackendSeen("b", up=False, problem=problem)
    assert stage.heard[:2] == [down, down]
    assert BackendSeen("b", up=True) in stage.heard
    traces = [each for each in logged if each["event"] == "asking a backend failed"]
    assert [str(each["exc_info"]) for each in traces] == ["no sense"]
    assert stage.slept[:4] == [RETRY_NS, RETRY_NS, POLL_NS, POLL_NS]


async def test_what_it_has_is_asked_for_again_after_it_was_away() -> None:
    stage = Stage()
    await stage.discovery.ask()
    stage.backend.problem = BackendUnreachable("refused")
    await stage.discovery.ask()
    stage.backend.problem = None
    stage.heard.clear()
    await stage.discovery.ask()
    assert stage.kinds() == [ModelsListed, ResidentsSeen, BackendSeen]


async def test_it_asks_again_sooner_while_there_is_no_answer() -> None:
    stage = Stage()
    stage.backend.problem = BackendUnreachable("refused")
    task = asyncio.ensure_future(stage.discovery.run())
    await stage.discovery.was_asked.wait()
    assert stage.heard == [BackendSeen("b", up=False, problem="refused")]
    stage.backend.problem = None
    await stage.slept_often.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.slept[:2] == [RETRY_NS, POLL_NS]


@pytest.mark.parametrize(
    "field", [f"{each}_interval_ns" for each in ("poll", "catalog", "retry", "watch")]
)
def test_an_interval_of_nothing_would_ask_without_end(field: str) -> None:
    nothing: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match="positive"):
        DiscoveryPolicy(**nothing)


async def test_what_keeps_its_models_lists_them_at_each_look() -> None:
    """It costs one cheap call there, and a model that is gone is unknown at once."""
    stage = Stage()
    stage.backend.keeps_models = True
    for _ in range(3):
        await stage.discovery.ask()
    assert stage.kinds().count(ModelsListed) == 3


async def test_other_slots_and_tags_are_heard_of_at_once() -> None:
    """Not when the next look is due, which is far away here."""
    stage = Stage()
    stage.waits_for_ever = True
    task = asyncio.ensure_future(stage.discovery.run())
    await stage.discovery.was_asked.wait()
    stage.discovery.configure(stage.policy)
    stage.heard.clear()
    stage.discovery.configure(replace(stage.policy, slots=7))
    async with asyncio.timeout(30):
        while stage.kinds() != [ModelsListed, ResidentsSeen, BackendSeen]:  # noqa: ASYNC110
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    listed = stage.heard[0]
    assert isinstance(listed, ModelsListed)
    assert [each.slots for each in listed.models] == [7]


async def test_the_same_policy_again_asks_for_nothing() -> None:
    stage = Stage()
    await stage.discovery.ask()
    stage.discovery.configure(stage.policy)
    stage.heard.clear()
    await stage.discovery.ask()
    assert stage.kinds() == [ResidentsSeen, BackendSeen]


# A server that hangs as a whole


async def test_while_somebody_watches_what_it_has_is_asked_for_at_every_look() -> None:
    stage = Stage()
    stage.is_watched = True
    for _ in range(4):
        await stage.discovery.ask()
    assert stage.backend.listings == 4
    assert stage.kinds().count(ModelsListed) == 1, "what is the same is told once"
    assert stage.heard_of == [*["listed"], *["same"] * 3]
    stage.backend.facts = (replace(stage.backend.facts[0], digest="another"),)
    await stage.discovery.ask()
    assert stage.kinds().count(ModelsListed) == 2
    stage.now_ns += CATALOG_NS
    await stage.discovery.ask()
    assert stage.kinds().count(ModelsListed) == 3, "in its time it is told in any case"


async def test_it_looks_often_while_it_answers_and_somebody_watches() -> None:
    stage = Stage()
    task = asyncio.create_task(stage.discovery.run())
    stage.is_watched = True
    await stage.slept_often.wait()
    assert stage.slept[:4] == [WATCH_NS] * 4
    stage.is_watched = False
    stage.slept_often.clear()
    stage.slept.clear()
    await stage.slept_often.wait()
    assert stage.slept[1:4] == [POLL_NS] * 3
    task.cancel()


async def test_who_begins_to_watch_waits_for_no_interval() -> None:
    stage = Stage()
    stage.waits_for_ever = True
    task = asyncio.create_task(stage.discovery.run())
    await stage.discovery.was_asked.wait()
    stage.discovery.was_asked.clear()
    stage.is_watched = True
    stage.discovery.look_now()
    await stage.discovery.was_asked.wait()
    task.cancel()
    assert stage.backend.listings == 2


async def test_what_was_asked_before_a_wish_to_list_again_does_not_answer_it() -> None:
    stage = Stage()
    listed = asyncio.Event()

    async def models() -> tuple[ModelFacts, ...]:
        if not listed.is_set():
            listed.set()
            stage.discovery.list_again()  # while the answer is on its way
        return await FakeBackend.models(stage.backend)

    stage.backend.models = models  # type: ignore[method-assign]
    await stage.discovery.ask()
    await stage.discovery.ask()
    await stage.discovery.ask()
    assert stage.kinds().count(ModelsListed) == 2


async def looks(stage: Stage, *took_s: float, error: BackendFailed | None = None) -> list[bool]:
    """Rounds in which the version is not told, each after so long; which of them count as mute."""
    told = []
    for each in took_s:

        async def version(seconds: float = each) -> str:
            stage.now_ns += int(seconds * 1e9)
            raise error or BackendSilent("/api/version gave no answer")

        stage.backend.version = version  # type: ignore[method-assign]
        assert not await stage.discovery.ask()
        seen = stage.heard[-1]
        assert isinstance(seen, BackendSeen)
        assert not seen.up
        told.append(seen.is_mute)
    return told


async def test_what_takes_connections_and_says_nothing_for_long_is_told_again_and_again() -> None:
    stage = Stage()
    assert await stage.discovery.ask()
    assert await looks(stage, *[10.0] * 9) == [False, False, True] * 3


async def test_what_takes_no_connection_is_away_and_no_more() -> None:
    assert not any(await looks(Stage(), *[30.0] * 4, error=BackendUnreachable("nobody listens")))


async def test_silence_that_was_broken_begins_anew() -> None:
    stage = Stage()
    assert await looks(stage, 10.0, 10.0) == [False, False]
    assert await looks(stage, 1.0, error=BackendUnreachable("nobody listens")) == [False]
    assert await looks(stage, 10.0, 10.0, 10.0) == [False, False, True]
