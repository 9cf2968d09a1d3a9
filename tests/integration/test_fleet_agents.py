"""The agents of the benchmark `fleet`, before a server whose every answer the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.fleet_agents import Way, collation, nothing
from bench.fleet_machine import Loads, Machine, SimulatedWording
from bench.scheduling_cells import CELLS
from broker.core.requests import Outcome
from broker.sim.workload import Task
from tests.integration.daemon import PATIENCE_S

DONE = b'{"response":"","done":true}\n'
WORD = b'{"response":"a","done":false}\n'
AT_ONCE, NEVER = 1e9, 1e-9  # how fast a minute of the fleet's is over


def task(number: int, model: str = "a") -> Task:
    return Task(
        at_ns=0,
        agent_id="agent",
        request_id=str(number),
        model=model,
        priority=5,
        prompt_tokens=1,
        output_tokens=2,
        output_tokens_max=2,
        patience_ns=1,
    )


class Server:
    """Answers each call when the test lets it; loads and unloads at once. `asked` is what came."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.status, self.ends_well = 200, True
        self.is_loading: str | None = None
        self._news = asyncio.Condition()

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        kind = {None: "call", -1: "load", 0: "unload"}[body.get("keep_alive")]
        async with self._news:
            self.asked.append(f"{kind} {body['model']}")
            self._news.notify_all()
        if kind != "call":
            return web.Response(body=DONE)
        await self.may_answer.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        return web.Response(body=WORD + (DONE if self.ends_well else b""))

    async def until(self, *asked: str) -> None:
        """Waits until exactly this has come, in this order."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: len(self.asked) >= len(asked))
        assert self.asked == list(asked)

    async def loads(self) -> Loads:
        return Loads(0, 0)

    async def loading(self) -> str | None:
        return self.is_loading


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    server = Server()
    application = web.Application()
    application.router.add_post("/api/generate", server.generate)
    async with TestServer(application) as listening:
        yield server, str(listening.make_url("")).rstrip("/")
        server.may_answer.set()


def machine(server: tuple[Server, str], speed: float) -> Machine:
    return Machine(server[1], speed, CELLS["1x2_rho09"], SimulatedWording(), server[0], None)


async def send(way: Way, each: Task, heard: list[str] | None = None) -> Outcome:
    words = [] if heard is None else heard
    async with asyncio.timeout(PATIENCE_S):
        return await way.send(each, lambda: words.append(each.request_id))


async def test_who_is_answered_says_so_once(server: tuple[Server, str]) -> None:
    heard: list[str] = []
    server[0].may_answer.set()
    async with nothing(machine(server, NEVER), sees_loads=False) as way:
        assert await send(way, task(1), heard) is Outcome.COMPLETED
    assert heard == ["1"]


async def test_an_answer_without_its_end_and_a_refusal_are_none(server: tuple[Server, str]) -> None:
    server[0].may_answer.set()
    server[0].ends_well = False
    async with nothing(machine(server, NEVER), sees_loads=False) as way:
        assert await send(way, task(1)) is Outcome.FAILED
        server[0].status = 503
        assert await send(way, task(2)) is Outcome.REFUSED
        server[0].status = 500
        assert await send(way, task(3)) is Outcome.FAILED


async def test_who_hears_nothing_gives_up(server: tuple[Server, str]) -> None:
    async with nothing(machine(server, AT_ONCE), sees_loads=False) as way:
        assert await send(way, task(1)) is Outcome.CANCELLED


async def test_who_sees_that_a_load_is_its_own_stays(server: tuple[Server, str]) -> None:
    stage = server[0]
    stage.is_loading = "a"
    async with nothing(machine(server, AT_ONCE), sees_loads=True) as way:
        other = asyncio.create_task(send(way, task(1, "b")))
        owner = asyncio.create_task(send(way, task(2)))
        follower = asyncio.create_task(send(way, task(3)))
        assert await other is Outcome.CANCELLED
        assert await follower is Outcome.CANCELLED
        stage.may_answer.set()
        assert await owner is Outcome.COMPLETED


async def test_collation_goes_on_with_a_model_until_nothing_of_it_runs(
    server: tuple[Server, str],
) -> None:
    stage = server[0]
    async with collation(machine(server, NEVER)) as way:
        first = asyncio.create_task(send(way, task(1)))
        await stage.until("load a", "call a")
        waits = asyncio.create_task(send(way, task(2, "b")))
        joins = asyncio.create_task(send(way, task(3)))
        await stage.until("load a", "call a", "call a")
        stage.may_answer.set()
        assert [await each for each in (first, joins, waits)] == [Outcome.COMPLETED] * 3
    await stage.until("load a", "call a", "call a", "unload a", "load b", "call b")


async def test_who_gives_up_before_its_model_is_there_is_not_sent_on(
    server: tuple[Server, str],
) -> None:
    stage = server[0]
    async with collation(machine(server, AT_ONCE)) as way:
        assert await send(way, task(1)) is Outcome.CANCELLED
        await stage.until("load a")
