"""What a client asks of a simulated server of OpenAI's dialect, or why it is refused.

Rules: the words and statuses of a refusal are those of the server that is simulated; what it does
not know is passed over. A token is four bytes of text. Source: vllm/entrypoints/openai;
llama.cpp tools/server (server-common, chat).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from broker.sim.ollama_gojson import Json
from broker.sim.openai_flavour import Flavour, SimModel, find_model

BYTES_PER_TOKEN: Final = 4
TOKENS_PER_IMAGE: Final = 256


class Endpoint(Enum):
    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


class Refused(Exception):
    """No, with a status and the words for it. `kind` is the error's type on the wire."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, checked. `prompt` is all of its text; `begun` the answer that it is to go on
    from, which is not part of `prompt`; `schema` is None where no JSON is asked for."""

    endpoint: Endpoint
    model: SimModel
    prompt: str
    prompt_tokens: int
    inputs: tuple[str, ...] = ()
    dimensions: int = 0
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    tools: tuple[Json, ...] = ()
    schema: Json = None
    thinks: bool = False
    begun: str = ""


def read_request(
    body: bytes, endpoint: Endpoint, flavour: Flavour, models: tuple[SimModel, ...]
) -> Asked:
    """Checks a request as the server would; raises Refused."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON", _bad(flavour)) from None
    if not isinstance(given, dict):
        raise Refused(400, "the body is no JSON object", _bad(flavour))
    model = _model(given, flavour, models)
    if endpoint is Endpoint.EMBEDDINGS:
        return _embedding(given, model, flavour)
    if model.dimensions:
        raise _cannot(flavour, "Chat Completions API")
    if endpoint is Endpoint.CHAT:
        prompt, tokens, begun = _conversation(given, model, flavour)
    else:
        prompt, begun = _prompt(given, flavour), ""
        tokens = _tokens(prompt)
    max_tokens = given.get("max_tokens")
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise Refused(400, f"max_tokens must be at least 1, got {max_tokens}.", _bad(flavour))
    _check_context(tokens, max_tokens or 0, model, flavour)
    options = given.get("stream_options")
    stop = given.get("stop") or ()
    return Asked(
        endpoint=endpoint,
        model=model,
        prompt=prompt,
        prompt_tokens=tokens,
        stream=given.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=max_tokens,
        seed=given["seed"] if isinstance(given.get("seed"), int) else 0,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        tools=tuple(given.get("tools") or ()),
        schema=_schema(given),
        thinks=model.thinks and endpoint is Endpoint.CHAT and _may_think(given),
        begun=begun,
    )


def _bad(flavour: Flavour) -> str:
    return "BadRequestError" if flavour is Flavour.VLLM else "invalid_request_error"


def _model(given: Mapping[str, Json], flavour: Flavour, models: tuple[SimModel, ...]) -> SimModel:
    name = given.get("model")
    model = find_model(models, name) if isinstance(name, str) else None
    if model is not None:
        return model
    if flavour is Flavour.VLLM:
        raise Refused(404, f"The model `{name}` does not exist.", "NotFoundError")
    raise Refused(400, f"model '{name}' not found", "invalid_request_error")


def _cannot(flavour: Flavour, what: str) -> Refused:
    if flavour is Flavour.VLLM:
        return Refused(400, f"The model does not support {what}", "BadRequestError")
    words = "This server does not support embeddings. Start it with `--embeddings`"
    if "Embeddings" not in what:
        words = "This server does not support completions."
    return Refused(501, words, "not_supported_error")


def _embedding(given: Mapping[str, Json], model: SimModel, flavour: Flavour) -> Asked:
    if not model.dimensions:
        raise _cannot(flavour, "Embeddings API")
    asked = given.get("input")
    inputs = (asked,) if isinstance(asked, str) else tuple(asked) if isinstance(asked, list) else ()
    texts = tuple(each for each in inputs if isinstance(each, str))
    if not texts or len(texts) != len(inputs):
        raise Refused(400, "input must be a text, or a list of texts", _bad(flavour))
    dimensions = given.get("dimensions")
    whole = dimensions if isinstance(dimensions, int) else 0
    if not 0 <= whole <= model.dimensions:
        raise Refused(400, f"dimensions must be at most {model.dimensions}", _bad(flavour))
    for text in texts:
        _check_context(_tokens(text), 0, model, flavour)
    return Asked(
        endpoint=Endpoint.EMBEDDINGS,
        model=model,
        prompt="",
        prompt_tokens=sum(_tokens(text) for text in texts),
        inputs=texts,
        dimensions=whole or model.dimensions,
    )


def _conversation(
    given: Mapping[str, Json], model: SimModel, flavour: Flavour
) -> tuple[str, int, str]:
    """(text, tokens, the answer that is to go on)."""
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages must be a list that is not empty", _bad(flavour))
    said: list[str] = []
    images = 0
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(400, "a message has no role", _bad(flavour))
        text, seen = _content(message, flavour)
        images += seen
        said.append(f"{message['role']}: {text}")
    begun = _begun(given, messages[-1], model, flavour)
    if begun is not None:
        said.pop()
    prompt, begun = "\n".join(said), begun or ""
    return prompt, _tokens(prompt) + _tokens(begun) + images * TOKENS_PER_IMAGE, begun


def _begun(given: Mapping[str, Json], last: Json, model: SimModel, flavour: Flavour) -> str | None:
    """The answer so far, where the last message is one that is to go on."""
    is_answer = isinstance(last, dict) and last.get("role") == "assistant"
    if flavour is Flavour.VLLM:
        goes_on = given.get("continue_final_message") is True
        if goes_on and given.get("add_generation_prompt", True) is True:
            raise Refused(
                400,
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
                _bad(flavour),
            )
    else:
        goes_on = is_answer
        if goes_on and model.thinks and _may_think(given):
            raise Refused(
                400,
                "Assistant response prefill is incompatible with enable_thinking.",
                _bad(flavour),
            )
    content = last.get("content") if is_answer and isinstance(last, dict) else None
    return content if goes_on and isinstance(content, str) else None


def _content(message: Mapping[str, Json], flavour: Flavour) -> tuple[str, int]:
    """(text, images) of one message, its calls included."""
    content = message.get("content")
    calls = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
    if content is None or isinstance(content, str):
        return (content or "") + calls, 0
    texts: list[str] = []
    images = 0
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "text":
            texts.append(str(part.get("text")))
        elif isinstance(part, dict) and part.get("type") == "image_url":
            images += 1
        else:
            raise Refused(400, "a part of a message is of no known type", _bad(flavour))
    return "".join(texts) + calls, images


def _prompt(given: Mapping[str, Json], flavour: Flavour) -> str:
    prompt = given.get("prompt")
    if not isinstance(prompt, str):
        raise Refused(400, "prompt must be a text", _bad(flavour))
    if given.get("suffix") and flavour is Flavour.VLLM:
        raise Refused(400, "suffix is not currently supported", _bad(flavour))
    return prompt


def _check_context(tokens: int, max_tokens: int, model: SimModel, flavour: Flavour) -> None:
    if flavour is Flavour.VLLM and tokens + max_tokens > model.num_ctx:
        raise Refused(
            400,
            f"This model's maximum context length is {model.num_ctx} tokens. However, you "
            f"requested {max_tokens} output tokens and your prompt contains {tokens} input tokens.",
            _bad(flavour),
        )
    if tokens >= model.num_ctx:
        raise Refused(
            400,
            f"request ({tokens} tokens) exceeds the available context size ({model.num_ctx} "
            "tokens), try increasing it",
            "exceed_context_size_error",
        )


def _schema(given: Mapping[str, Json]) -> Json:
    wanted = given.get("response_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    named = wanted.get("json_schema")
    return named.get("schema") if isinstance(named, dict) else None


def _may_think(given: Mapping[str, Json]) -> bool:
    kwargs = given.get("chat_template_kwargs")
    is_off = isinstance(kwargs, dict) and kwargs.get("enable_thinking") is False
    return not is_off and given.get("reasoning_effort") != "none"


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN) if text else 0
