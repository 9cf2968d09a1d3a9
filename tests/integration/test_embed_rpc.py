"""Embed over the wire, before a backend whose every step the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from broker.config.schema import Config
from broker.core.content import EmbedContent, Embeddings
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    PATIENCE_S,
    QUICK,
    RunningDaemon,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import embed

ONE_SLOT = BACKEND.model_copy(update={"slots": 1})


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(Config(server=FREE_PORTS, backends=(ONE_SLOT,), **QUICK)) as running:
        yield running


async def test_embeddings_come_in_the_order_of_their_inputs(daemon: RunningDaemon) -> None:
    request = embed(inputs=["a", "four", "\0"], dimensions=2, refuse_too_long=True, priority=1)
    answer = await daemon.inference.Embed(request)
    assert [list(each.values) for each in answer.embeddings] == [[1, 1], [4, 1], [1, 1]]
    assert answer.model == "embed:latest"
    assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (3, 0)
    assert 0 < answer.timings.queue_wait_ms <= answer.timings.first_token_ms
    model, content = daemon.backend.embedded.get_nowait()
    assert model == "embed:latest"
    assert content == EmbedContent(inputs=("a", "four", "\0"), dimensions=2, refuse_too_long=True)


async def test_an_answer_may_be_larger_than_any_request(daemon: RunningDaemon) -> None:
    vector = (0.5,) * 20_000

    async def embed_large(model: str, content: EmbedContent, *, num_ctx: int | None) -> Embeddings:
        return Embeddings(vectors=(vector,) * 200, prompt_tokens=1)

    daemon.backend.embed = embed_large  # type: ignore[method-assign]  # what a large model gives
    async with daemon.open_channel(("grpc.max_receive_message_length", -1)) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        answer = await stub.Embed(embed(), timeout=PATIENCE_S)
    assert answer.ByteSize() > Config().server.message_bytes_max
    assert len(answer.embeddings) == 200


async def test_an_embedding_whose_client_leaves_is_aborted(daemon: RunningDaemon) -> None:
    daemon.backend.may_embed.clear()
    call = daemon.inference.Embed(embed(request_id="e"))
    await daemon.backend.embedded.get()
    call.cancel()
    await daemon.until_status(lambda status: status.running == 0)
    assert daemon.backend.embeds_aborted == 1
    assert await daemon.outcomes() == {"cancelled": 1}


async def test_an_embedding_is_taken_over_and_cancelled_by_name(daemon: RunningDaemon) -> None:
    daemon.backend.may_embed.clear()
    old = asyncio.ensure_future(refused(daemon.inference.Embed(embed(request_id="e"))))
    await daemon.backend.embedded.get()
    new = asyncio.ensure_future(refused(daemon.inference.Embed(embed(request_id="e"))))
    assert (await old).reason == "TAKEN_OVER"
    cancel = pb.CancelRequest(agent_id="opus-1", request_id="e")
    assert (await daemon.inference.Cancel(cancel)).state == "dispatched"
    assert (await new).reason == "CANCELLED"
    assert daemon.backend.embedded.empty()
