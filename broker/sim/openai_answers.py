"""The bodies that a simulated server of OpenAI's dialect answers with.

Rules: pure; the same words in the same order for the same request. vLLM says `reasoning`, counts in
a last chunk and says nothing of time; llama-server says `reasoning_content`, adds `timings` and,
while its prompt is read, comments that keep a connection from idling. Source: vllm/entrypoints/
openai/*/protocol.py; llama.cpp tools/server (server-task.cpp, format_error_response).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from broker.sim.ollama_gojson import Json
from broker.sim.openai_flavour import Flavour, SimModel
from broker.sim.openai_requests import Asked, Endpoint, Refused
from broker.sim.openai_words import Speech, Token

VERSION: Final = "0.19.0"
DONE: Final = b"data: [DONE]\n\n"
COMMENT: Final = b":\n\n"
CREATED_UNIX_S: Final = 1_700_000_000  # of every model and answer: nothing here reads a clock
_BYTES_PER_PARAMETER: Final = 2
_TYPES: Final = {
    400: ("BadRequestError", "invalid_request_error"),
    401: ("Unauthorized", "authentication_error"),
    404: ("NotFoundError", "not_found_error"),
    429: ("RateLimitError", "unavailable_error"),
    500: ("InternalServerError", "server_error"),
    503: ("ServiceUnavailableError", "unavailable_error"),
}


def encoded(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def event(document: Json) -> bytes:
    return b"data: " + encoded(document) + b"\n\n"


def models_document(flavour: Flavour, models: tuple[SimModel, ...]) -> Json:
    rows: list[Json] = []
    for model in models:
        row: dict[str, Json] = {"id": model.id, "object": "model", "created": CREATED_UNIX_S}
        if flavour is Flavour.VLLM:
            row |= {"owned_by": "vllm", "root": model.id, "parent": None}
            row |= {"max_model_len": model.num_ctx, "permission": []}
        else:
            row |= {"aliases": [model.id], "tags": [], "owned_by": "llamacpp"}
            row["meta"] = {
                "n_vocab": 151_936,
                "n_ctx": model.num_ctx,
                "n_ctx_train": model.num_ctx * 4,
                "n_embd": model.dimensions or 4_096,
                "n_params": model.parameters,
                "size": model.parameters * _BYTES_PER_PARAMETER,
            }
        rows.append(row)
    return {"object": "list", "data": rows}


def error_of(flavour: Flavour, refused: Refused) -> Json:
    """The value of `error`, as it stands in a body and in a stream."""
    names = _TYPES.get(refused.status, _TYPES[500])
    kind = refused.kind or names[flavour is Flavour.LLAMA_SERVER]
    error: dict[str, Json] = {"message": refused.message, "type": kind, "code": refused.status}
    if flavour is Flavour.VLLM:
        error["param"] = None
    return error


def error_document(flavour: Flavour, refused: Refused) -> Json:
    return {"error": error_of(flavour, refused)}


def embeddings_document(asked: Asked, vectors: list[list[float]]) -> Json:
    rows: list[Json] = [
        {"object": "embedding", "index": index, "embedding": list[Json](vector)}
        for index, vector in enumerate(vectors)
    ]
    rows.reverse()  # the index says which is which; the dialect promises no order
    usage: Json = {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens}
    return {"object": "list", "data": rows, "model": asked.model.id, "usage": usage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The documents of one answer, whole or in chunks."""

    flavour: Flavour
    asked: Asked
    speech: Speech
    number: int
    prompt_ms: float
    token_ms: float

    @property
    def _is_chat(self) -> bool:
        return self.asked.endpoint is Endpoint.CHAT

    def _document(self, choices: list[Json], *, is_chunk: bool) -> dict[str, Json]:
        kind = "text_completion"
        if self._is_chat:
            kind = "chat.completion.chunk" if is_chunk else "chat.completion"
        prefix = "chatcmpl" if self._is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.number}",
            "object": kind,
            "created": CREATED_UNIX_S,
            "model": self.asked.model.id,
            "choices": choices,
        }

    def first(self) -> list[bytes]:
        """What comes before the first token."""
        if not self._is_chat:
            return []
        return [event(self._chunk({"role": "assistant", "content": ""}, None))]

    def token(self, token: Token) -> bytes:
        if not self._is_chat:
            return event(self._chunk({"text": token.text}, None))
        delta: dict[str, Json] = {}
        if token.text:
            delta["content"] = token.text
        if token.thinking:
            delta[self._reasoning] = token.thinking
        if token.call_name:
            function: Json = {"name": token.call_name, "arguments": ""}
            delta["tool_calls"] = [
                {"index": 0, "id": token.call_id, "type": "function", "function": function}
            ]
        elif token.call_arguments:
            part: Json = {"arguments": token.call_arguments}
            delta["tool_calls"] = [{"index": 0, "function": part}]
        return event(self._chunk(delta, None))

    def last(self) -> list[bytes]:
        """How it ended, what it cost, and that it is over."""
        finish = self._chunk({} if self._is_chat else {"text": ""}, self.speech.finish.value)
        events = [finish]
        if self.asked.include_usage:
            events.append(self._document([], is_chunk=True) | {"usage": self.usage()})
        if self.flavour is Flavour.LLAMA_SERVER:
            events[-1]["timings"] = self._timings()
        return [*(event(each) for each in events), DONE]

    def whole(self) -> Json:
        """All of it at once, as a client that wants no stream gets it."""
        tokens = self.speech.tokens
        text = "".join(token.text for token in tokens)
        choice: dict[str, Json] = {"index": 0, "finish_reason": self.speech.finish.value}
        if not self._is_chat:
            choice["text"] = text
        else:
            message: dict[str, Json] = {"role": "assistant", "content": text}
            message[self._reasoning] = "".join(token.thinking for token in tokens) or None
            named = next((token for token in tokens if token.call_name), None)
            if named is not None:
                arguments = "".join(token.call_arguments for token in tokens)
                function: Json = {"name": named.call_name, "arguments": arguments}
                call: Json = {"id": named.call_id, "type": "function", "function": function}
                message["tool_calls"] = [call]
            choice["message"] = message
        return self._document([choice], is_chunk=False) | {"usage": self.usage()}

    def usage(self) -> Json:
        prompt, spoken = self.asked.prompt_tokens, len(self.speech.tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": spoken,
            "total_tokens": prompt + spoken,
        }

    @property
    def _reasoning(self) -> str:
        return "reasoning" if self.flavour is Flavour.VLLM else "reasoning_content"

    def _chunk(self, delta: dict[str, Json], finish: str | None) -> dict[str, Json]:
        choice: dict[str, Json] = {"index": 0, "finish_reason": finish}
        choice |= {"delta": delta} if self._is_chat else delta
        return self._document([choice], is_chunk=True)

    def _timings(self) -> Json:
        spoken = len(self.speech.tokens)
        return {
            "prompt_n": self.asked.prompt_tokens,
            "prompt_ms": self.prompt_ms,
            "predicted_n": spoken,
            "predicted_ms": spoken * self.token_ms,
        }
