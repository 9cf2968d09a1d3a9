"""The words of an error, out of the shapes in which servers of models wrap them.

Rules: the text reaches people as the server said it. Shapes: `{"error": "text"}` (Ollama),
`{"error": {"message": "text"}}` (OpenAI, llama-server, vLLM), `{"object": "error", "message":
"text"}` (vLLM before 0.10), `{"detail": "text"}` or a list of `{"msg": "text"}` (FastAPI), each
perhaps as text inside another, and plain text. A page in HTML, of whatever stands between or
listens there instead, is told by its title: the rest of it is for browsers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

# A load that fails quotes the runner's log, which may be long; its beginning and end tell.
TEXT_CHARACTERS_MAX: Final = 4000

# `{"error": "{\"error\": {\"message\": ...}}"}` is the deepest that was seen: three steps.
_NESTING_MAX: Final = 4

IS_THIS_THE_API: Final = "is this the address of the API?"
_PAGE_CHARACTERS_MAX: Final = 8_192  # of which its title is looked for
_WORDS_CHARACTERS_MAX: Final = 100
_PAGE: Final = re.compile(r"<(?:!doctype|html|head|body|[?]xml|a href)\b", re.IGNORECASE)
_TITLE: Final = re.compile(r"<title[^<>]*>([^<]*)", re.IGNORECASE)
_UNSEEN: Final = re.compile(r"<(script|style)\b.*?</\1[^<>]*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)

_KEYS: Final = ("error", "message", "detail")


def error_text(text: str) -> str:
    """The words inside any of the shapes in which servers wrap them."""
    text = text.strip()
    for _ in range(_NESTING_MAX):
        inner = _unwrapped(text)
        if inner is None:
            break
        text = inner.strip()
    return _page(text) if is_page(text) else _shortened(text)


def is_page(text: str) -> bool:
    """Is it HTML? Not every angle is: a model's own marks have them, such as <think>."""
    return _PAGE.match(text) is not None


def said_nothing(status: int) -> str:
    """In place of the words of an answer without a body. No API answers with less than 400 what is
    no success."""
    wordless = f"status {status} without a word"
    return wordless if status >= 400 else f"{wordless}: {IS_THIS_THE_API}"


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


def _page(text: str) -> str:
    """Its title, else its first words."""
    text = text[:_PAGE_CHARACTERS_MAX]
    title = _TITLE.search(text)
    seen = title[1] if title is not None and title[1].strip() else _UNSEEN.sub(" ", text)
    words = " ".join(html.unescape(seen).split())
    if len(words) > _WORDS_CHARACTERS_MAX:
        words = f"{words[:_WORDS_CHARACTERS_MAX]} …"
    return f"a page in HTML, {words!r}: {IS_THIS_THE_API}"


def _shortened(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    half = TEXT_CHARACTERS_MAX // 2
    return f"{text[:half]} … {text[-half:]}"
