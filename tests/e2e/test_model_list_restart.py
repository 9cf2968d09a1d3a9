"""The list of models over a restart of a real daemon: it is there at once, whatever is away."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc, models_pb2, models_pb2_grpc
from tests.e2e.processes import QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import PATIENCE_S
from tests.integration.ollama_sim_process import start_simulator

LIBRARY = {
    "tinyllama": {"variants": {"tinyllama:1.1b-chat": {"size_str": "638MB"}}},
    "llama3": {
        "description": "It talks.",
        "variants": {"llama3:8b": {"size_str": "4.7GB", "context_window": 8192}},
    },
}
ALL = models_pb2.ModelFilter(availability=models_pb2.AVAILABILITY_ALL)
NOBODY_PORT = 9


def config(port: int, folder: Path, more: str = "") -> str:
    return (
        SERVER
        + QUICK
        + backend_table(port)
        + f'\n[model_list]\ncache_file = "{folder / "kept" / "model_cache.json"}"\n'
        + more
    )


async def listed(broker: BrokerProcess) -> models_pb2.ListResponse:
    assert broker.channel is not None
    stub = models_pb2_grpc.ModelsStub(broker.channel)
    return await stub.List(models_pb2.ListRequest(page_size=500, filter=ALL))


async def status_of(broker: BrokerProcess) -> admin_pb2.GetStatusResponse:
    assert broker.channel is not None
    return await admin_pb2_grpc.AdminStub(broker.channel).GetStatus(admin_pb2.GetStatusRequest())


async def until_kept(file: Path, word: str) -> None:
    """The list is written a while after it changed."""
    async with asyncio.timeout(PATIENCE_S):
        while not file.exists() or word not in file.read_text():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)


async def test_the_list_outlives_the_broker_its_backend_and_its_library(tmp_path: Path) -> None:
    catalogue = tmp_path / "library.json"
    catalogue.write_text(json.dumps(LIBRARY))
    source = f'[library]\nsource = "file"\nfile = "{catalogue}"\n'
    kept = tmp_path / "kept" / "model_cache.json"
    simulator = start_simulator("--speed", "200")
    try:
        async with brokerd(config(simulator.port, tmp_path, source), tmp_path) as broker:
            await broker.said("the library answered")
            await broker.said("backend answers")
            before = await listed(broker)
            await until_kept(kept, "llama3:8b")
            broker.process.send_signal(signal.SIGKILL)
    finally:
        simulator.stop()
    assert {each.downloaded for each in before.models} == {True, False}
    catalogue.unlink()
    async with brokerd(config(simulator.port, tmp_path, source), tmp_path) as broker:
        again = await listed(broker)
        status = await status_of(broker)

    def told(answer: models_pb2.ListResponse) -> list[tuple[object, ...]]:
        return [
            (each.name, each.downloaded, each.size_bytes, each.digest, sorted(each.capabilities))
            for each in answer.models
        ]

    assert told(again) == told(before)
    sources = {each.name: each for each in again.sources}
    assert [(each.up, each.HasField("age_ms")) for each in sources.values()] == [(False, True)] * 2
    assert all(each.problem for each in sources.values())
    assert status.model_list.downloaded == sum(each.downloaded for each in before.models)
    assert status.model_list.downloadable == 2
    assert status.model_list.freshness == "fresh"
    assert status.model_list.file == str(kept)
    assert status.model_list.problem


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\x00", b'{"x":' + b"[" * 100_000, b"[1]", b'{"a":{"variants":7}}']
)
async def test_a_broken_list_is_no_end_of_a_start(tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "kept" / "model_cache.json"
    kept.parent.mkdir()
    kept.write_bytes(content)
    kept.with_name("model_cache.meta.json").write_bytes(content)
    async with brokerd(config(NOBODY_PORT, tmp_path), tmp_path) as broker:
        answer = await listed(broker)
        assert (len(answer.models), answer.total) == (0, 0)
        status = await status_of(broker)
        assert status.model_list.freshness == "empty"
        warned = [each for each in broker.log if each["level"] == "warning"]
        assert any("list of models" in each["event"] for each in warned)


async def test_a_folder_that_cannot_be_written_is_said_and_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "kept"
    blocked.write_text("a file")
    simulator = start_simulator("--speed", "200")
    try:
        async with brokerd(config(simulator.port, tmp_path), tmp_path) as broker:
            await broker.said("the list of models cannot be kept for the next run")
            assert (await listed(broker)).total > 0
    finally:
        simulator.stop()
    assert blocked.read_text() == "a file"
