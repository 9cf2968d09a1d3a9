"""What travels through the broker and what comes back: words, pieces, vectors.

The engine never looks at these; it steers and does not carry. They are declared in the core only
because ports speak of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import NamedTuple

from broker.core.value import value


class ToolCall(NamedTuple):
    """A call that a model made. `arguments_json` is one JSON object, order kept."""

    id: str
    name: str
    arguments_json: str


@value(kw_only=True)
class Tool:
    """A tool that a model may call. `parameters_json` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters_json: str


@value(kw_only=True)
class Message:
    """One message of a conversation. Images are raw bytes."""

    role: str
    content: str
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@value(kw_only=True)
class Prompt:
    """A plain prompt. Images are raw bytes."""

    text: str
    system: str = ""
    suffix: str = ""
    images: tuple[bytes, ...] = ()
    raw: bool = False


@value(kw_only=True)
class GenerateContent:
    """All of a generation that a backend needs, apart from the model and its context size.

    `options` are sampling options under Ollama's names, only those that were given; `num_predict`
    among them is at least 1. `format_json` is "json" or the text of a JSON Schema. `think` is None
    (not said), a bool or a level. `continues`: the last message is the assistant's own, begun and
    not ended; the answer is to go on from it and not repeat it.
    """

    input: Prompt | tuple[Message, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    format_json: str | None = None
    think: bool | str | None = None
    continues: bool = False


@value(kw_only=True)
class EmbedContent:
    """Texts to embed. `dimensions` 0 means whole vectors."""

    inputs: tuple[str, ...]
    dimensions: int = 0
    refuse_too_long: bool = False


class Piece(NamedTuple):
    """One event of a generation as the backend sent it: about one token."""

    text: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    UNSAID = "unsaid"


@value(kw_only=True)
class Completion:
    """How a generation ended well: the terminator came. Durations are the backend's own."""

    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    prompt_duration_ns: int = 0
    output_duration_ns: int = 0
    load_duration_ns: int = 0
    total_duration_ns: int = 0


@value(kw_only=True)
class Embeddings:
    """Vectors in the order of the inputs."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    total_duration_ns: int = 0
    load_duration_ns: int = 0
