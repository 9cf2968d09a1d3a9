"""A list of models that is watched follows what becomes of them under the broker's back: a real
`brokerd` before a simulated Ollama where models are made, changed, copied and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from broker_client import AsyncClient, Draining, ModelList, ModelsState, TopicEvent
from tests.e2e.processes import PATIENCE_S, QUICK, SERVER, BrokerProcess, brokerd
from tests.integration.ollama_sim_process import Simulator, start_simulator

# Asked so seldom that only whoever watches can be the cause of what is seen in time.
SELDOM = """
[[backends]]
url = "127.0.0.1:{port}"
poll_interval_ms = 600_000
"""


class Ear:
    """A watcher that notes all that it is told."""

    def __init__(self, client: AsyncClient, **wanted: Any) -> None:
        self.lists: list[ModelList] = []
        self._client = client
        self._wanted = wanted
        self._news = asyncio.Condition()
        self.left = asyncio.Event()  # the broker has

    async def run(self) -> None:
        """Listens until the broker leaves."""
        try:
            async for found in self._client.watch_models(**self._wanted):
                async with self._news:
                    self.lists.append(found)
                    self._news.notify_all()
        except Draining:
            self.left.set()

    async def until(self, holds: Callable[[ModelList], bool]) -> ModelList:
        """The first list that this holds for, past ones too."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: any(map(holds, self.lists)))
        return next(each for each in self.lists if holds(each))

    async def until_told(self, name: str, kind: str) -> ModelList:
        return await self.until(
            lambda found: any((each.name, each.kind) == (name, kind) for each in found.changes)
        )

    def forget(self) -> None:
        """What was told so far is no news."""
        self.lists.clear()


def names(found: ModelList) -> set[str]:
    return {each.name for each in found.models}


async def told(simulator: Simulator, method: str, path: str, **body: Any) -> None:
    """Has the simulated Ollama do something, past the broker."""
    answer = await simulator.ask(method, path, body)
    assert answer.status == 200, answer.text


@asynccontextmanager
async def watched(
    folder: Path, settings: str = ""
) -> AsyncIterator[tuple[Simulator, BrokerProcess, list[Ear]]]:
    """A broker, and three who watch: everything, what is called so, and what was loaded."""
    async with AsyncExitStack() as stack:
        simulator = start_simulator("--speed", "50")
        stack.callback(simulator.stop)
        config = SERVER + QUICK + settings + SELDOM.format(port=simulator.port)
        broker = await stack.enter_async_context(brokerd(config, folder))
        address = (await broker.said("broker listening"))["grpc"]
        ears = []
        for wanted in ({"availability": "all"}, {"search": "mine"}, {"order": "size"}):
            client = await stack.enter_async_context(AsyncClient(address))
            ears.append(Ear(client, **wanted))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in ears]
            await ears[0].until(lambda found: len(found.models) > 1)
            yield simulator, broker, ears
            for each in running:
                each.cancel()


async def test_every_watcher_sees_what_becomes_of_models(tmp_path: Path) -> None:
    async with watched(tmp_path) as (simulator, _, ears):
        base = "tinyllama"
        await told(simulator, "POST", "/api/create", model="mine:1", **{"from": base})
        for each in ears:
            found = await each.until_told("mine:1", "added")
            assert "mine:1" in names(found)
            each.forget()
        before = next(each for each in found.models if each.name == "mine:1").digest
        other = {"from": base, "system": "You are another one."}
        await told(simulator, "POST", "/api/create", model="mine:1", **other)
        for each in ears:
            found = await each.until_told("mine:1", "changed")
            (mine,) = [model for model in found.models if model.name == "mine:1"]
            assert mine.digest != before
            each.forget()
        await told(simulator, "POST", "/api/copy", source="mine:1", destination="mine:2")
        for each in ears:
            assert {"mine:1", "mine:2"} <= names(await each.until_told("mine:2", "added"))
            each.forget()
        await told(simulator, "DELETE", "/api/delete", model="mine:1")
        for each in ears:
            found = await each.until_told("mine:1", "removed")
            assert "mine:1" not in names(found)
            each.forget()


async def test_a_model_deleted_and_made_anew_is_another_one(tmp_path: Path) -> None:
    async with watched(tmp_path) as (simulator, _, ears):
        await told(simulator, "POST", "/api/create", model="mine", **{"from": "tinyllama"})
        digests = set()
        for each in ears:
            found = await each.until_told("mine:latest", "added")
            digests |= {model.digest for model in found.models if model.name == "mine:latest"}
        await told(simulator, "DELETE", "/api/delete", model="mine")
        again = {"from": "tinyllama", "system": "Anew."}
        await told(simulator, "POST", "/api/create", model="mine", **again)
        for each in ears:
            found = await each.until(
                lambda found: any(
                    model.name == "mine:latest" and model.digest not in digests
                    for model in found.models
                )
            )
            kinds = {change.kind for change in found.changes if change.name == "mine:latest"}
            assert kinds <= {"changed", "added"}, "as one change, or as two"
            assert kinds


async def test_what_the_broker_itself_does_is_seen_without_a_look(tmp_path: Path) -> None:
    """A look is far off; what is deleted through the broker is listed anew at once."""
    unhurried = "[model_list]\nwatch_interval_ms = 60_000\n"
    async with watched(tmp_path, unhurried) as (_, broker, ears):
        async with AsyncClient((await broker.said("broker listening"))["grpc"]) as client:
            loading = client.load_model("tinyllama")
            await asyncio.gather(loading, ears[0].until_told("tinyllama:latest", "state"))
            await client.delete_model("tinyllama")
        for each in (ears[0], ears[2]):
            found = await each.until_told("tinyllama:latest", "removed")
            assert "tinyllama:latest" not in names(found)


async def test_what_is_loaded_is_told_and_the_topic_has_the_timestamp(tmp_path: Path) -> None:
    async with watched(tmp_path) as (simulator, broker, ears):
        address = (await broker.said("broker listening"))["grpc"]
        async with AsyncClient(address, agent_id="opus-1") as client:
            stamps: list[int] = []
            seen = asyncio.Event()

            async def listen() -> None:
                async for each in client.subscribe("models"):
                    if isinstance(each, TopicEvent) and isinstance(each.what, ModelsState):
                        stamps.append(each.what.changed_unix_ms)
                        seen.set()

            listening = asyncio.create_task(listen())
            await asyncio.wait_for(seen.wait(), PATIENCE_S)
            await client.generate(model="tinyllama", prompt="x", max_tokens=4)
            found = await ears[0].until(
                lambda found: any(
                    place.state == "resident" and model.name == "tinyllama:latest"
                    for model in found.models
                    for place in model.places
                )
            )
            assert ("tinyllama:latest", "state") in {
                (each.name, each.kind) for each in found.changes
            }
            first = stamps[-1]
            await told(simulator, "POST", "/api/copy", source="tinyllama", destination="mine")
            async with asyncio.timeout(PATIENCE_S):
                while stamps[-1] == first:
                    seen.clear()
                    await seen.wait()
            assert stamps == sorted(stamps)
            listening.cancel()


async def test_who_watches_hears_that_the_backend_and_then_the_broker_have_gone(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path) as (simulator, broker, ears):
        simulator.stop()
        for each in ears:
            found = await each.until(lambda found: any(not each.up for each in found.sources))
            (source,) = [each for each in found.sources if each.name != "library"]
            assert source.problem
        assert names(ears[0].lists[-1]), "what was known last is shown"
        broker.tell()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(each.left.wait() for each in ears))
        assert await broker.ended() == 0
