"""Real processes: what could be downloaded stands beside what is there, and never in its way."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from broker_client.pb.broker.v1 import inference_pb2, models_pb2, models_pb2_grpc
from tests.e2e.processes import PATIENCE_S, QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.library_site import library_site
from tests.integration.ollama_sim_process import Simulator, start_simulator

ALL = models_pb2.ModelFilter(availability=models_pb2.AVAILABILITY_ALL)
HERE_ONLY = models_pb2.ModelFilter()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    # Slow enough that what is loaded stays for the time of a test.
    started = start_simulator("--speed", "10", "--seed", "7")
    yield started
    started.stop()


def config(simulator: Simulator, library: str, more: str = "") -> str:
    return SERVER + QUICK + backend_table(simulator.port) + f"[library]\n{library}\n{more}"


def models(broker: BrokerProcess) -> models_pb2_grpc.ModelsAsyncStub:
    assert broker.channel is not None
    return models_pb2_grpc.ModelsStub(broker.channel)


async def listed(
    broker: BrokerProcess,
    holds: Callable[[models_pb2.ListResponse], bool],
    which: models_pb2.ModelFilter = ALL,
) -> models_pb2.ListResponse:
    """The first list that this holds for."""
    request = models_pb2.WatchRequest(page_size=500, filter=which)
    call = models(broker).Watch(request)
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for told in call:
                if holds(told.list):
                    return told.list
    finally:
        call.cancel()
    raise AssertionError("the watch ended")


def named(answer: models_pb2.ListResponse) -> dict[str, models_pb2.Model]:
    return {each.name: each for each in answer.models}


def has(name: str) -> Callable[[models_pb2.ListResponse], bool]:
    return lambda answer: name in named(answer)


async def test_off_nobody_is_asked(simulator: Simulator, tmp_path: Path) -> None:
    async with library_site() as site:
        text = config(simulator, f'url = "{site.url}"')
        async with brokerd(text, tmp_path) as broker:
            await listed(broker, lambda answer: len(answer.models) >= 6)
            assert site.asked == []
            assert [each.name for each in (await listed(broker, lambda _: True)).sources] == [
                "ollama"
            ]


async def test_what_could_be_downloaded_is_listed_with_its_size(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with library_site() as site:
        text = config(simulator, f'source = "web"\nurl = "{site.url}"')
        async with brokerd(text, tmp_path) as broker:
            answer = await listed(broker, has("deepseek-r1:671b"))
            model = named(answer)["deepseek-r1:671b"]
            assert (model.downloaded, model.size_bytes, model.size_text) == (
                False,
                404_000_000_000,
                "404 GB",
            )
            assert model.status_text == "⬇ Downloadable (404 GB)"
            assert set(model.capabilities) == {"completion", "tools", "thinking"}
            assert [each.bytes for each in model.memory] == [int(404_000_000_000 * 1.2)]
            here = named(await listed(broker, has("tinyllama:latest"), HERE_ONLY))
            assert all(
                each.downloaded and "✓ Downloaded (" in each.status_text for each in here.values()
            )
            assert "deepseek-r1:671b" not in here
            assert broker.plain == []


async def test_a_site_that_breaks_costs_nothing_of_what_is_known(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with library_site() as site:
        text = config(simulator, f'source = "web"\nurl = "{site.url}"')
        async with brokerd(text, tmp_path) as broker:
            await listed(broker, has("smollm2:360m"))
            broker.tell()
            assert await broker.ended() == 0
        site.first = lambda _: web.Response(status=500)
        site.asked.clear()
        grow_old(tmp_path / "cache", hours=30)
        async with brokerd(text, tmp_path) as broker:
            answer = await listed(broker, library_problem)
            assert site.asked == ["/library"]
            # From the last run, and it says so.
            assert named(answer)["smollm2:360m"].size_bytes == 726_000_000
            source = next(each for each in answer.sources if each.name == "library")
            assert (source.up, source.freshness) == (False, "expired")
            assert "answered 500" in source.problem
            assert "tinyllama:latest" in named(answer)


def library_problem(answer: models_pb2.ListResponse) -> bool:
    here = any(each.downloaded for each in answer.models)
    return here and any(each.name == "library" and each.problem for each in answer.sources)


def grow_old(folder: Path, hours: int) -> None:
    """What is kept is from another program, of which only its age is known."""
    [kept] = folder.rglob("model_cache.json")
    kept.with_name("model_cache.meta.json").unlink()
    then_s = kept.stat().st_mtime - hours * 3_600
    os.utime(kept, (then_s, then_s))


async def test_a_file_stands_in_the_librarys_place(simulator: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    variants = {"own:8b": {"size_str": "4.7GB", "context_window": 8192}, "own:70b": {}}
    file.write_text(json.dumps({"own": {"variants": variants, "description": "Ours."}}))
    text = config(simulator, f'source = "file"\nfile = "{file}"')
    async with brokerd(text, tmp_path) as broker:
        found = named(await listed(broker, has("own:70b")))
        assert found["own:8b"].status_text == "⬇ Downloadable (4.7 GB)"
        assert found["own:70b"].status_text == "⬇ Downloadable"


async def test_memory_is_learned_from_what_the_backend_holds(
    simulator: Simulator, tmp_path: Path
) -> None:
    text = config(simulator, 'source = "off"')
    async with brokerd(text, tmp_path) as broker:
        name = "tinyllama:latest"
        before = named(await listed(broker, has(name)))[name]
        assert not any(each.measured for each in before.memory)
        call = broker.inference.Generate(
            inference_pb2.GenerateRequest(
                agent_id="opus-1", model=name, prompt=inference_pb2.Prompt(text="hello")
            )
        )
        assert [event.WhichOneof("event") async for event in call][-1] == "done"
        after = named(
            await listed(
                broker,
                lambda answer: any(each.measured for each in named(answer)[name].memory),
            )
        )[name]
        held: Any = (await simulator.ask("GET", "/api/ps")).document
        [row] = [each for each in held["models"] if each["name"] == name]
        usual = after.memory[0]
        assert usual.measured
        assert (usual.num_ctx, usual.bytes) == (row["context_length"], row["size"])
        # What was estimated before was near what it came to.
        estimate = next(each for each in before.memory if each.num_ctx == usual.num_ctx)
        assert usual.bytes / 2 < estimate.bytes < usual.bytes * 2
