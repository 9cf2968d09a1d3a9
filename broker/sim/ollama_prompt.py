"""What the model is given to read: the rendered prompt of a request, and its tokens.

Rules: a chat becomes one text by the manner of its template (two of them, no template engine); a
text becomes token ids by a toy tokenizer whose granularity follows the size of the vocabulary, so
that the same beginning gives the same ids and counts come out as for the recorded models.

Source: reference/OLLAMA.md §1.3, §1.4 and the `context` and `prompt_eval_count` of recordings 10_,
15_, 16_, 20_ and 30_.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from broker.sim.ollama_asked import Asked, Message
from broker.sim.ollama_catalogue import SimModel, Template
from broker.sim.ollama_gojson import Json, marshal

BOS: Final = 1
EOS: Final = 2
# Vocabularies below these sizes spell byte by byte, and letter by letter; larger ones know words.
_BYTES_VOCAB_MAX: Final = 1_000
_LETTERS_VOCAB_MAX: Final = 10_000
_WORD: Final = re.compile(r" ?[A-Za-z]{1,6}|[0-9]{1,3}|\s+|[^A-Za-z0-9\s]")
_EMBED_PIECE: Final = re.compile(r"(?<![a-z])[bcdfghjklmnpqrstvwxyz]?[aeiou]|\S", re.IGNORECASE)
_IMAGE_TOKENS: Final = 768
_SPACE_MARK: Final = "\u2581"
_ACTION: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
# What llama-server tells a model whose own template says nothing of tools. Its words are not
# recorded, its length is (16_chat_native_tools).
_NATIVE_TOOLS: Final = (
    "system: When you need a tool, answer with one single JSON object and nothing else: its "
    "name and its arguments. The tools you may call:\n{}\n"
)


class TemplateError(Exception):
    """A template of the request's own that Go does not parse; `text` is what the 500 says."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def tool_text(tool: Mapping[str, Json]) -> str:
    """A tool as Ollama's template prints it: compact JSON with the fields in Go's order."""
    function = tool.get("function")
    function = function if isinstance(function, dict) else {}
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    known = ("type", "$defs", "items", "required", "properties")
    shown: Json = {
        "type": tool.get("type", ""),
        "function": {
            "name": function.get("name", ""),
            "description": function.get("description", ""),
            "parameters": {key: parameters[key] for key in known if key in parameters},
        },
    }
    return marshal(shown)


def _go_message(message: Message) -> str:
    thinking = f"<think>{message.thinking}</think>" if message.thinking else ""
    calls = "".join(_go_call(call) for call in message.tool_calls)
    return f"{message.role} {thinking}{message.content}{calls}\n"


def _go_call(call: Mapping[str, object]) -> str:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = marshal(function.get("arguments", {}))
    name = function.get("name", "")
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


def _with_system(asked: Asked, messages: Sequence[Message]) -> Sequence[Message]:
    """A system text from the request's field or the model stands before the messages."""
    if not asked.system or any(message.role == "system" for message in messages):
        return messages
    return (Message(role="system", content=asked.system), *messages)


def _render(asked: Asked, messages: Sequence[Message]) -> str:
    listed = _with_system(asked, messages)
    if asked.model.template is Template.NATIVE:
        tools = "".join(tool_text(tool) for tool in asked.tools)
        preface = _NATIVE_TOOLS.format(tools) if tools else ""
        lines = "".join(f"{message.role}: {message.content}\n" for message in listed)
        return f"{preface}{lines}assistant:"
    system = f"system {asked.system}\n" if asked.system else ""
    tools = "".join(f" {tool_text(tool)}" for tool in asked.tools)
    preface = f"Tools{tools}\n" if tools else ""
    lines = "".join(_go_message(message) for message in listed)
    return f"{system}{preface}{lines}assistant:"


def _own_template(asked: Asked) -> str:
    """A template given with the request: its fields are filled in, its logic is not run."""
    opened = asked.template.rfind("{{")
    if opened > asked.template.rfind("}}"):
        line = asked.template.count("\n", 0, opened) + 1
        raise TemplateError(f"template: :{line}: unclosed action")
    fields = {".Prompt": asked.messages[0].content, ".System": asked.system}
    return _ACTION.sub(lambda action: fields.get(action.group(1), ""), asked.template)


def render(asked: Asked) -> str:
    """The text that the model reads; raises TemplateError."""
    if asked.template:
        return _own_template(asked)
    if asked.raw:
        return asked.messages[0].content
    return _render(asked, asked.messages)


def count_tokens(model: SimModel, text: str) -> int:
    """How many tokens `tokenize` gives, without making them where that is cheaper."""
    if model.is_embedding or model.vocab_size >= _LETTERS_VOCAB_MAX:
        return len(tokenize(model, text))
    if model.vocab_size < _BYTES_VOCAB_MAX:
        return 1 + len(text.encode()) + 2 * text.count(" ")
    return 2 + len(text)


def tokenize(model: SimModel, text: str) -> tuple[int, ...]:
    """Token ids of a text, with the marks that the model's tokenizer puts around it."""
    if model.is_embedding:
        return (EOS, *_ids(model, _EMBED_PIECE.findall(text)), EOS + 1)
    if model.vocab_size < _BYTES_VOCAB_MAX:
        spelled = text.replace(" ", _SPACE_MARK).encode()
        return (BOS, *(byte + 3 for byte in spelled))
    if model.vocab_size < _LETTERS_VOCAB_MAX:
        limit = model.vocab_size - 259
        return (BOS, 259, *(259 + ord(letter) % limit for letter in text))
    return (BOS, *_ids(model, _WORD.findall(text)))


def tokenize_more(model: SimModel, text: str) -> tuple[int, ...]:
    """Token ids of a text that follows another, as `context` appends the answer."""
    ids = tokenize(model, text)
    letters = _BYTES_VOCAB_MAX <= model.vocab_size < _LETTERS_VOCAB_MAX
    return ids[2:] if letters else ids[1:]


def count_more(model: SimModel, text: str) -> int:
    """How many tokens a text adds to the one before it."""
    letters = _BYTES_VOCAB_MAX <= model.vocab_size < _LETTERS_VOCAB_MAX
    return count_tokens(model, text) - (2 if letters else 1)


def _ids(model: SimModel, pieces: Sequence[str]) -> list[int]:
    limit = max(1, model.vocab_size - 259)
    return [259 + zlib.crc32(piece.encode()) % limit for piece in pieces]


def cut_middle(tokens: tuple[int, ...], *, num_ctx: int, num_keep: int) -> tuple[int, ...]:
    """A prompt too long for its context: the middle goes, half of what follows num_keep stays.

    reference/OLLAMA.md §1.3: num_ctx - (num_ctx - num_keep) / 2 tokens stay, 514 of 1024.
    """
    keep = min(max(0, num_keep), num_ctx - 1)
    stay = num_ctx - (num_ctx - keep) // 2
    return tokens[:keep] + tokens[len(tokens) - (stay - keep) :]


def drop_oldest(asked: Asked, *, num_ctx: int) -> Asked:
    """The chat with its oldest messages dropped until it fits; system ones and the last stay.

    Each image counts as 768 tokens (reference/OLLAMA.md §1.4). Ollama renders and tokenises the
    rest anew for each message it drops; here the newest that fit are counted once.
    """
    last = len(asked.messages) - 1
    kept = {i for i, m in enumerate(asked.messages) if m.role == "system" or i == last}
    always = [m for i, m in enumerate(asked.messages) if i in kept]
    room = num_ctx - count_tokens(asked.model, _render(asked, always))
    room -= _IMAGE_TOKENS * sum(message.images for message in always)
    native = asked.model.template is Template.NATIVE
    for i in range(last - 1, -1, -1):
        message = asked.messages[i]
        if i in kept:
            continue
        line = f"{message.role}: {message.content}\n" if native else _go_message(message)
        room -= count_more(asked.model, line) + _IMAGE_TOKENS * message.images
        if room < 0:
            break
        kept.add(i)
    return replace(asked, messages=tuple(asked.messages[i] for i in sorted(kept)))
