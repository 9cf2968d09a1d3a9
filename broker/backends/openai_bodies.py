"""What is sent to a server of OpenAI's dialect: the one JSON body of each call.

Rules: only what was asked for is said, under every name that a server of this dialect knows for it;
what a server does not know it passes over, as this dialect wants. What the dialect has no words for
is refused, unless it is a size of the server's own (num_ctx and its like), which is passed over:
such a server keeps its models as they are. JSON that callers hand in as text is checked before it
is laid into a body. Sources: vllm/entrypoints/openai/*/protocol.py; llama.cpp tools/server/README;
lmstudio.ai/docs; reference/OLLAMA.md §1.8.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

import msgspec

from broker.backends.json_parts import checked_json, tool_body
from broker.backends.openai_errors import CHAT, COMPLETIONS
from broker.core.content import EmbedContent, GenerateContent, Message, Prompt, ToolCall
from broker.core.errors import BackendRefused

# By Ollama's names. vLLM says repetition_penalty, llama-server and LM Studio repeat_penalty;
# repeat_last_n is llama-server's alone. Those of OpenAI itself are the same everywhere.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "num_predict": ("max_tokens",),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "typical_p": ("typical_p",),
    "seed": ("seed",),
    "stop": ("stop",),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "repeat_penalty": ("repetition_penalty", "repeat_penalty"),
    "repeat_last_n": ("repeat_last_n",),
}

# Templates have no common word for it: Qwen and most others ask for the first, DeepSeek and
# Granite for the second; one that knows neither passes over both.
_THINKING_SWITCHES: Final = ("enable_thinking", "thinking")

_MIME_OF_MAGIC: Final = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
_MIME_DEFAULT: Final = "image/png"

_encode: Final = msgspec.json.Encoder().encode


def generation_body(model: str, content: GenerateContent) -> tuple[str, bytes]:
    """The path and the body that ask for this generation, streamed and counted.

    Raises BackendRefused where the content cannot be said in this dialect.
    """
    body: dict[str, object] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    given = content.input
    if isinstance(given, Prompt) and content.tools:
        raise BackendRefused("tools go with messages, not with a plain prompt", status=400)
    if isinstance(given, Prompt) and (given.raw or given.suffix):
        _add_completion(body, given, content)
        path = COMPLETIONS
    else:
        _add_chat(body, given, content)
        path = CHAT
    if content.format_json is not None:
        _add_format(body, content.format_json, is_chat=path == CHAT)
    _add_options(body, content.options)
    return path, _encode(body)


def embed_body(model: str, content: EmbedContent) -> bytes:
    """Asks for one vector per input. Inputs that are too long are refused by such servers, whether
    or not the caller would have them cut."""
    body: dict[str, object] = {"model": model, "input": content.inputs}
    if content.dimensions:
        body["dimensions"] = content.dimensions
    return _encode(body)


def _add_completion(body: dict[str, object], prompt: Prompt, content: GenerateContent) -> None:
    """A prompt as it stands: there is nowhere to put anything else."""
    kind = "raw prompt" if prompt.raw else "prompt with a suffix"
    for name, is_given in (
        ("images", bool(prompt.images)),
        ("a system prompt", bool(prompt.system)),
        ("think", bool(content.think)),
    ):
        if is_given:
            raise BackendRefused(f"{name} cannot go with a {kind} here", status=400)
    body["prompt"] = prompt.text
    if prompt.suffix:
        body["suffix"] = prompt.suffix


def _add_chat(
    body: dict[str, object], given: Prompt | tuple[Message, ...], content: GenerateContent
) -> None:
    messages = _prompt_as_messages(given) if isinstance(given, Prompt) else given
    body["messages"] = _messages(messages)
    if content.tools:
        body["tools"] = [tool_body(each) for each in content.tools]
    if isinstance(content.think, str):
        body["reasoning_effort"] = content.think
    switch = content.think if isinstance(content.think, bool) else None
    if content.continues:
        # vLLM must be told; llama-server goes on by itself from a last message of the assistant's,
        # but not while its template thinks first.
        body["add_generation_prompt"] = False
        body["continue_final_message"] = True
        switch = False
    if switch is not None:
        body["chat_template_kwargs"] = dict.fromkeys(_THINKING_SWITCHES, switch)


def _add_format(body: dict[str, object], format_json: str, *, is_chat: bool) -> None:
    if format_json == "json":
        body["response_format"] = {"type": "json_object"}
        schema: object = {"type": "object"}
    else:
        schema = checked_json(format_json, "format")
        named = {"name": "answer", "schema": schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if not is_chat:
        body["json_schema"] = schema  # llama-server's word, where there are no messages


def _add_options(body: dict[str, object], options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if name == "num_predict" and isinstance(value, int) and value < 1:
            continue  # no limit
        if name == "seed" and isinstance(value, int) and value < 0:
            continue  # any
        if name == "stop" and not value:
            continue
        for spoken in _NAMES.get(name, ()):
            body[spoken] = value


def _prompt_as_messages(prompt: Prompt) -> tuple[Message, ...]:
    user = Message(role="user", content=prompt.text, images=prompt.images)
    return (Message(role="system", content=prompt.system), user) if prompt.system else (user,)


def _messages(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    """Each message in this dialect. Calls and their results are joined by ids here; where the
    caller, who may know only Ollama's names, gave none, the results are taken in order."""
    said: list[dict[str, object]] = []
    open_calls: list[tuple[str, str]] = []  # (name, id), not answered yet
    for number, message in enumerate(messages):
        body: dict[str, object] = {"role": message.role, "content": _content(message)}
        if message.thinking:
            body["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [
                (call, call.id or f"call_{number}_{index}")
                for index, call in enumerate(message.tool_calls)
            ]
            open_calls = [(call.name, call_id) for call, call_id in calls]
            body["tool_calls"] = [_call(call, call_id) for call, call_id in calls]
        if message.tool_name:
            body["name"] = message.tool_name
        if message.role == "tool" or message.tool_call_id:
            body["tool_call_id"] = _answered(message, open_calls)
        said.append(body)
    return said


def _call(call: ToolCall, call_id: str) -> dict[str, object]:
    """A call that was made; its arguments are JSON within a text in this dialect."""
    arguments = call.arguments_json or "{}"
    checked_json(arguments, f"the arguments of {call.name}")
    function = {"name": call.name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def _answered(message: Message, open_calls: list[tuple[str, str]]) -> str:
    """The id of the call that this message answers, which is then no longer open."""
    for name, call_id in open_calls:
        if message.tool_call_id:
            is_this = message.tool_call_id == call_id
        else:
            is_this = message.tool_name in ("", name)
        if is_this:
            open_calls.remove((name, call_id))
            return call_id
    return message.tool_call_id or "call"


def _content(message: Message) -> object:
    if not message.images:
        return message.content
    parts: list[dict[str, object]] = []
    if message.content:
        parts.append({"type": "text", "text": message.content})
    for image in message.images:
        parts.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
    return parts


def _data_url(image: bytes) -> str:
    mime = next((mime for magic, mime in _MIME_OF_MAGIC if image.startswith(magic)), "")
    if not mime:
        is_webp = image[:4] == b"RIFF" and image[8:12] == b"WEBP"
        mime = "image/webp" if is_webp else _MIME_DEFAULT
    return f"data:{mime};base64,{base64.b64encode(image).decode('ascii')}"
