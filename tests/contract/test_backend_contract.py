"""What `core.ports.Backend` promises, held by every adapter before a server of its dialect.

One suite for all: a test that knows which adapter it has is in the wrong file.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from broker.core.content import (
    EmbedContent,
    FinishReason,
    GenerateContent,
    Message,
    Prompt,
    ToolCall,
)
from broker.core.errors import (
    BackendFailed,
    BackendRefused,
    BackendUnreachable,
    ModelUnknown,
)
from broker.core.model_name import comparison_key
from tests.contract.backend_stages import QUESTION, SLOTS, TOOL, Stage, short
from tests.integration.served_backend import Heard

LONG = GenerateContent(input=Prompt(text="go"), options={"num_predict": 20_000, "seed": 1})


# What is there


async def test_a_server_that_answers_tells_its_version(stage: Stage) -> None:
    assert await stage.backend.version() == await stage.backend.version()
    assert stage.backend.name == "one"
    assert str(stage.simulator.port) in stage.backend.url


async def test_models_have_names_runners_and_contexts(stage: Stage) -> None:
    models = await stage.backend.models()
    keys = [comparison_key(each.name) for each in models]
    assert len(keys) == len(set(keys))
    for name in (stage.dialect.speaker, stage.dialect.embedder):
        assert comparison_key(name) in keys
    assert all(each.runner and each.digest for each in models)
    assert all(each.context_length_train > 0 for each in models)


async def test_what_was_loaded_is_resident(stage: Stage) -> None:
    names = {comparison_key(each.name) for each in await stage.backend.residents()}
    assert comparison_key(stage.dialect.speaker) in names
    models = {comparison_key(each.name) for each in await stage.backend.models()}
    assert names <= models
    assert not stage.backend.keeps_models or names == models


async def test_to_load_once_more_changes_nothing(stage: Stage) -> None:
    before = await stage.backend.residents()
    await stage.backend.load(stage.dialect.speaker, num_ctx=None, keep_alive_s=600)
    after = await stage.backend.residents()
    assert [each.name for each in after] == [each.name for each in before]
    with pytest.raises(ModelUnknown):
        await stage.backend.load("nope", num_ctx=None, keep_alive_s=600)


async def test_what_keeps_its_models_refuses_to_unload(stage: Stage) -> None:
    if stage.backend.keeps_models:
        with pytest.raises(BackendRefused, match="keeps its models"):
            await stage.backend.unload(stage.dialect.speaker)
        return
    await stage.backend.unload(stage.dialect.speaker)
    key = comparison_key(stage.dialect.speaker)
    while key in {comparison_key(each.name) for each in await stage.backend.residents()}:
        pass


# What is said


async def test_an_answer_comes_in_pieces_and_ends(stage: Stage) -> None:
    heard = Heard()
    completion = await stage.generate(short(6), heard)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.output_tokens == 6
    assert completion.prompt_tokens > 0
    assert len(heard) == 6
    assert all(piece.text and not piece.thinking for piece in heard)


async def test_the_same_seed_says_the_same(stage: Stage) -> None:
    one, other, longer = Heard(), Heard(), Heard()
    await stage.generate(short(6), one)
    await stage.generate(short(6), other)
    await stage.generate(short(12), longer)
    assert list(one) == list(other)
    assert longer[: len(one)] == one


async def test_an_answer_may_stop_by_itself(stage: Stage) -> None:
    heard = Heard()
    completion = await stage.generate(GenerateContent(input=QUESTION), heard, stage.dialect.caller)
    assert completion.finish_reason is FinishReason.STOP
    assert "".join(piece.text for piece in heard).strip()


@pytest.mark.parametrize(
    "input_",
    [
        Prompt(text="héllo 😀", system="be brief"),
        Prompt(text="once upon", raw=True),
        (
            Message(role="system", content="be brief"),
            Message(role="user", content="one"),
            Message(role="assistant", content="two"),
            Message(role="user", content="日本"),
        ),
    ],
    ids=["system", "raw", "messages"],
)
async def test_every_form_of_input_is_answered(
    stage: Stage, input_: Prompt | tuple[Message, ...]
) -> None:
    heard = Heard()
    content = GenerateContent(input=input_, options={"num_predict": 4})
    assert (await stage.generate(content, heard)).output_tokens == 4
    assert "".join(piece.text for piece in heard)


async def test_an_answer_ends_before_a_stop_word(stage: Stage) -> None:
    whole = Heard()
    await stage.generate(short(12), whole)
    word = whole[5].text.strip()
    before = "".join(piece.text for piece in whole[:5])
    assert word not in before
    heard = Heard()
    content = GenerateContent(
        input=Prompt(text="go"), options={"num_predict": 12, "seed": 1, "stop": [word]}
    )
    completion = await stage.generate(content, heard)
    assert completion.finish_reason is FinishReason.STOP
    assert "".join(piece.text for piece in heard).rstrip() == before.rstrip()


async def test_a_tool_is_called_whole(stage: Stage) -> None:
    heard = Heard()
    content = GenerateContent(input=QUESTION, tools=(TOOL,))
    completion = await stage.generate(content, heard, stage.dialect.caller)
    (call,) = [call for piece in heard for call in piece.tool_calls]
    assert call.name == "get_weather"
    assert list(json.loads(call.arguments_json)) == ["city"]
    assert completion.finish_reason is FinishReason.TOOL_CALLS
    # Its result is taken, with or without the id of the call.
    for call_id in (call.id, ""):
        made = ToolCall(call_id, call.name, call.arguments_json)
        talk = (
            *QUESTION,
            Message(role="assistant", content="", tool_calls=(made,)),
            Message(role="tool", content="rain", tool_name=call.name, tool_call_id=call_id),
        )
        after = Heard()
        content = GenerateContent(input=talk, tools=(TOOL,))
        completion = await stage.generate(content, after, stage.dialect.caller)
        assert completion.prompt_tokens > 0
        assert after


async def test_thinking_is_apart_from_the_answer(stage: Stage) -> None:
    heard = Heard()
    content = GenerateContent(input=QUESTION, think=True)
    await stage.generate(content, heard, stage.dialect.thinker)
    assert "".join(piece.thinking for piece in heard).strip()
    assert "".join(piece.text for piece in heard).strip()
    assert not any(piece.thinking and piece.text for piece in heard)


@pytest.mark.parametrize("format_json", ["json", TOOL.parameters_json], ids=["any", "schema"])
async def test_a_format_brings_json(stage: Stage, format_json: str) -> None:
    heard = Heard()
    content = GenerateContent(input=QUESTION, format_json=format_json)
    await stage.generate(content, heard)
    assert isinstance(json.loads("".join(piece.text for piece in heard)), dict)


async def test_vectors_come_in_the_order_of_the_texts(stage: Stage) -> None:
    content = EmbedContent(inputs=("a b", "c", "a b"), dimensions=16)
    answer = await stage.backend.embed(stage.dialect.embedder, content, num_ctx=None)
    assert [len(vector) for vector in answer.vectors] == [16] * 3
    assert answer.vectors[0] == answer.vectors[2] != answer.vectors[1]
    assert answer.prompt_tokens > 0
    alone = EmbedContent(inputs=("c",), dimensions=16)
    (vector,) = (await stage.backend.embed(stage.dialect.embedder, alone, num_ctx=None)).vectors
    assert vector == pytest.approx(answer.vectors[1], abs=1e-6)


# Several at once


async def test_many_calls_are_kept_apart(stage: Stage) -> None:
    texts = [f"text {number}" for number in range(12)]
    alone = [Heard() for _ in texts]
    for text, heard in zip(texts, alone, strict=True):
        await stage.generate(short(5, text), heard)
    together = [Heard() for _ in texts]
    async with asyncio.TaskGroup() as tasks:
        for text, heard in zip(texts, together, strict=True):
            tasks.create_task(stage.generate(short(5, text), heard))
    assert [list(each) for each in together] == [list(each) for each in alone]


async def test_to_cancel_frees_the_slot(stage: Stage) -> None:
    all_heard = [Heard() for _ in range(SLOTS)]
    running = [stage.start(LONG, heard) for heard in all_heard]
    for heard in all_heard:
        await heard.something.wait()
    waiting = stage.start(short(2), Heard())
    running[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    assert (await waiting).output_tokens == 2, "it got the slot"
    count = len(all_heard[0])
    running[1].cancel()
    await asyncio.gather(running[1], return_exceptions=True)
    await stage.simulator.wait_until("active", 0)
    assert len(all_heard[0]) == count, "nothing is heard of what was cancelled"


async def test_to_cancel_what_waits_leaves_the_line(stage: Stage) -> None:
    heard = Heard()
    running = [stage.start(LONG, heard) for _ in range(SLOTS)]
    await heard.something.wait()
    await stage.simulator.wait_until("active", SLOTS)
    waiting = stage.start(short(2), Heard())
    await stage.simulator.wait_until("active", SLOTS + 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await stage.simulator.wait_until("active", SLOTS)
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_to_close_ends_what_runs_and_refuses_the_rest(stage: Stage) -> None:
    heard = Heard()
    running = stage.start(LONG, heard)
    await heard.something.wait()
    await stage.backend.close()
    with pytest.raises(BackendFailed):
        await running
    with pytest.raises(BackendUnreachable):
        await stage.generate(short())
    with pytest.raises(BackendUnreachable):
        await stage.backend.version()
    await stage.backend.close()
