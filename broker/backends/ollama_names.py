"""Model names by Ollama's rules: what is one, how it is shown, when two are the same.

Rules: `[scheme://][host/][namespace/]model[:tag]`, lack of a part means its default; names keep
the case they were given and match whatever their case. Source: ollama/ollama types/model/name.go.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

HOST_CHARACTERS_MAX: Final = 350
PART_CHARACTERS_MAX: Final = 80

_FIRST: Final = frozenset(string.ascii_letters + string.digits + "_")
_IN_NAMESPACE: Final = _FIRST | {"-"}
_IN_PART: Final = _IN_NAMESPACE | {"."}
_IN_HOST: Final = _IN_PART | {":"}


class InvalidModelName(ValueError):
    """A text that Ollama answers with `invalid model name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A name in its four parts, defaults filled in, the given case kept."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def short(self) -> str:
        """As Ollama lists it: default host and namespace dropped, the tag always there."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for two names if and only if Ollama takes them for the same model."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}".lower()


def parse_name(text: str) -> ModelName:
    """The parts of a name; raises InvalidModelName where Ollama would refuse it."""
    rest, tag = text, DEFAULT_TAG
    # A host may hold a colon, a tag no slash: only a colon behind the last slash begins a tag.
    if text.rfind(":") > text.rfind("/"):
        rest, _, tag = text.rpartition(":")
    rest, has_namespace, model = rest.rpartition("/")
    host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
    if has_namespace:
        rest, has_host, namespace = rest.rpartition("/")
        if has_host:
            host = rest.partition("://")[2] if "://" in rest else rest
    valid = (
        _fits(host, _IN_HOST, HOST_CHARACTERS_MAX)
        and _fits(namespace, _IN_NAMESPACE, PART_CHARACTERS_MAX)
        and _fits(model, _IN_PART, PART_CHARACTERS_MAX)
        and _fits(tag, _IN_PART, PART_CHARACTERS_MAX)
    )
    if not valid:
        raise InvalidModelName(f"{text[:PART_CHARACTERS_MAX]} is no model name")
    return ModelName(host=host, namespace=namespace, model=model, tag=tag)


def normalise(text: str) -> str:
    """The name as /api/tags lists it, in the given case; raises InvalidModelName."""
    return parse_name(text).short


def comparison_key(text: str) -> str:
    """What two spellings of one model have in common; raises InvalidModelName."""
    return parse_name(text).key


def _fits(part: str, allowed: frozenset[str], characters_max: int) -> bool:
    return 1 <= len(part) <= characters_max and part[0] in _FIRST and allowed.issuperset(part)
