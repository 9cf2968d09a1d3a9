"""What an answer of Ollama that is no success means: its text, and the error of ours that it is.

Rules: the text reaches people as the server said it, unpacked from whichever of the five shapes it
came in; the status decides, except where Ollama's statuses are known to mislead. Sources:
reference/OLLAMA.md §2 and the recordings named beside each exception.
"""

from __future__ import annotations

from typing import Final

from broker.backends.error_text import error_text, said_nothing, text_of_error
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
    ModelUnknown,
)

GENERATE: Final = "/api/generate"
CHAT: Final = "/api/chat"
EMBED: Final = "/api/embed"
TAGS: Final = "/api/tags"
SHOW: Final = "/api/show"
PS: Final = "/api/ps"
VERSION: Final = "/api/version"
PULL: Final = "/api/pull"
DELETE: Final = "/api/delete"

_INFERENCE: Final = frozenset({GENERATE, CHAT, EMBED})

# The caller's fault whatever the status says: an option of a wrong type and a format that is none
# are 500 (12_generate_bad_option_type, 10_generate_format_bad), a chat model asked to embed is 501
# (30_embed_on_chat_model).
_CALLERS_FAULT: Final = ("invalid format:", "does not support embeddings")
_OPTION_TYPE: Final = ('option "', "must be of type")

# /api/embed answers 400 to every failure of its runner, a crash too: Go's words for a call that
# did not come through (67_killed_mid_embed).
_CRASHED: Final = (
    'Post "http',
    'Get "http',
    "connection refused",
    "connection reset",
    "no longer running",
    "has terminated",
    "unexpectedly stopped",
)


def error_of_status(path: str, model: str, status: int, body: bytes) -> BrokerError:
    """The error that an answer with another status than 200 means. `model` is what was asked for.

    Off the inference paths nothing that a request holds is sent, so there a refusal is the
    server's failure and never the request's.
    """
    text = error_text(body.decode("utf-8", "replace"))
    shown = text or said_nothing(status)
    if status in (429, 503):  # 429: what stands before it, or a model in the cloud
        return BackendBusy(shown, status=status)
    if status == 404 and model and "model" in text and "not found" in text:
        return ModelUnknown(model, ())
    if path not in _INFERENCE:
        return BackendFailed(f"{path} answered {status}: {shown}", status=status)
    if _is_callers_fault(text):
        return BackendRefused(shown, status=status)
    if path == EMBED and status == 400 and any(mark in text for mark in _CRASHED):
        return BackendFailed(shown, status=status)
    if 400 <= status < 500 and status not in (408, 499):
        return BackendRefused(shown, status=status)
    return BackendFailed(shown, status=status)


def error_of_line(error: object) -> BackendFailed:
    """The failure that an `error` inside a stream means; the status had long been sent as 200."""
    return BackendFailed(text_of_error(error) or "an error without a word, in the stream")


def _is_callers_fault(text: str) -> bool:
    wrong_option = text.startswith(_OPTION_TYPE[0]) and _OPTION_TYPE[1] in text
    return wrong_option or any(mark in text for mark in _CALLERS_FAULT)
