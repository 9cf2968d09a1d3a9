"""Use and trees of models, by both clients and by brokerctl, against a scripted broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from broker_client import ModelUnknown
from broker_client.pb.broker.v1 import models_pb2
from brokerctl.main import main
from tests.integration.scripted_accounts import HOUR_MS
from tests.integration.scripted_broker import ScriptedBroker, serving
from tests.integration.test_client_fake_server import AsyncCaller, Caller, SyncCaller


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


@pytest_asyncio.fixture(params=[AsyncCaller, SyncCaller])
async def caller(request: pytest.FixtureRequest, broker: ScriptedBroker) -> AsyncIterator[Caller]:
    made: Caller = request.param(broker.address)
    yield made
    await made.close()


async def brokerctl(broker: ScriptedBroker, *arguments: str) -> Result:
    """Runs the command in a thread, so that the broker's loop goes on."""
    return await asyncio.to_thread(
        CliRunner().invoke, main, [*arguments, "--address", broker.address]
    )


async def test_use_is_asked_for_and_comes_back(broker: ScriptedBroker, caller: Caller) -> None:
    report = await caller.call(
        "usage",
        by="hour",
        since_unix_s=10.0,
        until_unix_s=20.5,
        model="llama3",
        agent_id="opus-1",
        rows_max=5,
    )
    assert broker.requests == [
        models_pb2.GetUsageRequest(
            group=models_pb2.USAGE_GROUP_HOUR,
            since_unix_ms=10_000,
            until_unix_ms=20_500,
            model="llama3",
            agent_id="opus-1",
            rows_max=5,
        )
    ]
    assert (report.kept_since_unix_s, report.left_out) == (HOUR_MS / 1000 - 3600, 7)
    row = report.rows[0]
    assert (row.model, row.agent_id, row.hour_unix_s, row.hours) == (
        "llama3:8b",
        "opus-1",
        HOUR_MS / 1000,
        1,
    )
    assert row.outcomes == {"completed": 900, "refused": 300}
    assert (row.busy_s, row.gpu_s, row.queue_wait_ms_max) == (90.5, 45.25, 61_000.0)


async def test_of_nothing_kept_no_beginning_is_told(broker: ScriptedBroker, caller: Caller) -> None:
    broker.accounted = models_pb2.GetUsageResponse()
    report = await caller.call("usage")
    assert (report.rows, report.kept_since_unix_s) == ((), None)
    with pytest.raises(ValueError, match="must be one of model, agent, hour, all"):
        await caller.call("usage", by="year")


async def test_a_tree_comes_back(broker: ScriptedBroker, caller: Caller) -> None:
    tree = await caller.call("model_tree", "llama3", backend="gpu0")
    assert broker.requests == [models_pb2.GetTreeRequest(name="llama3", backend="gpu0")]
    assert [each.name for each in tree.nodes] == ["llama3:8b", "mario:latest", "orphan:1b"]
    assert (tree.nodes[2].parent, tree.nodes[2].parent_missing) == ("gone:1b", True)
    assert (tree.nodes[1].freed_bytes, tree.nodes[1].freed_at_least) == (200_000_000, True)
    assert tree.left_out == 3
    with pytest.raises(ModelUnknown):
        await caller.call("model_tree", "absent")


async def test_brokerctl_draws_the_tree(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "tree")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "on gpu0"
    assert lines[1].startswith("├── llama3:8b  4.7 GB; may free nothing; same weights as mario")
    assert lines[2].startswith("│   └── mario:latest  4.9 GB; frees 200.0 MB or more; 1 adapter")
    assert lines[3] == (
        "└── orphan:1b  800.0 MB; frees 800.0 MB  ! made from gone:1b, which is gone"
    )
    assert "cannot be made anew" in result.stdout
    assert "(3 models more" in result.stdout
    document = json.loads((await brokerctl(broker, "models", "tree", "x", "--json")).stdout)
    assert document["nodes"][1]["parent"] == "llama3:8b"
    absent = await brokerctl(broker, "models", "tree", "absent")
    assert (absent.exit_code, absent.stdout) == (1, "")


async def test_an_empty_tree_says_which_backend_has_nothing(broker: ScriptedBroker) -> None:
    broker.grown = models_pb2.GetTreeResponse()
    result = await brokerctl(broker, "models", "tree")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("brokerctl: ")


async def test_brokerctl_shows_use(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "usage", "--by", "all", "--since", "24h")
    assert result.exit_code == 0, result.output
    (asked,) = broker.requests
    assert asked.group == models_pb2.USAGE_GROUP_ALL
    assert abs(asked.since_unix_ms / 1000 - (time.time() - 86_400)) < 600
    assert "use is kept since 2025-11-21" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "llama3:8b" in line)
    assert row.split()[2:5] == ["llama3:8b", "opus-1", "1,200"]
    assert "████████████" in row
    numbers = "75 % 12,345 70,000 1 min 30 s 50 % 1.0 s 1 min 1 s"
    assert row.split()[6:] == numbers.split()
    loads = next(line for line in result.stdout.splitlines() if "tiny:latest" in line)
    assert "(the broker)" in loads
    assert "(7 rows with fewer requests: see --rows)" in result.stdout


async def test_what_is_asked_for_goes_through(broker: ScriptedBroker) -> None:
    arguments = ("--model", "llama3", "--agent", "opus-1", "--rows", "3", "--json")
    result = await brokerctl(broker, "models", "usage", *arguments)
    document = json.loads(result.stdout)
    assert document["rows"][0]["outcomes"] == {"completed": 900, "refused": 300}
    assert broker.requests == [
        models_pb2.GetUsageRequest(
            group=models_pb2.USAGE_GROUP_MODEL, model="llama3", agent_id="opus-1", rows_max=3
        )
    ]


async def test_where_nothing_is_kept_it_says_why(broker: ScriptedBroker) -> None:
    broker.accounted = models_pb2.GetUsageResponse()
    result = await brokerctl(broker, "models", "usage")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert "[usage] enabled is false" in result.stdout
    broker.accounted = models_pb2.GetUsageResponse(kept_since_unix_ms=HOUR_MS)
    result = await brokerctl(broker, "models", "usage", "--since", "90d")
    assert result.stdout.startswith("nothing was used in that; use is kept since 2025-11-21")
