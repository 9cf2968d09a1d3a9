"""Names of models, by Ollama's rules.

    [scheme://][host/][namespace/]model[:tag]      registry.ollama.ai / library / latest

Names keep the spelling of whoever typed them but are compared without regard to case and with the
defaults filled in: `tiny` is `tiny:latest`. Source: reference/OLLAMA.md §5.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

NAME_LENGTH_MAX: Final = 512
NEAREST_MAX: Final = 3

_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_\-.]{0,79}"
_GRAMMAR: Final = re.compile(
    rf"(?:[a-z]+://)?"
    rf"(?:(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_\-.:]{{0,349}})/)?"
    rf"(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_\-]{{0,79}})/)?"
    rf"(?P<model>{_PART})(?::(?P<tag>{_PART}))?"
)


def canonical(name: str) -> str | None:
    """The shortest full form, tag always shown ("tiny" gives "tiny:latest"); None if malformed."""
    if len(name) > NAME_LENGTH_MAX:
        return None
    parts = _GRAMMAR.fullmatch(name)
    if parts is None:
        return None
    host, namespace = parts["host"], parts["namespace"]
    prefix = ""
    if host is not None and host.lower() != _DEFAULT_HOST:
        prefix = f"{host}/{namespace}/"
    elif namespace is not None and namespace.lower() != _DEFAULT_NAMESPACE:
        prefix = f"{namespace}/"
    return f"{prefix}{parts['model']}:{parts['tag'] or _DEFAULT_TAG}"


@lru_cache(maxsize=4096)
def comparison_key(name: str) -> str:
    """Two names mean the same model exactly if their keys are equal. Remembered: a fleet asks for
    the same few names again and again."""
    return (canonical(name) or name).lower()


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three of `names` that look most like `name`, the most alike first."""
    return _nearest(name, tuple(names))


@lru_cache(maxsize=256)
def _nearest(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Remembered: among hundreds of names it takes milliseconds, and who asks for what is not there
    asks again."""
    wanted = comparison_key(name)
    by_key = {comparison_key(each): each for each in names}

    def unlikeness(key: str) -> tuple[float, float, str]:
        # The tag counts less than the name: `mistral:latest` is not what `llama:latest` meant.
        return -_likeness(_untagged(wanted), _untagged(key)), -_likeness(wanted, key), key

    return tuple(by_key[key] for key in sorted(by_key, key=unlikeness)[:NEAREST_MAX])


def _untagged(key: str) -> str:
    return key.rsplit(":", 1)[0]


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
