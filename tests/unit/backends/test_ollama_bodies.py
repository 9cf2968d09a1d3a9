"""What is sent to Ollama: nothing that was not asked for, and nothing that harms."""

from __future__ import annotations

import json

import pytest

from broker.backends.ollama_bodies import generation_body
from broker.core.content import GenerateContent, Message, Prompt, Tool, ToolCall
from broker.core.errors import BackendRefused


def body_of(content: GenerateContent, num_ctx: int | None = None) -> dict[str, object]:
    _, body = generation_body("m", content, num_ctx)
    document: dict[str, object] = json.loads(body)
    return document


def test_a_plain_prompt_says_only_what_it_must() -> None:
    path, body = generation_body("m", GenerateContent(input=Prompt(text="go")), None)
    assert path == "/api/generate"
    assert json.loads(body) == {"model": "m", "stream": True, "prompt": "go"}


def test_a_full_prompt() -> None:
    prompt = Prompt(text="a", system="b", suffix="c", images=(b"hi", b"\xff"), raw=True)
    content = GenerateContent(
        input=prompt, options={"stop": ["x"], "temperature": 0.5}, format_json="json", think="high"
    )
    assert body_of(content, 4096) == {
        "model": "m",
        "stream": True,
        "prompt": "a",
        "system": "b",
        "suffix": "c",
        "images": ["aGk=", "/w=="],
        "raw": True,
        "format": "json",
        "think": "high",
        "options": {"stop": ["x"], "temperature": 0.5, "num_ctx": 4096},
    }


def test_a_conversation_with_tools_keeps_the_order_of_arguments() -> None:
    messages = (
        Message(role="user", content="weather?", images=(b"hi",)),
        Message(
            role="assistant",
            content="",
            thinking="hm",
            tool_calls=(ToolCall("c1", "f", '{"z":1,"a":{"y":2,"b":3}}'), ToolCall("", "g", "{}")),
        ),
        Message(role="tool", content="sun", tool_name="f", tool_call_id="c1"),
    )
    tools = (Tool(name="f", description="d", parameters_json='{"type":"object"}'),)
    schema = '{"type":"object","properties":{"z":{},"a":{}}}'
    content = GenerateContent(input=messages, tools=tools, format_json=schema, think=False)
    path, body = generation_body("m", content, None)
    assert path == "/api/chat"
    assert json.loads(body) == {
        "model": "m",
        "stream": True,
        "messages": [
            {"role": "user", "content": "weather?", "images": ["aGk="]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "hm",
                "tool_calls": [
                    {
                        "id": "c1",
                        "function": {
                            "index": 0,
                            "name": "f",
                            "arguments": {"z": 1, "a": {"y": 2, "b": 3}},
                        },
                    },
                    {"function": {"index": 1, "name": "g", "arguments": {}}},
                ],
            },
            {"role": "tool", "content": "sun", "tool_name": "f", "tool_call_id": "c1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
            }
        ],
        "format": json.loads(schema),
        "think": False,
    }
    assert b'"arguments":{"z":1,"a":{"y":2,"b":3}}' in body
    assert schema.encode() in body


@pytest.mark.parametrize(("num_predict", "kept"), [(1, True), (0, False), (-1, False)])
def test_no_limit_is_never_asked_for(num_predict: int, kept: bool) -> None:
    options = {"num_predict": num_predict, "seed": 3}
    body = body_of(GenerateContent(input=Prompt(text="x"), options=options))
    assert body["options"] == (options if kept else {"seed": 3})
    assert options == {"num_predict": num_predict, "seed": 3}, "the caller's own is left alone"


@pytest.mark.parametrize(
    "content",
    [
        GenerateContent(input=Prompt(text="x"), format_json='{}, "keep_alive": -1'),
        GenerateContent(input=Prompt(text="x"), format_json=""),
        GenerateContent(input=(), tools=(Tool(name="f", description="", parameters_json="{"),)),
        GenerateContent(
            input=(Message(role="a", content="", tool_calls=(ToolCall("", "f", "{}}"),)),)
        ),
        GenerateContent(
            input=Prompt(text="x"), tools=(Tool(name="f", description="", parameters_json="{}"),)
        ),
    ],
)
def test_json_in_text_cannot_bring_fields_of_its_own(content: GenerateContent) -> None:
    with pytest.raises(BackendRefused):
        generation_body("m", content, None)


def test_json_too_deep_for_its_parser_is_refused_and_no_fault_of_ours() -> None:
    """The edge has checked it, but on a stack with other depths."""
    schema = '{"a":' * 5_000 + "1" + "}" * 5_000
    content = GenerateContent(input=Prompt(text="x"), format_json=schema)
    with pytest.raises(BackendRefused, match="format is not JSON"):
        generation_body("m", content, None)


def test_an_answer_that_goes_on_ends_with_what_the_assistant_said() -> None:
    user, begun = Message(role="user", content="Count."), Message(role="assistant", content="one, ")
    body = body_of(GenerateContent(input=(user, begun), continues=True))
    assert body == {
        "model": "m",
        "stream": True,
        "messages": [
            {"role": "user", "content": "Count."},
            {"role": "assistant", "content": "one, "},
        ],
    }


@pytest.mark.parametrize("messages", [(), (Message(role="user", content="Count."),)])
def test_nothing_but_the_assistants_own_can_be_gone_on_with(messages: tuple[Message, ...]) -> None:
    with pytest.raises(BackendRefused, match="assistant's message"):
        generation_body("m", GenerateContent(input=messages, continues=True), None)
