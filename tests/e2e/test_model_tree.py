"""What models are made of, as a server tells it, while models are made and deleted there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from broker_client.pb.broker.v1 import models_pb2, models_pb2_grpc
from tests.e2e.processes import SERVER, BrokerProcess, brokerd
from tests.integration.daemon import PATIENCE_S
from tests.integration.ollama_sim_process import Simulator, start_simulator

MODELS = f"""
[[model]]
name = "llama3:8b"
size_bytes = 4_700
blob = "{"a" * 64}"
[[model]]
name = "lawyer:latest"
size_bytes = 4_900
blob = "{"a" * 64}"
adapters = ["{"b" * 64}"]
parent_model = "llama3:8b"
[[model]]
name = "tiny:latest"
size_bytes = 300
"""

Nodes = Mapping[str, models_pb2.ModelNode]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    file = tmp_path / "models.toml"
    file.write_text(MODELS)
    process = start_simulator("--models", str(file))
    yield process
    process.stop()


async def until(broker: BrokerProcess, holds: Callable[[Nodes], bool]) -> Nodes:
    """The tree, once this holds of it."""
    assert broker.channel is not None
    stub = models_pb2_grpc.ModelsStub(broker.channel)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            told = await stub.GetTree(models_pb2.GetTreeRequest())
            nodes = {each.name: each for each in told.nodes}
            if holds(nodes):
                return nodes
            await asyncio.sleep(0.02)


async def test_the_tree_is_what_the_server_says_of_its_models(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = f"""{SERVER}
[[backends]]
url = "127.0.0.1:{simulator.port}"
poll_interval_ms = 100
catalogue_interval_s = 1
"""
    async with brokerd(config, tmp_path) as broker:
        nodes = await until(broker, lambda found: len(found) == 3)
        lawyer = nodes["lawyer:latest"]
        assert (lawyer.parent, lawyer.adapters, list(lawyer.twins)) == (
            "llama3:8b",
            1,
            ["llama3:8b"],
        )
        assert (lawyer.freed_bytes, lawyer.freed_at_least) == (200, True)
        assert list(nodes["llama3:8b"].children) == ["lawyer:latest"]
        assert nodes["tiny:latest"].freed_bytes == 300

        copied = {"source": "tiny", "destination": "copy"}
        assert (await simulator.ask("POST", "/api/copy", copied)).status == 200
        nodes = await until(broker, lambda found: "copy:latest" in found)
        assert list(nodes["tiny:latest"].twins) == ["copy:latest"]
        assert (nodes["tiny:latest"].freed_bytes, nodes["copy:latest"].freed_bytes) == (0, 0)

        made = {"model": "mine", "from": "tiny", "system": "Be brief.", "stream": False}
        assert (await simulator.ask("POST", "/api/create", made)).status == 200
        nodes = await until(broker, lambda found: "mine:latest" in found)
        assert nodes["mine:latest"].parent == "tiny:latest"
        assert not nodes["mine:latest"].parent_missing

        for name in ("tiny", "llama3:8b"):
            assert (await simulator.ask("DELETE", "/api/delete", {"model": name})).status == 200
        nodes = await until(broker, lambda found: len(found) == 3)
        assert (nodes["lawyer:latest"].parent, nodes["lawyer:latest"].parent_missing) == (
            "llama3:8b",
            True,
        )
        assert nodes["mine:latest"].parent_missing
        assert not nodes["lawyer:latest"].freed_at_least
