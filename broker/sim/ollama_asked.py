"""What was asked of a simulated Ollama, as data: a request that passed the checks, or its refusal.

Source: reference/OLLAMA.md §1.3-1.5 and §2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from broker.sim.ollama_catalogue import SimModel
from broker.sim.ollama_gojson import Json, quote
from broker.sim.ollama_options import Options


class Refusal(Exception):
    """An answer that is an error and known before anything is scheduled."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text

    @property
    def body(self) -> bytes:
        return error_body(self.text)


def error_body(text: str) -> bytes:
    """The document of every native error: one field, a string."""
    return f'{{"error":{quote(text)}}}'.encode()


class Endpoint(Enum):
    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"
    EMBEDDINGS = "embeddings"


class Action(Enum):
    ANSWER = "answer"
    LOAD = "load"  # nothing to say: make the model resident
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: str
    content: str = ""
    thinking: str = ""
    images: int = 0
    tool_calls: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that passed every check before scheduling. `spelled` is echoed as `model`."""

    endpoint: Endpoint
    action: Action
    model: SimModel
    spelled: str
    options: Options
    keep_alive_ns: int | None = None
    stream: bool = True
    think: bool | str | None = None  # None where the model cannot think
    messages: tuple[Message, ...] = ()  # of generate: the prompt as one user message
    system: str = ""
    template: str = ""
    raw: bool = False
    images: int = 0
    tools: tuple[Mapping[str, Json], ...] = ()
    format: Json = None
    truncate: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = False
    inputs: tuple[str, ...] = ()  # of embed and embeddings
    dimensions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowAsked:
    model: SimModel
    verbose: bool
    system: str
