"""What an answer in OpenAI's dialect that is no success means: the error of ours that it is.

Rules: the text reaches people as the server said it, out of whichever shape (`error_text.py`); the
status decides, except where servers are known to mislead. Sources: vllm/entrypoints/openai
(create_error_response), llama.cpp tools/server (format_error_response), lmstudio.ai/docs/developer;
recorded 40_v1_chat_unknown, 16_v1_chat_too_long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.backends.error_text import error_text, said_nothing, text_of_error
from broker.core.errors import (
    AccessDenied,
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
    ModelUnknown,
)

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
MODELS: Final = "/v1/models"
HEALTH: Final = "/health"
VERSION: Final = "/version"

_INFERENCE: Final = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})
_BUSY: Final = frozenset({429, 503})
_NO_KEY: Final = frozenset({401, 403})

# llama-server answers these with 500 and 501, though another server would do no better with them.
_CALLERS_FAULT: Final = (
    "is too large to process",
    "exceeds the available context size",
    "does not support embeddings",
    "not_supported_error",
)
# vLLM: "The model `m` does not exist."; Ollama, llama-server: "model 'm' not found".
_UNKNOWN: Final = ("not found", "does not exist")
_UNKNOWN_CODE: Final = "model_not_found"


def error_of_status(
    api_key_env: str, path: str, model: str, status: int, body: bytes
) -> BrokerError:
    """The error that an answer with another status than 200 means. `model` is what was asked for,
    `api_key_env` names where the key came from.

    Off the inference paths nothing that a request holds is sent, so there a refusal is the
    server's failure and never the request's.
    """
    raw = body.decode("utf-8", "replace")
    text = error_text(raw)
    shown = text or said_nothing(status)
    if status in _BUSY:
        return BackendBusy(shown, status=status)
    if status in _NO_KEY:
        return AccessDenied(_about_key(api_key_env, shown), status=status)
    if status in (400, 404) and model and _is_unknown_model(raw, text):
        return ModelUnknown(model, ())
    if path not in _INFERENCE:
        return BackendFailed(f"{path} answered {status}: {shown}", status=status)
    is_refusal = 400 <= status < 500 and status not in (408, 499)
    if is_refusal or any(mark in raw for mark in _CALLERS_FAULT):
        return BackendRefused(shown, status=status)
    return BackendFailed(shown, status=status)


def error_of_event(error: object, has_spoken: bool) -> BrokerError:
    """The failure that an error inside a stream means; the status had long been sent as 200.

    One that comes before any word and carries the code of a refusal is a refusal: some servers
    look at the request only when they have begun to answer.
    """
    shown = text_of_error(error) or "an error without a word, in the stream"
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(code, int) and not has_spoken:
        if code in _BUSY:
            return BackendBusy(shown, status=code)
        if code in _NO_KEY:
            return AccessDenied(shown, status=code)
        if 400 <= code < 500 and code not in (408, 499):
            return BackendRefused(shown, status=code)
    return BackendFailed(shown)


def _is_unknown_model(raw: str, text: str) -> bool:
    if _UNKNOWN_CODE in raw:
        return True
    return "model" in text and any(mark in text for mark in _UNKNOWN)


def _about_key(api_key_env: str, shown: str) -> str:
    where = f"the key in {api_key_env} is not taken" if api_key_env else "it wants a key"
    return f"{shown} ({where}: see api_key_env of this backend)"
