"""Models over the wire: pages, names, and the places of a model on several backends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import Config
from broker.core.effects import ListAgain
from broker.core.errors import BackendUnreachable
from broker.core.ports import ModelFacts
from broker_client.pb.broker.v1 import admin_pb2
from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    CAPABILITIES,
    FREE_PORTS,
    PATIENCE_S,
    QUICK,
    LedBackend,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

NAMES = sorted(CAPABILITIES)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon() as running:
        yield running


async def pages(daemon: RunningDaemon, size: int) -> list[list[str]]:
    """The names, page by page."""
    found: list[list[str]] = []
    token = ""
    while not found or token:
        answer = await daemon.models.List(pb.ListRequest(page_size=size, page_token=token))
        found.append([each.name for each in answer.models])
        token = answer.next_page_token
        assert len(found) <= len(NAMES) + 1
    return found


async def test_every_model_is_on_one_page_in_order(daemon: RunningDaemon) -> None:
    assert await pages(daemon, 0) == [NAMES]
    assert await pages(daemon, 3) == [NAMES[:3], NAMES[3:]]
    assert await pages(daemon, 2) == [NAMES[:2], NAMES[2:]]
    assert await pages(daemon, 1) == [[name] for name in NAMES]


async def test_a_token_whose_model_is_gone_still_leads_on(daemon: RunningDaemon) -> None:
    answer = await daemon.models.List(pb.ListRequest(page_token="llama3:1b"))
    assert [each.name for each in answer.models] == ["llama3:8b", "qwen3:8b", "talk:latest"]
    answer = await daemon.models.List(pb.ListRequest(page_token="zzz:latest"))
    assert (list(answer.models), answer.next_page_token) == ([], "")


@pytest.mark.parametrize(
    ("order", "token"),
    [
        *((pb.MODEL_ORDER_NAME, token) for token in ("LLAMA3:1b", "llama3", "Z\0")),
        *((pb.MODEL_ORDER_SIZE, token) for token in ("llama3:1b", "x/llama3:1b", "-1/a:b", "1/A")),
        *((pb.MODEL_ORDER_USE, token) for token in ("/a:b", f"{'9' * 20}/a:b", "²/a:b")),
    ],
)
async def test_a_token_that_is_none_of_this_list_is_named(
    daemon: RunningDaemon, order: pb.ModelOrder.ValueType, token: str
) -> None:
    call = daemon.models.List(pb.ListRequest(page_token=token, order=order))
    refusal = await refused(call)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no next_page_token of a list in this order" in refusal.violations["page_token"]


async def test_a_model_tells_what_it_is_and_where(daemon: RunningDaemon) -> None:
    for name in ("talk", "TALK:latest", "library/talk", "registry.ollama.ai/library/talk:latest"):
        model = (await daemon.models.Get(pb.GetRequest(name=name))).model
        assert model.name == "talk:latest"
    assert list(model.capabilities) == ["completion", "insert", "thinking", "tools", "vision"]
    assert (model.size_bytes, model.context_length_train) == (1000, 8192)
    assert list(model.places) == [pb.ModelPlace(backend="b", state=pb.MODEL_STATE_ABSENT)]


async def test_a_model_that_works_is_shown_so(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    (place,) = (await daemon.models.Get(pb.GetRequest(name="talk"))).model.places
    assert (place.state, place.slots, place.running) == (pb.MODEL_STATE_RESIDENT, 4, 1)
    assert (place.num_ctx, place.memory_bytes, place.gpu_memory_bytes) == (4096, 1200, 1200)
    assert place.managed
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")


async def test_odd_numbers_of_a_backend_do_not_cost_the_answer() -> None:
    backend = LedBackend()
    backend.facts = tuple(
        replace(each, size_bytes=2**70, context_length_train=-1) for each in backend.facts
    )
    async with running_daemon(backend=backend) as daemon:
        assert await pages(daemon, 0) == [NAMES]
        model = (await daemon.models.Get(pb.GetRequest(name="talk"))).model
        assert (model.size_bytes, model.size_text, model.context_length_train) == (0, "", 0)


async def test_a_model_of_a_backend_that_is_away_is_still_known(daemon: RunningDaemon) -> None:
    daemon.backend.problem = BackendUnreachable("gone")
    await daemon.until_status(lambda status: not status.backends[0].up)
    assert await pages(daemon, 0) == [NAMES]
    model = (await daemon.models.Get(pb.GetRequest(name="talk"))).model
    assert list(model.places) == [pb.ModelPlace(backend="b", state=pb.MODEL_STATE_UNKNOWN)]
    await daemon.until_status(lambda status: status.backends[0].HasField("down_ms"))
    daemon.backend.problem = None
    await daemon.until_status(lambda status: status.backends[0].up)
    status = await daemon.admin.GetStatus(admin_pb2.GetStatusRequest())
    assert not status.backends[0].HasField("down_ms")


async def test_a_model_has_a_place_on_each_backend_whatever_its_weights_there() -> None:
    """One name may mean other weights on another server: each place shows its own."""
    other = LedBackend({"talk:latest": CAPABILITIES["talk:latest"]}, name="c")
    other.facts = tuple(replace(each, runner="other weights") for each in other.facts)
    other.loaded["talk:latest"] = 2048
    both: Mapping[str, LedBackend] = {"c": other}
    second = BACKEND.model_copy(update={"name": "c"})
    config = Config(server=FREE_PORTS, backends=(BACKEND, second), **QUICK)
    async with running_daemon(config, others=both) as daemon:
        model = (await daemon.models.Get(pb.GetRequest(name="talk"))).model
        assert [(each.backend, each.state, each.num_ctx) for each in model.places] == [
            ("b", pb.MODEL_STATE_ABSENT, 0),
            ("c", pb.MODEL_STATE_RESIDENT, 2048),
        ]
        assert not model.places[1].managed


async def test_nobody_who_lists_waits_for_a_backend(daemon: RunningDaemon) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hangs() -> tuple[ModelFacts, ...]:
        asked.set()
        await never.wait()
        return ()

    daemon.backend.models = hangs  # type: ignore[method-assign]
    daemon.parts.pooling.pool.list_again(ListAgain("b"))
    await asyncio.wait_for(asked.wait(), PATIENCE_S)
    assert await pages(daemon, 0) == [NAMES]
    assert (await daemon.models.Get(pb.GetRequest(name="talk"))).model.downloaded
    watch = daemon.models.Watch(pb.WatchRequest())
    first = await asyncio.wait_for(watch.read(), PATIENCE_S)
    assert isinstance(first, pb.WatchResponse)
    assert [each.name for each in first.list.models] == NAMES
    watch.cancel()
