"""What models are made of and who used them, over the wire."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest_asyncio

from broker.api.grpc.model_accounts import NAMES_MAX, NODES_MAX
from broker.config.models import UsageConfig
from broker.config.schema import Config
from broker.core.errors import BackendFailed
from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    LedBackend,
    RunningDaemon,
    finish,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

LLAMA = "a" * 64


def config(folder: Path, **usage: object) -> Config:
    server = FREE_PORTS.model_copy(update={"state_dir": str(folder)})
    return Config(
        server=server, backends=(BACKEND,), usage=UsageConfig.model_validate(usage), **QUICK
    )


def family() -> LedBackend:
    """llama3:8b is what talk:latest was made from, and embed:latest of something that is gone."""
    backend = LedBackend()
    told = {
        "llama3:8b": {"runner": LLAMA, "blobs": (LLAMA,), "size_bytes": 900},
        "talk:latest": {"runner": LLAMA, "blobs": (LLAMA,), "parent": "llama3:8b"},
        "embed:latest": {"parent": "gone:1b"},
    }
    backend.facts = tuple(
        replace(each, **told.get(each.name, {}))  # type: ignore[arg-type]  # of several types
        for each in backend.facts
    )
    return backend


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    async with running_daemon(config(tmp_path), family()) as running:
        yield running
        assert running.parts.books is not None
        await running.parts.books.close()


async def used(daemon: RunningDaemon, **asked: object) -> list[pb.ModelUsage]:
    request = pb.GetUsageRequest(**asked)  # type: ignore[arg-type]  # as the tests name them
    return [each for each in (await daemon.models.GetUsage(request)).rows if each.requests]


async def answer(daemon: RunningDaemon, agent: str, model: str) -> None:
    """One request, of 3 tokens and with 2 in its answer."""
    call = daemon.inference.Generate(generate(model=model, agent_id=agent))
    running = await daemon.backend.calls.get()
    running.say("a ", "b ")
    running.complete()
    await finish(call)


async def test_what_was_asked_is_told_by_model_agent_and_hour(daemon: RunningDaemon) -> None:
    await answer(daemon, "opus-1", "talk")
    await answer(daemon, "opus-2", "Talk:latest")
    await answer(daemon, "opus-1", "llama3:8b")
    refusal = await refused(daemon.inference.Generate(generate(model="nonsense")))
    assert refusal.reason == "MODEL_UNKNOWN"
    by_model = {each.model: each for each in await used(daemon)}
    assert sorted(by_model) == ["(unknown)", "llama3:8b", "talk:latest"]
    talk = by_model["talk:latest"]
    assert (talk.requests, talk.completed, talk.prompt_tokens, talk.output_tokens) == (2, 2, 6, 4)
    assert dict(by_model["(unknown)"].outcomes) == {"refused": 1}
    by_agent = await used(daemon, group=pb.USAGE_GROUP_AGENT)
    assert {each.agent_id: each.completed for each in by_agent} == {"opus-1": 2, "opus-2": 1}
    hours = await used(daemon, group=pb.USAGE_GROUP_HOUR)  # one, or two around its end
    assert sum(each.requests for each in hours) == 4
    assert {(each.hours, each.hour_unix_ms % 3_600_000) for each in hours} == {(1, 0)}
    first_ms, last_ms = hours[0].hour_unix_ms, hours[-1].hour_unix_ms
    assert await used(daemon, since_unix_ms=last_ms + 3_600_000) == []
    assert await used(daemon, until_unix_ms=first_ms) == []
    assert len(await used(daemon, since_unix_ms=first_ms + 1, until_unix_ms=last_ms + 2)) == 3
    (own,) = await used(daemon, model="LLAMA3:8b", agent_id="opus-1", group=pb.USAGE_GROUP_ALL)
    assert (own.model, own.agent_id, own.output_tokens) == ("llama3:8b", "opus-1", 2)


async def test_rows_beyond_what_is_asked_for_are_counted(daemon: RunningDaemon) -> None:
    await answer(daemon, "opus-1", "talk")
    await answer(daemon, "opus-1", "llama3:8b")
    await answer(daemon, "opus-2", "llama3:8b")
    told = await daemon.models.GetUsage(pb.GetUsageRequest(rows_max=1))
    assert ([each.model for each in told.rows], told.left_out) == (["llama3:8b"], 1)
    assert told.kept_since_unix_ms == (told.kept_since_unix_ms // 3_600_000) * 3_600_000 > 0


async def test_loads_are_told_by_model_and_for_no_agent(daemon: RunningDaemon) -> None:
    await answer(daemon, "opus-1", "qwen3:8b")
    (row,) = (await daemon.models.GetUsage(pb.GetUsageRequest(model="qwen3:8b"))).rows
    assert (row.requests, row.loads) == (1, 1)
    rows = (await daemon.models.GetUsage(pb.GetUsageRequest(group=pb.USAGE_GROUP_AGENT))).rows
    assert [(each.agent_id, each.loads) for each in rows] == [("opus-1", 0)]


async def test_what_failed_has_used_its_slot(daemon: RunningDaemon) -> None:
    call = daemon.inference.Generate(generate())
    running = await daemon.backend.calls.get()
    running.say("half ")
    running.fail(BackendFailed("it died"))
    await refused(call)
    (row,) = await used(daemon)
    assert (dict(row.outcomes), row.output_tokens) == ({"failed": 1}, 1)
    assert row.busy_s > 0


async def test_use_is_kept_over_a_restart(tmp_path: Path) -> None:
    for life in range(1, 3):
        async with running_daemon(config(tmp_path)) as daemon:
            await answer(daemon, "opus-1", "talk")
            assert [each.requests for each in await used(daemon)] == [life]
            assert daemon.parts.books is not None
            await daemon.parts.books.close()


async def test_where_none_is_kept_none_is_told(tmp_path: Path) -> None:
    async with running_daemon(config(tmp_path, enabled=False)) as daemon:
        await answer(daemon, "opus-1", "talk")
        assert await daemon.models.GetUsage(pb.GetUsageRequest()) == pb.GetUsageResponse()
        assert "broker_usage_rows" not in (await daemon.get("/metrics"))[1]
    assert "usage" not in str(os.listdir(tmp_path))


async def test_metrics_tell_how_much_is_kept(daemon: RunningDaemon) -> None:
    await answer(daemon, "opus-1", "talk")
    assert "broker_usage_rows_waiting 2.0" in (await daemon.get("/metrics"))[1]  # one is a load
    assert daemon.parts.books is not None
    await daemon.parts.books.flush()
    text = (await daemon.get("/metrics"))[1]
    assert "broker_usage_rows_waiting 0.0" in text
    assert "broker_usage_rows 2.0" in text
    assert "broker_usage_failures_total 0.0" in text


async def test_a_store_that_cannot_be_read_is_the_brokers_fault(tmp_path: Path) -> None:
    async with running_daemon(config(tmp_path)) as daemon:
        assert daemon.parts.books is not None
        await daemon.parts.books.close()
        refusal = await refused(daemon.models.GetUsage(pb.GetUsageRequest()))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert str(tmp_path) not in refusal.message


# Trees


async def test_each_model_is_told_behind_its_parent(daemon: RunningDaemon) -> None:
    told = await daemon.models.GetTree(pb.GetTreeRequest())
    assert [(each.name, each.parent, each.parent_missing) for each in told.nodes] == [
        ("embed:latest", "gone:1b", True),
        ("llama3:8b", "", False),
        ("talk:latest", "llama3:8b", False),
        ("qwen3:8b", "", False),
    ]
    assert told.left_out == 0
    parent = told.nodes[1]
    assert (list(parent.children), list(parent.twins)) == (["talk:latest"], ["talk:latest"])
    assert (parent.size_bytes, parent.freed_bytes, parent.freed_at_least) == (900, 0, True)


async def test_a_name_shows_its_family_alone(daemon: RunningDaemon) -> None:
    told = await daemon.models.GetTree(pb.GetTreeRequest(name="TALK", backend="b"))
    assert [each.name for each in told.nodes] == ["llama3:8b", "talk:latest"]


async def test_who_asks_for_what_is_not_there_is_told_the_nearest(daemon: RunningDaemon) -> None:
    model = await refused(daemon.models.GetTree(pb.GetTreeRequest(name="talc")))
    assert (model.code, model.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
    assert "talk:latest" in model.message
    backend = await refused(daemon.models.GetTree(pb.GetTreeRequest(backend="c")))
    assert (backend.code, backend.reason) == (grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND")


async def test_of_very_many_models_so_many_are_told(tmp_path: Path) -> None:
    names = [f"m:{number}b" for number in range(NODES_MAX + 3)]
    backend = LedBackend(dict.fromkeys(names, frozenset({"completion"})))
    # All of one weight, and so all of them twins.
    backend.facts = tuple(replace(each, runner=LLAMA, blobs=(LLAMA,)) for each in backend.facts)
    async with running_daemon(config(tmp_path), backend) as daemon:
        told = await daemon.models.GetTree(pb.GetTreeRequest())
    assert (len(told.nodes), told.left_out) == (NODES_MAX, 3)
    assert {len(each.twins) for each in told.nodes} == {NAMES_MAX}
