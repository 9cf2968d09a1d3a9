"""The words of an error, out of the shapes in which servers of models wrap them.

Rules: the text reaches people as the server said it. Shapes: `{"error": "text"}` (Ollama),
`{"error": {"message": "text"}}` (OpenAI, llama-server, vLLM), `{"object": "error", "message":
"text"}` (vLLM before 0.10), `{"detail": "text"}` or a list of `{"msg": "text"}` (FastAPI), each
perhaps as text inside another, and plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

# A load that fails quotes the runner's log, which may be long; its beginning and end tell.
TEXT_CHARACTERS_MAX: Final = 4000

# `{"error": "{\"error\": {\"message\": ...}}"}` is the deepest that was seen: three steps.
_NESTING_MAX: Final = 4

_KEYS: Final = ("error", "message", "detail")


def error_text(text: str) -> str:
    """The words inside any of the shapes in which servers wrap them."""
    text = text.strip()
    for _ in range(_NESTING_MAX):
        inner = _unwrapped(text)
        if inner is None:
            break
        text = inner.strip()
    return _shortened(text)


def text_of_error(error: object) -> str:
    """The words of the value of an `error` inside a stream; "" where it has none."""
    return error_text(error) if isinstance(error, str) else _shortened(_message(error) or "")


def _unwrapped(text: str) -> str | None:
    if not text.startswith("{"):
        return None
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):  # plain text that happens to begin with a brace
        return None
    return _message(document)


def _message(document: object) -> str | None:
    """`error`, `message` or `detail` of a JSON object, at most one object deep; None if there is
    none of them."""
    if not isinstance(document, Mapping):
        return None
    found = next((document[key] for key in _KEYS if key in document), None)
    if isinstance(found, Mapping):
        found = found.get("message")
    elif isinstance(found, Sequence) and not isinstance(found, str):
        found = "; ".join(str(each.get("msg")) for each in found if isinstance(each, Mapping))
    return found if isinstance(found, str) else None


def _shortened(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    half = TEXT_CHARACTERS_MAX // 2
    return f"{text[:half]} … {text[-half:]}"
