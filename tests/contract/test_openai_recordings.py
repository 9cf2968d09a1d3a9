"""Every recording of a real Ollama's /v1, played to the adapter of OpenAI's dialect byte for byte.

What is expected is read from the recording by a plain oracle. Each answer is cut into whole, random
and single bytes on the wire. Source of the recordings: tests/data/recorded_v1/README.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.backends.openai_compatible import OpenAiBackend
from broker.core.content import (
    EmbedContent,
    FinishReason,
    GenerateContent,
    Message,
    Prompt,
    Tool,
)
from broker.core.errors import BackendFailed, BackendRefused, BrokerError, ModelUnknown
from tests.contract.openai_recording import CUTS, NAMES, V1Recording
from tests.integration.raw_http_server import Request, raw_server
from tests.integration.served_backend import PATIENCE_S, Heard

STREAMS = tuple(name for name in NAMES if V1Recording(name).is_stream)
REFUSALS: dict[str, type[BrokerError]] = {
    "40_v1_chat_unknown": ModelUnknown,
    "16_v1_chat_too_long": BackendRefused,
    "16_v1_chat_reasoning_unsupported": BackendRefused,
}
# How a stream failed that has no terminator.
FAILURES = {
    "67_killed_mid_v1_chat": "swallowed an error",
    "67_killed_mid_v1_completions": "swallowed an error",
    "16_repeat_guard_v1": "without its terminator",
}
OTHERS = {"40_v1_models", "40_v1_embeddings"}
FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
}


@asynccontextmanager
async def playing(
    recorded: V1Recording, how: str, asked: list[Request]
) -> AsyncIterator[OpenAiBackend]:
    async with asyncio.timeout(PATIENCE_S), raw_server(recorded.handler(how, asked)) as server:
        backend = OpenAiBackend(name="one", host=f"{server.host}/v1/")
        try:
            yield backend
        finally:
            await backend.close()


def content_of(recorded: V1Recording) -> GenerateContent:
    """What is asked for, as far as our words have it."""
    body = recorded.asked
    if "messages" not in body:
        return GenerateContent(input=Prompt(text=body["prompt"], raw=True))
    said = body["messages"]
    messages = tuple(Message(role=each["role"], content=each["content"]) for each in said)
    tools = tuple(
        Tool(
            name=each["function"]["name"],
            description=each["function"].get("description", ""),
            parameters_json=json.dumps(each["function"]["parameters"]),
        )
        for each in body.get("tools", ())
    )
    return GenerateContent(input=messages, tools=tools, think=body.get("reasoning_effort"))


def test_every_recording_is_played() -> None:
    assert set(NAMES) == {*STREAMS, *REFUSALS, *OTHERS}
    assert set(FAILURES) <= set(STREAMS)


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_as_recorded(name: str, how: str) -> None:
    recorded = V1Recording(name)
    asked: list[Request] = []
    heard = Heard()
    choices = [each for event in recorded.events() for each in event["choices"]]
    texts = [each.get("delta", each).get("content", each.get("text")) for each in choices]
    calls = [c for each in choices for c in each.get("delta", {}).get("tool_calls", ())]
    async with playing(recorded, how, asked) as backend:
        running = backend.generate(
            recorded.asked["model"], content_of(recorded), num_ctx=None, on_pieces=heard.hear
        )
        if name in FAILURES:
            with pytest.raises(BackendFailed, match=FAILURES[name]):
                await running
        else:
            completion = await running
            (finish,) = (each["finish_reason"] for each in choices if each["finish_reason"])
            assert completion.finish_reason is FINISH[finish]
            usages = [event["usage"] for event in recorded.events() if event.get("usage")]
            if usages:
                assert completion.prompt_tokens == usages[-1]["prompt_tokens"]
                assert completion.output_tokens == usages[-1]["completion_tokens"]
            else:
                assert completion.output_tokens == len(heard)
    assert [piece.text for piece in heard if piece.text] == [text for text in texts if text]
    made = [call for piece in heard for call in piece.tool_calls]
    assert [(each.id, each.name, each.arguments_json) for each in made] == [
        (each["id"], each["function"]["name"], each["function"]["arguments"]) for each in calls
    ]
    (request,) = asked
    assert request.path == recorded.path
    for key in ("model", "messages", "prompt"):
        assert request.document.get(key) == recorded.asked.get(key)
    assert bool(request.document.get("tools")) is bool(recorded.asked.get("tools"))


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_as_recorded(name: str, how: str) -> None:
    recorded = V1Recording(name)
    async with playing(recorded, how, []) as backend:
        with pytest.raises(REFUSALS[name]) as refusal:
            await backend.generate(
                recorded.asked["model"],
                content_of(recorded),
                num_ctx=None,
                on_pieces=Heard().hear,
            )
    assert type(refusal.value) is REFUSALS[name]
    assert "{" not in refusal.value.message, "its words, and not what they came in"


@pytest.mark.parametrize("how", CUTS)
async def test_the_list_of_models_is_as_recorded(how: str) -> None:
    recorded = V1Recording("40_v1_models")
    names = [each["id"] for each in json.loads(recorded.body)["data"]]
    async with playing(recorded, how, []) as backend:
        assert [each.name for each in await backend.models()] == names
        assert [each.name for each in await backend.residents()] == names


@pytest.mark.parametrize("how", CUTS)
async def test_vectors_are_as_recorded(how: str) -> None:
    recorded = V1Recording("40_v1_embeddings")
    rows = json.loads(recorded.body)["data"]
    async with playing(recorded, how, []) as backend:
        content = EmbedContent(inputs=tuple(recorded.asked["input"]))
        answer = await backend.embed(recorded.asked["model"], content, num_ctx=None)
    assert [list(each) for each in answer.vectors] == [each["embedding"] for each in rows]
    assert answer.prompt_tokens == json.loads(recorded.body)["usage"]["prompt_tokens"]
