"""What is sent to Ollama: the one JSON body of each call.

Rules: only what was asked for is said. Never `keep_alive` on work, `context`, or a `num_predict`
below 1, which Ollama takes for no limit at all. JSON that callers hand in as text is checked
before it is laid into a body, so that it cannot bring fields of its own. Sources:
reference/OLLAMA.md §1.3 to §1.5 and §8.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from broker.backends.json_parts import checked_json, tool_body
from broker.backends.ollama_errors import CHAT, GENERATE
from broker.core.content import EmbedContent, GenerateContent, Message, Prompt
from broker.core.errors import BackendRefused

# Above about 9.2e9 s Ollama's duration overflows and the model is unloaded at once (§1.4c).
KEEP_ALIVE_S_MAX: Final = 9_000_000_000

_encode: Final = msgspec.json.Encoder().encode


def generation_body(model: str, content: GenerateContent, num_ctx: int | None) -> tuple[str, bytes]:
    """The path and the body that ask for this generation, streamed.

    Raises BackendRefused where the content cannot be said in Ollama's words.
    """
    body: dict[str, object] = {"model": model, "stream": True}
    if isinstance(content.input, Prompt):
        path = GENERATE
        if content.tools:
            raise BackendRefused("tools go with messages, not with a plain prompt", status=400)
        _add_prompt(body, content.input)
    else:
        path = CHAT
        if content.continues:
            _check_begun(content.input)
        body["messages"] = [_message(each) for each in content.input]
        if content.tools:
            body["tools"] = [tool_body(each) for each in content.tools]
    if content.format_json is not None:
        is_word = content.format_json == "json"
        body["format"] = "json" if is_word else checked_json(content.format_json, "format")
    if content.think is not None:
        body["think"] = content.think
    options = dict(content.options)
    if "num_predict" in options and not _is_positive(options["num_predict"]):
        del options["num_predict"]
    _add_options(body, options, num_ctx)
    return path, _encode(body)


def _check_begun(messages: tuple[Message, ...]) -> None:
    """Ollama has no word for going on: where the last message is the assistant's, it executes the
    template up to that message's end and lets the model write on (its template/template.go); behind
    any other, a new answer would begin."""
    if not messages or messages[-1].role != "assistant":
        raise BackendRefused("only an assistant's message can be gone on with", status=400)


def embed_body(model: str, content: EmbedContent, num_ctx: int | None) -> bytes:
    """Asks for one vector per input, in their order."""
    body: dict[str, object] = {"model": model, "input": content.inputs}
    if content.refuse_too_long:
        body["truncate"] = False
    if content.dimensions:
        body["dimensions"] = content.dimensions
    _add_options(body, {}, num_ctx)
    return _encode(body)


def load_body(model: str, num_ctx: int | None, keep_alive_s: int) -> bytes:
    """No prompt and a time to stay: for /api/generate. Negative seconds mean for ever."""
    return _encode(_residency(model, num_ctx, keep_alive_s) | {"stream": False})


def embed_load_body(model: str, num_ctx: int | None, keep_alive_s: int) -> bytes:
    """No input and a time to stay: for /api/embed, the only way to load an embedding model."""
    return _encode(_residency(model, num_ctx, keep_alive_s) | {"input": []})


def pull_body(model: str) -> bytes:
    """Downloads it, and says how far it is."""
    return _encode({"model": model, "stream": True})


def show_body(model: str) -> bytes:
    return _encode({"model": model})


def _residency(model: str, num_ctx: int | None, keep_alive_s: int) -> dict[str, object]:
    keep_alive = min(keep_alive_s, KEEP_ALIVE_S_MAX)
    body: dict[str, object] = {"model": model, "keep_alive": keep_alive}
    _add_options(body, {}, num_ctx)
    return body


def _add_prompt(body: dict[str, object], prompt: Prompt) -> None:
    body["prompt"] = prompt.text
    if prompt.system:
        body["system"] = prompt.system
    if prompt.suffix:
        body["suffix"] = prompt.suffix
    if prompt.images:
        body["images"] = _base64(prompt.images)
    if prompt.raw:
        body["raw"] = True


def _add_options(body: dict[str, object], options: dict[str, object], num_ctx: int | None) -> None:
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    if options:
        body["options"] = options


def _is_positive(value: object) -> bool:
    return not isinstance(value, int) or value >= 1


def _message(message: Message) -> dict[str, object]:
    body: dict[str, object] = {"role": message.role, "content": message.content}
    if message.thinking:
        body["thinking"] = message.thinking
    if message.images:
        body["images"] = _base64(message.images)
    if message.tool_calls:
        calls: list[dict[str, object]] = []
        for index, call in enumerate(message.tool_calls):
            arguments = checked_json(call.arguments_json, f"the arguments of {call.name}")
            function = {"index": index, "name": call.name, "arguments": arguments}
            calls.append(
                {"id": call.id, "function": function} if call.id else {"function": function}
            )
        body["tool_calls"] = calls
    if message.tool_name:
        body["tool_name"] = message.tool_name
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body


def _base64(images: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(image).decode("ascii") for image in images]
