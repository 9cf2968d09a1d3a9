"""What a client hears when an attempt is lost after a piece of it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from broker.config.resilience import RetriesConfig
from broker.config.schema import Config
from broker.core.content import GenerateContent, Message, Piece, Prompt, ToolCall
from broker.core.errors import BackendFailed
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    Events,
    RunningDaemon,
    kinds,
    read_until,
    refused,
    running_daemon,
    text_of,
)
from tests.integration.fake_backend import FakeCall
from tests.integration.wire_requests import chat, generate

RESTART = pb.ON_INTERRUPTION_RESTART
CONTINUE = pb.ON_INTERRUPTION_CONTINUE
CONFIG = Config(
    server=FREE_PORTS,
    backends=(BACKEND,),
    retries=RetriesConfig(backoff_s=0, backoff_s_max=0),
    **QUICK,
)
LOST = BackendFailed("the connection was lost")


@asynccontextmanager
async def lost_after_a_piece(
    request: pb.GenerateRequest,
) -> AsyncIterator[tuple[RunningDaemon, Any, FakeCall]]:
    """A request whose client has had two pieces of a first attempt that failed then; the call of
    its second one."""
    async with running_daemon(CONFIG) as daemon:
        stream = daemon.inference.Generate(request)
        await read_until(stream, "started")
        first = await daemon.backend.calls.get()
        first.say("one, ")
        await read_until(stream, "chunk")
        first.say("two, ")
        await read_until(stream, "chunk")
        first.fail(LOST)
        yield daemon, stream, await daemon.backend.calls.get()


def only(events: Events, kind: str) -> list[Any]:
    return [getattr(each, kind) for each in events if each.WhichOneof("event") == kind]


async def test_an_answer_that_begins_anew_says_which_pieces_are_void() -> None:
    async with lost_after_a_piece(generate(on_interruption=RESTART)) as (_, stream, second):
        assert second.content == GenerateContent(input=Prompt(text="hello"))
        second.say("uno, ")
        second.complete()
        events = await read_until(stream, "done")
        (requeued,) = only(events, "requeued")
        assert (requeued.discard_before_seq, requeued.reason) == (2, "the connection was lost")
        (started,) = only(events, "started")
        assert started.attempt == 2
        assert [(each.seq, each.text) for each in only(events, "chunk")] == [(2, "uno, ")]
        assert kinds(events).index("requeued") < kinds(events).index("started")
        (done,) = only(events, "done")
        assert done.usage.output_tokens == 2  # of the attempt that stands, as its backend says


async def test_an_answer_that_goes_on_keeps_what_came() -> None:
    request = generate(
        on_interruption=CONTINUE,
        prompt=pb.Prompt(text="hello", system="Be short."),
        options=pb.Options(max_tokens=10),
    )
    async with lost_after_a_piece(request) as (_, stream, second):
        assert second.content.continues
        assert second.content.input == (
            Message(role="system", content="Be short."),
            Message(role="user", content="hello"),
            Message(role="assistant", content="one, two, "),
        )
        assert second.content.options == {"num_predict": 8}
        second.say("three.")
        second.complete()
        events = await read_until(stream, "done")
        (requeued,) = only(events, "requeued")
        assert requeued.discard_before_seq == 0
        assert [(each.seq, each.text) for each in only(events, "chunk")] == [(2, "three.")]
        (done,) = only(events, "done")
        assert done.usage.output_tokens == 4  # two that stand, and two of the last attempt
        assert done.timings.first_token_ms < done.timings.total_ms


async def test_calls_of_tools_cannot_be_gone_on_from() -> None:
    async with running_daemon(CONFIG) as daemon:
        request = chat(
            pb.Message(role="user", content="hi"),
            tools=[pb.Tool(name="f", parameters_json="{}")],
            on_interruption=CONTINUE,
        )
        stream = daemon.inference.Generate(request)
        await read_until(stream, "started")
        first = await daemon.backend.calls.get()
        first.on_pieces([Piece("a", "", (ToolCall("1", "f", "{}"),))])
        await read_until(stream, "chunk")
        first.fail(LOST)
        second = await daemon.backend.calls.get()
        assert not second.content.continues
        second.complete()
        (requeued,) = only(await read_until(stream, "done"), "requeued")
        assert requeued.discard_before_seq == 1


async def test_who_asked_for_neither_hears_how_much_was_sent() -> None:
    async with running_daemon(CONFIG) as daemon:
        stream = daemon.inference.Generate(generate())
        await read_until(stream, "started")
        first = await daemon.backend.calls.get()
        first.say("one, ")
        await read_until(stream, "chunk")
        first.fail(LOST)
        refusal = await refused(stream)
        assert (refusal.reason, refusal.about["sent_pieces"]) == ("BACKEND_FAILED", "1")


@pytest.mark.parametrize("resume_from", [1, 2])
async def test_a_client_that_comes_back_with_void_pieces_is_told(resume_from: int) -> None:
    request = generate(request_id="r", on_interruption=RESTART)
    async with lost_after_a_piece(request) as (daemon, stream, second):
        await read_until(stream, "started")
        second.say("uno, ")
        await read_until(stream, "chunk")
        again = pb.GenerateRequest()
        again.CopyFrom(request)
        again.resume_from_seq = resume_from
        newer = daemon.inference.Generate(again)
        assert (await refused(stream)).code is grpc.StatusCode.ABORTED
        second.complete()
        events = await read_until(newer, "done")
        assert kinds(events) == ["requeued", "started", "chunk", "done"]
        assert events[0].requeued.discard_before_seq == 2
        assert (events[2].chunk.seq, text_of(events)) == (2, "uno, ")
        await asyncio.wait_for(newer.code(), 30)
