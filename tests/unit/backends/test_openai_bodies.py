"""What is said to a server of OpenAI's dialect."""

from __future__ import annotations

import base64
import json

import pytest

from broker.backends.openai_bodies import embed_body, generation_body
from broker.backends.openai_errors import CHAT, COMPLETIONS
from broker.core.content import EmbedContent, GenerateContent, Message, Prompt, Tool, ToolCall
from broker.core.errors import BackendRefused

USER = Message(role="user", content="hi")
PNG = b"\x89PNG\r\n\x1a\n"


def body_of(content: GenerateContent) -> dict[str, object]:
    """All that is said beside what is said always."""
    _, raw = generation_body("M/x", content)
    body: dict[str, object] = json.loads(raw)
    assert body.pop("model") == "M/x"
    assert body.pop("stream") is True
    assert body.pop("stream_options") == {"include_usage": True}
    return body


def messages_of(*messages: Message) -> list[dict[str, object]]:
    body = body_of(GenerateContent(input=messages))
    said = body["messages"]
    assert isinstance(said, list)
    return said


def test_a_prompt_is_a_conversation_unless_it_is_raw() -> None:
    user = {"role": "user", "content": "hi"}
    assert body_of(GenerateContent(input=Prompt(text="hi"))) == {"messages": [user]}
    assert body_of(GenerateContent(input=Prompt(text="hi", system="s"))) == {
        "messages": [{"role": "system", "content": "s"}, user]
    }
    path, _ = generation_body("m", GenerateContent(input=Prompt(text="hi", raw=True)))
    assert path == COMPLETIONS
    assert body_of(GenerateContent(input=Prompt(text="hi", raw=True))) == {"prompt": "hi"}
    assert body_of(GenerateContent(input=Prompt(text="a", suffix="z"))) == {
        "prompt": "a",
        "suffix": "z",
    }
    assert generation_body("m", GenerateContent(input=(USER,)))[0] == CHAT


@pytest.mark.parametrize(
    "content",
    [
        GenerateContent(input=Prompt(text="a", suffix="z", system="s")),
        GenerateContent(input=Prompt(text="a", raw=True, images=(PNG,))),
        GenerateContent(input=Prompt(text="a", raw=True), think="high"),
        GenerateContent(
            input=Prompt(text="a"), tools=(Tool(name="f", description="", parameters_json=""),)
        ),
        GenerateContent(input=(USER,), format_json='{"a":1},"model":"other"'),
        GenerateContent(
            input=(USER,), tools=(Tool(name="f", description="", parameters_json="{"),)
        ),
    ],
)
def test_what_has_no_words_here_is_refused(content: GenerateContent) -> None:
    with pytest.raises(BackendRefused):
        generation_body("m", content)


def test_options_have_their_names_here() -> None:
    given = {
        "num_predict": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 4,
        "stop": ["x"],
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repeat_penalty": 1.1,
        "repeat_last_n": 9,
        "num_ctx": 4096,
        "num_gpu": 1,
    }
    said = body_of(GenerateContent(input=(USER,), options=given))
    del said["messages"]
    assert said == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 4,
        "stop": ["x"],
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "repeat_penalty": 1.1,
        "repeat_last_n": 9,
    }


def test_options_that_mean_nothing_are_not_said() -> None:
    options = {"num_predict": -1, "seed": -1, "stop": []}
    assert list(body_of(GenerateContent(input=(USER,), options=options))) == ["messages"]


def test_images_are_data() -> None:
    webp = b"RIFF\x00\x00\x00\x00WEBP"
    images = (PNG, b"\xff\xd8\xff\xe0", webp, b"GIF89a", b"?")
    (message,) = messages_of(Message(role="user", content="see", images=images))
    parts = message["content"]
    assert isinstance(parts, list)
    assert parts[0] == {"type": "text", "text": "see"}
    urls = [each["image_url"]["url"] for each in parts[1:]]
    kinds = ["png", "jpeg", "webp", "gif", "png"]
    assert urls == [
        f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        for kind, image in zip(kinds, images, strict=True)
    ]


def test_calls_and_their_results_are_joined() -> None:
    calls = (ToolCall("", "f", '{"a":1}'), ToolCall("own", "g", ""))
    said = messages_of(
        USER,
        Message(role="assistant", content="", tool_calls=calls, thinking="hm"),
        Message(role="tool", content="G", tool_name="g"),
        Message(role="tool", content="F"),
        Message(role="tool", content="?", tool_call_id="theirs"),
    )
    assert said[1]["reasoning_content"] == "hm"
    assert said[1]["tool_calls"] == [
        {
            "id": "call_1_0",
            "type": "function",
            "function": {"name": "f", "arguments": '{"a":1}'},
        },
        {"id": "own", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert [each["tool_call_id"] for each in said[2:]] == ["own", "call_1_0", "theirs"]
    assert said[2]["name"] == "g"


def test_tools_keep_the_order_of_their_schema() -> None:
    schema = '{"type": "object", "properties": {"b": {}, "a": {}}}'
    tool = Tool(name="f", description="d", parameters_json=schema)
    _, raw = generation_body("m", GenerateContent(input=(USER,), tools=(tool,)))
    assert schema.encode() in raw


def test_formats() -> None:
    assert body_of(GenerateContent(input=(USER,), format_json="json"))["response_format"] == {
        "type": "json_object"
    }
    chat = body_of(GenerateContent(input=(USER,), format_json='{"type": "object"}'))
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }
    assert "json_schema" not in chat
    raw = body_of(
        GenerateContent(input=Prompt(text="x", raw=True), format_json='{"type": "array"}')
    )
    assert raw["json_schema"] == {"type": "array"}, "llama-server's word"


@pytest.mark.parametrize(
    ("think", "key", "value"),
    [
        ("high", "reasoning_effort", "high"),
        (True, "chat_template_kwargs", {"enable_thinking": True, "thinking": True}),
        (False, "chat_template_kwargs", {"enable_thinking": False, "thinking": False}),
    ],
)
def test_thinking(think: bool | str, key: str, value: object) -> None:
    said = body_of(GenerateContent(input=(USER,), think=think))
    assert said == {"messages": [{"role": "user", "content": "hi"}], key: value}


def test_an_answer_that_is_to_go_on() -> None:
    begun = Message(role="assistant", content="once upon")
    said = body_of(GenerateContent(input=(USER, begun), continues=True, think=True))
    assert said["add_generation_prompt"] is False
    assert said["continue_final_message"] is True
    assert said["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}


def test_texts_to_embed() -> None:
    assert json.loads(embed_body("M", EmbedContent(inputs=("a", "b"), dimensions=8))) == {
        "model": "M",
        "input": ["a", "b"],
        "dimensions": 8,
    }
    assert "dimensions" not in json.loads(embed_body("M", EmbedContent(inputs=("a",))))
