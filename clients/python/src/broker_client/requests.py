"""Builds the messages of the wire from what a caller writes. Pure.

Rules. Limits are the broker's to judge, so that there is one judge; only what the wire cannot
express at all is an error here (TypeError, ValueError). Conversations, tools, format and think are
taken as Ollama's HTTP interface writes them, or as the typed classes below.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, Required, TypedDict, TypeVar

from broker_client.awareness import ResourceAwareness
from broker_client.choices import Requirements, requirements_message
from broker_client.events import ToolCall
from broker_client.pb.broker.v1 import common_pb2, inference_pb2

Criticality = Literal["critical", "normal", "batch"]
CachePolicy = Literal["allow", "bypass"]
Substitution = Literal["any", "fallbacks", "never"]
OnInterruption = Literal["fail", "restart", "continue"]

_N = TypeVar("_N", covariant=True)


class _Kinds(Protocol[_N]):
    """An enumeration of the wire."""

    def keys(self) -> Sequence[str]: ...

    def Value(self, name: str, /) -> _N: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each phase may take, in seconds; None: no limit from this side. Where the model or
    the broker's configuration says less, that holds, and the error is `TimedOut`.

    `queue_s` from arrival until a backend has it, `load_s` while its model is loaded,
    `first_token_s` from the start of an attempt to its first piece, `token_gap_s` between two
    pieces, `total_s` from arrival to the end.
    """

    queue_s: float | None = None
    load_s: float | None = None
    first_token_s: float | None = None
    token_gap_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation: role "system", "user", "assistant" or "tool"."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the model may call; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Options(TypedDict, total=False):
    """Sampling and length; ranges in inference.proto. What is absent is the model's default."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: Sequence[str]
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    repeat_last_n: int
    num_ctx: int


class Ask(Options, total=False):
    """All that a generation may be asked with: `prompt` or `messages`, and the rest at will.

    `system`, `suffix`, `images` and `raw` belong to `prompt`. `deadline_s` is in seconds from now;
    without it the broker's own default applies. `request_id` is drawn where it is absent.
    `substitution` says which models may answer beside `model`: "any" (also a small one, where the
    level allows no other; the default), "fallbacks" alone, or "never". `accept_default`: the
    operator's default answer will do, if there is one, at the critical level and where a time-out
    or a failure would end the request before its first piece; `prompt_type` chooses among several.
    `on_interruption` says what may be done when an attempt is lost after a piece of it has come:
    "fail" (the default), "restart" (it begins anew, `Requeued` says which pieces are void) or
    "continue" (it goes on from the text so far; not with `format`, `suffix` or `raw`).
    `preemptible`: may it be set aside, while it runs, for urgent work? Then it waits again and goes
    on where `on_interruption` is "continue", else it begins anew; by default from priority 8 on,
    where `on_interruption` is not "fail" in so many words, and never for `text()`.
    `session_id` groups the calls of one task, and `expected_calls` says how many it will have in
    all: what is nearly done goes before what has only begun.
    `soft_deadline_s`: within so many seconds the answer would be liked; nothing ends it then, and
    `soft_deadline_met` of the result says whether it came by then.
    `model` is a model or an alias; with `requirements` it must be so, or may be left out.
    `awareness` takes the place of the client's own, None: this request is not lowered.
    """

    model: str
    requirements: Requirements
    prompt: str
    system: str
    suffix: str
    images: Sequence[bytes]
    raw: bool
    messages: Sequence[Message | Mapping[str, Any]]
    tools: Sequence[Tool | Mapping[str, Any]]
    format: Literal["json"] | Mapping[str, Any]
    think: bool | str
    fallback_models: Sequence[str]
    prefer_loaded: bool
    priority: int
    criticality: Criticality
    session_id: str
    expected_calls: int
    cache_policy: CachePolicy
    preemptible: bool
    substitution: Substitution
    accept_default: bool
    prompt_type: str
    on_interruption: OnInterruption
    timeouts: Timeouts
    request_id: str
    deadline_s: float | None
    soft_deadline_s: float | None
    awareness: ResourceAwareness | None


class EmbedAsk(TypedDict, total=False):
    """All that an embedding may be asked with. `dimensions` 0 means whole vectors; of `timeouts`
    the gap between tokens means nothing here."""

    model: str
    requirements: Requirements
    inputs: Required[Sequence[str]]
    dimensions: int
    refuse_too_long: bool
    priority: int
    criticality: Criticality
    timeouts: Timeouts
    request_id: str
    deadline_s: float | None
    soft_deadline_s: float | None


PROMPT_ONLY: Final = ("system", "suffix", "images", "raw")
MESSAGE_KEYS: Final = frozenset(
    ("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id")
)


def new_request_id() -> str:
    """A name that no other request has."""
    return uuid.uuid4().hex


def generate_request(ask: Ask, *, agent_id: str) -> inference_pb2.GenerateRequest:
    """The message for one generation."""
    unknown = ask.keys() - Ask.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown arguments: {', '.join(sorted(unknown))}")
    request = inference_pb2.GenerateRequest(
        request_id=ask.get("request_id") or new_request_id(),
        agent_id=agent_id,
        model=model_of(ask),
        requirements=requirements_message(ask.get("requirements")),
        fallback_models=ask.get("fallback_models", ()),
        prefer_loaded=ask.get("prefer_loaded", False),
        options=options_message(ask),
        priority=ask.get("priority", 0),
        criticality=criticality_number(ask.get("criticality")),
        session_id=ask.get("session_id", ""),
        expected_calls=ask.get("expected_calls", 0),
        cache_policy=cache_policy_number(ask.get("cache_policy")),
        tools=[tool_message(each) for each in ask.get("tools", ())],
        substitution=substitution_number(ask.get("substitution")),
        accept_default=ask.get("accept_default", False),
        on_interruption=on_interruption_number(ask.get("on_interruption")),
        timeouts=timeouts_message(ask.get("timeouts")),
        prompt_type=ask.get("prompt_type", ""),
        soft_deadline_ms=milliseconds(ask.get("soft_deadline_s")),
    )
    set_input(request, ask)
    if "format" in ask:
        request.format.CopyFrom(format_message(ask["format"]))
    if "think" in ask:
        request.think.CopyFrom(think_message(ask["think"]))
    if "preemptible" in ask:
        request.preemptible = ask["preemptible"]
    return request


def model_of(ask: Ask | EmbedAsk) -> str:
    """The model or alias; "" where requirements say which."""
    if "model" not in ask and ask.get("requirements") is None:
        raise TypeError("give a model or an alias, or requirements")
    return ask.get("model", "")


def set_input(request: inference_pb2.GenerateRequest, ask: Ask) -> None:
    """Sets the prompt or the conversation; neither is the broker's to refuse."""
    if "messages" in ask:
        misplaced = [key for key in ("prompt", *PROMPT_ONLY) if key in ask]
        if misplaced:
            raise ValueError(f"{', '.join(misplaced)} cannot go with messages")
        request.chat.CopyFrom(
            inference_pb2.Chat(messages=[chat_message(each) for each in ask["messages"]])
        )
    elif "prompt" in ask:
        request.prompt.CopyFrom(
            inference_pb2.Prompt(
                text=ask["prompt"],
                system=ask.get("system", ""),
                suffix=ask.get("suffix", ""),
                images=ask.get("images", ()),
                raw=ask.get("raw", False),
            )
        )


def embed_request(ask: EmbedAsk, *, agent_id: str) -> inference_pb2.EmbedRequest:
    """The message for one embedding call."""
    unknown = ask.keys() - EmbedAsk.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown arguments: {', '.join(sorted(unknown))}")
    if isinstance(ask["inputs"], str):
        raise TypeError("inputs is a sequence of texts, not one text")
    return inference_pb2.EmbedRequest(
        request_id=ask.get("request_id") or new_request_id(),
        agent_id=agent_id,
        model=model_of(ask),
        requirements=requirements_message(ask.get("requirements")),
        inputs=ask["inputs"],
        dimensions=ask.get("dimensions", 0),
        refuse_too_long=ask.get("refuse_too_long", False),
        priority=ask.get("priority", 0),
        criticality=criticality_number(ask.get("criticality")),
        timeouts=timeouts_message(ask.get("timeouts")),
        soft_deadline_ms=milliseconds(ask.get("soft_deadline_s")),
    )


def options_message(ask: Ask) -> inference_pb2.Options:
    """The options among the arguments; absent ones stay unset, which is not zero."""
    given: dict[str, Any] = {
        key: value for key, value in ask.items() if key in Options.__annotations__
    }
    if isinstance(given.get("stop"), str):
        raise TypeError("stop is a sequence of texts, not one text")
    return inference_pb2.Options(**given)


def criticality_number(word: str | None) -> common_pb2.Criticality.ValueType:
    """The wire's number for a word; unspecified for None."""
    return _number(common_pb2.Criticality, "CRITICALITY", word)


def cache_policy_number(word: str | None) -> inference_pb2.CachePolicy.ValueType:
    """The wire's number for a word; unspecified for None."""
    return _number(inference_pb2.CachePolicy, "CACHE_POLICY", word)


def substitution_number(word: str | None) -> inference_pb2.Substitution.ValueType:
    """The wire's number for a word; unspecified for None."""
    return _number(inference_pb2.Substitution, "SUBSTITUTION", word)


def on_interruption_number(word: str | None) -> inference_pb2.OnInterruption.ValueType:
    """The wire's number for a word; unspecified for None."""
    return _number(inference_pb2.OnInterruption, "ON_INTERRUPTION", word)


def _number(kinds: _Kinds[_N], name: str, word: str | None) -> _N:
    """ValueError names the words that there are."""
    known = {each.removeprefix(f"{name}_").lower(): each for each in kinds.keys()}  # noqa: SIM118
    wanted = "unspecified" if word is None else word.lower()
    if wanted not in known:
        words = ", ".join(sorted(known.keys() - {"unspecified"}))
        raise ValueError(f"{name.lower()} is one of {words}, not {word!r}")
    return kinds.Value(known[wanted])


def timeouts_message(timeouts: Timeouts | None) -> inference_pb2.Timeouts | None:
    """In milliseconds; a phase without a limit stays unset, which is not zero."""
    if timeouts is None:
        return None
    return inference_pb2.Timeouts(
        queue_ms=milliseconds(timeouts.queue_s),
        load_ms=milliseconds(timeouts.load_s),
        first_token_ms=milliseconds(timeouts.first_token_s),
        token_gap_ms=milliseconds(timeouts.token_gap_s),
        total_ms=milliseconds(timeouts.total_s),
    )


def milliseconds(seconds: float | None) -> int | None:
    """Seconds in the wire's unit."""
    return None if seconds is None else round(seconds * 1000)


def chat_message(message: Message | Mapping[str, Any]) -> inference_pb2.Message:
    """One message of a conversation, typed or as Ollama writes it."""
    if isinstance(message, Message):
        return inference_pb2.Message(
            role=message.role,
            content=message.content,
            thinking=message.thinking,
            images=message.images,
            tool_calls=[tool_call_message(each) for each in message.tool_calls],
            tool_name=message.tool_name,
            tool_call_id=message.tool_call_id,
        )
    unknown = message.keys() - MESSAGE_KEYS
    if unknown:
        raise ValueError(f"a message has no {', '.join(sorted(unknown))}")
    return inference_pb2.Message(
        **{key: value for key, value in message.items() if key != "tool_calls"},
        tool_calls=[tool_call_message(each) for each in message.get("tool_calls", ())],
    )


def tool_call_message(call: ToolCall | Mapping[str, Any]) -> inference_pb2.ToolCall:
    """A tool call handed back, typed or as Ollama writes it."""
    if isinstance(call, ToolCall):
        return inference_pb2.ToolCall(
            id=call.id, name=call.name, arguments_json=call.arguments_json
        )
    function = call["function"]
    return inference_pb2.ToolCall(
        id=call.get("id", ""),
        name=function["name"],
        arguments_json=json.dumps(function.get("arguments", {}), ensure_ascii=False),
    )


def tool_message(tool: Tool | Mapping[str, Any]) -> inference_pb2.Tool:
    """A tool, typed or as Ollama writes it: {"type": "function", "function": {...}}."""
    if not isinstance(tool, Tool):
        function = tool["function"]
        tool = Tool(
            name=function["name"],
            description=function.get("description", ""),
            parameters=function.get("parameters", {}),
        )
    return inference_pb2.Tool(
        name=tool.name,
        description=tool.description,
        parameters_json=json.dumps(tool.parameters, ensure_ascii=False),
    )


def format_message(shape: Literal["json"] | Mapping[str, Any]) -> inference_pb2.Format:
    """The shape of the answer: "json" or a JSON Schema."""
    if isinstance(shape, str):
        if shape != "json":
            raise ValueError('format is "json" or a JSON Schema')
        return inference_pb2.Format(json=True)
    return inference_pb2.Format(json_schema=json.dumps(shape, ensure_ascii=False))


def think_message(mode: bool | str) -> inference_pb2.Think:
    """Thinking: on, off, or a level."""
    if isinstance(mode, bool):
        return inference_pb2.Think(enabled=mode)
    return inference_pb2.Think(level=mode)
