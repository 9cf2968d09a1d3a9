"""What a generation carries, both ways: the words of the wire against those of the core."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest_asyncio

from broker.config.schema import Config
from broker.core.content import (
    GenerateContent,
    Message,
    Piece,
    Prompt,
    Tool,
    ToolCall,
)
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    RunningDaemon,
    read_until,
    running_daemon,
)
from tests.integration.wire_requests import called, generate, said

_Code = grpc.StatusCode
ONE_SLOT = BACKEND.model_copy(update={"slots": 1})


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(Config(server=FREE_PORTS, backends=(ONE_SLOT,), **QUICK)) as running:
        yield running


async def test_another_model_may_answer_and_the_reply_says_so(daemon: RunningDaemon) -> None:
    request = generate(fallback_models=["nor-this", "QWEN3:8b"])
    request.model = "not-there"
    stream = daemon.inference.Generate(request)
    events = await read_until(stream, "started")
    assert events[-1].started.model == "qwen3:8b"
    assert events[-1].started.substituted_for == "not-there"
    call = await daemon.backend.calls.get()
    assert call.model == "qwen3:8b"
    call.complete()
    assert (await read_until(stream, "done"))[-1].done.model == "qwen3:8b"


async def test_a_larger_context_is_said_among_the_changes(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate(options=pb.Options(num_ctx=5000)))
    await read_until(stream, "started")
    call = await daemon.backend.calls.get()
    assert call.num_ctx == 8192
    assert "num_ctx" not in call.content.options
    call.complete()
    await read_until(stream, "done")


async def content_of(daemon: RunningDaemon, request: pb.GenerateRequest) -> GenerateContent:
    """What arrives at the backend for this request."""
    stream = daemon.inference.Generate(request)
    await read_until(stream, "started")
    call = await daemon.backend.calls.get()
    call.complete()
    await read_until(stream, "done")
    return call.content


async def test_a_prompt_arrives_whole(daemon: RunningDaemon) -> None:
    request = generate(
        prompt=pb.Prompt(text="nul \0 \U0001f600", system="s", suffix="f", images=[b"\0\xff"]),
        options=pb.Options(
            max_tokens=7, temperature=0.5, top_k=3, seed=0, stop=["a", "b"], repeat_last_n=-1
        ),
        format=pb.Format(json=True),
        think=pb.Think(enabled=False),
    )
    assert await content_of(daemon, request) == GenerateContent(
        input=Prompt(text="nul \0 \U0001f600", system="s", suffix="f", images=(b"\0\xff",)),
        options={
            "num_predict": 7,
            "temperature": 0.5,
            "top_k": 3,
            "seed": 0,
            "stop": ["a", "b"],
            "repeat_last_n": -1,
        },
        format_json="json",
        think=False,
    )
    assert await content_of(daemon, generate()) == GenerateContent(input=Prompt(text="hello"))
    raw = generate(prompt=pb.Prompt(raw=True), format=pb.Format(json=False))
    assert await content_of(daemon, raw) == GenerateContent(input=Prompt(text="hello", raw=True))


async def test_a_conversation_arrives_whole(daemon: RunningDaemon) -> None:
    schema = '{"type":"object","properties":{"z":{},"a":{}}}'
    request = called(id="c1", name="look", arguments_json='{"z": 1, "a": 2}')
    request.chat.messages[0].thinking = "hm"
    request.chat.messages.add(role="tool", content="42", tool_name="look", tool_call_id="c1")
    request.chat.messages.add(role="user", content="and?", images=[b"png"])
    request.tools.add(name="look", description="looks", parameters_json=schema)
    request.format.json_schema = schema
    request.think.level = "high"
    assert await content_of(daemon, request) == GenerateContent(
        input=(
            Message(
                role="assistant",
                content="hello",
                thinking="hm",
                tool_calls=(ToolCall("c1", "look", '{"z": 1, "a": 2}'),),
            ),
            Message(role="tool", content="42", tool_name="look", tool_call_id="c1"),
            Message(role="user", content="and?", images=(b"png",)),
        ),
        tools=(Tool(name="look", description="looks", parameters_json=schema),),
        format_json=schema,
        think="high",
    )


async def test_thoughts_texts_and_tool_calls_come_back_in_their_order(
    daemon: RunningDaemon,
) -> None:
    stream = daemon.inference.Generate(said())
    await read_until(stream, "started")
    call = await daemon.backend.calls.get()
    one, two = ToolCall("c1", "look", "{}"), ToolCall("", "see", '{"z":1}')
    call.on_pieces(
        [
            Piece("", "I "),
            Piece("", "think"),
            Piece("so"),
            Piece("", "more"),
            Piece("", "", (one,)),
            Piece("", "", (two,)),
            Piece("end"),
        ]
    )
    call.complete()
    *chunks, _ = await read_until(stream, "done")
    read = [
        (each.chunk.thinking, each.chunk.text, [tool.name for tool in each.chunk.tool_calls])
        for each in chunks
    ]
    assert read == [("I think", "so", []), ("more", "", ["look", "see"]), ("", "end", [])]
    assert [(each.chunk.seq, each.chunk.tokens) for each in chunks] == [(0, 3), (3, 3), (6, 1)]
    back = chunks[1].chunk.tool_calls
    assert [(each.id, each.arguments_json) for each in back] == [("c1", "{}"), ("", '{"z":1}')]
