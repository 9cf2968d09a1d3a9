"""The clients and brokerctl change models, against a scripted broker over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker_client import AsyncClient, Client, ModelChangeDenied
from broker_client.pb.broker.v1 import models_pb2
from tests.integration.scripted_broker import ScriptedBroker, serving
from tests.integration.scripted_model_changes import GB
from tests.integration.test_client_cli import brokerctl


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


# The clients


async def test_the_client_on_asyncio(broker: ScriptedBroker) -> None:
    async with AsyncClient(broker.address, agent_id="opus-1") as client:
        told = [each async for each in client.pull("a", backend="gpu0", now=True)]
        assert [(each.state, each.completed_bytes, each.eta_s) for each in told] == [
            ("waiting", 0, None),
            ("pulling", 2 * GB, 60.0),
            ("done", 8 * GB, None),
        ]
        assert await client.pulls() == told
        assert await client.cancel_pull("a") == 1
        deletion = await client.delete_model("a", dry_run=True)
        assert (deletion.backends, deletion.freed_at_least) == (("gpu0", "gpu1"), True)
        assert deletion.breaks == ("mine:v2",)
        loaded = await client.load_model("a")
        assert (loaded.backend, loaded.load_s) == ("gpu0", 2.5)
        assert await client.unload_model("a", backend="gpu0") == ("gpu0",)
        for call in (client.load_model("z"), client.delete_model("z"), client.cancel_pull("z")):
            with pytest.raises(ModelChangeDenied):
                await call
        with pytest.raises(ModelChangeDenied):
            await anext(client.pull("z"))
    assert {each.agent_id for each in broker.changes} == {"opus-1"}
    assert broker.changes[0] == models_pb2.PullRequest(
        name="a", backend="gpu0", agent_id="opus-1", now=True
    )


async def test_the_client_for_threads(broker: ScriptedBroker) -> None:
    def use() -> None:
        with Client(broker.address, agent_id="opus-1") as client:
            told = list(client.pull("a"))
            assert told[-1].state == "done"
            assert client.pulls() == told
            assert client.cancel_pull("a") == 1
            assert client.delete_model("a", force=True).freed_bytes == 8 * GB
            assert client.load_model("a").load_s == 2.5
            assert client.unload_model("a") == ("gpu0",)
            for call in (client.load_model, client.unload_model, client.delete_model):
                with pytest.raises(ModelChangeDenied):
                    call("z")
            with pytest.raises(ModelChangeDenied):
                next(client.pull("z"))

    await asyncio.to_thread(use)
    assert {each.agent_id for each in broker.changes} == {"opus-1"}


# brokerctl, which is an operator's tool


async def test_a_download_is_told_in_lines(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "pull", "a")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "a:latest on gpu0: waiting, it waits for its turn",
        "a:latest on gpu0: pulling, 2.0 GB of 8.0 GB (25 %), 100.0 MB/s, 1 min 0 s left",
        "a:latest on gpu0: done, 8.0 GB of 8.0 GB (100 %), it is there",
    ]
    assert broker.changes == [models_pb2.PullRequest(name="a")]
    as_json = await brokerctl(broker, "models", "pull", "a", "--now", "--json")
    documents = [json.loads(each) for each in as_json.stdout.splitlines()]
    assert [each["state"] for each in documents] == ["waiting", "pulling", "done"]
    assert broker.changes[-1] == models_pb2.PullRequest(name="a", now=True)


async def test_downloads_are_listed_and_cancelled(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "pulls")
    assert "2.0 GB of 8.0 GB (25 %)" in result.stdout
    assert "1 min 0 s left" in result.stdout
    broker.pulls = []
    assert "nothing is downloaded" in (await brokerctl(broker, "models", "pulls")).stdout
    ended = await brokerctl(broker, "models", "pulls", "--cancel", "a", "--backend", "gpu0")
    assert ended.stdout == "1 download of a cancelled\n"
    assert broker.changes == [models_pb2.CancelPullRequest(name="a", backend="gpu0")]


async def test_a_delete_says_what_it_breaks_and_asks(broker: ScriptedBroker) -> None:
    dry = await brokerctl(broker, "models", "delete", "a", "--dry-run")
    assert dry.stdout.splitlines() == [
        "a would be deleted from gpu0, gpu1, which frees 8.0 GB or more",
        "built on it, and not to be made anew without: mine:v2",
    ]
    nobody = await brokerctl(broker, "models", "delete", "a")
    assert nobody.exit_code == 2
    assert "--yes" in nobody.stderr
    assert all(each.dry_run for each in broker.changes if hasattr(each, "dry_run"))
    done = await brokerctl(broker, "models", "delete", "a", "--yes", "--force")
    assert done.stdout.startswith("a is deleted from gpu0, gpu1")
    assert broker.changes[-1] == models_pb2.DeleteRequest(name="a", force=True)
    denied = await brokerctl(broker, "models", "delete", "z", "--yes")
    assert denied.exit_code == 1
    assert "[model_access]" in denied.stderr


async def test_a_model_is_loaded_and_unloaded(broker: ScriptedBroker) -> None:
    loaded = await brokerctl(broker, "models", "load", "a")
    assert loaded.stdout == "a is loaded on gpu0; that took 2.5 s\n"
    broker.loaded = models_pb2.LoadResponse(backend="gpu0")
    assert (await brokerctl(broker, "models", "load", "a")).stdout == (
        "a was loaded on gpu0 already\n"
    )
    left = await brokerctl(broker, "models", "unload", "a", "--backend", "gpu0")
    assert left.stdout == "a has left gpu0\n"
    broker.unloaded = models_pb2.UnloadResponse()
    nowhere = await brokerctl(broker, "models", "unload", "a", "--json")
    assert json.loads(nowhere.stdout) == {"backends": []}
    assert [type(each).__name__ for each in broker.changes] == [
        *["LoadRequest"] * 2,
        *["UnloadRequest"] * 2,
    ]
