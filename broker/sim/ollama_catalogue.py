"""The models that a simulated Ollama server holds, and how it finds them by name.

Rules: names keep their case but match whatever their case, and lack of host, namespace or tag
means the defaults (reference/OLLAMA.md §5). Changing a catalogue never touches what is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from broker.sim.ollama_model_card import (
    BrokenFile,
    Capability,
    Says,
    SaysKind,
    SimModel,
    Speed,
    Template,
    ToolCallScript,
)
from broker.sim.ollama_models import DEFAULT_MODELS
from broker.sim.ollama_recorded import RECORDED_MODELS

__all__ = [
    "BrokenFile",
    "Capability",
    "Catalogue",
    "ModelName",
    "Says",
    "SaysKind",
    "SimModel",
    "Speed",
    "Template",
    "ToolCallScript",
    "default_catalogue",
    "parse_name",
    "recorded_catalogue",
]

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# types/model/name.go: the first character is a letter, digit or underscore; a host may hold a
# colon, the other parts may not; a host has at most 350 characters, any other part 80.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A name in its four parts, defaults filled in, the caller's case kept."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def short(self) -> str:
        """The name as Ollama displays it: default host and `library` dropped, tag always there."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        return self.full.lower()


def parse_name(text: str) -> ModelName | None:
    """The parts of a name as a request spells it; None where Ollama says `invalid model name`."""
    rest = text.partition("://")[2] if "://" in text else text
    path, slash, last = rest.rpartition("/")
    model, colon, tag = last.rpartition(":")
    if not colon:
        model, tag = last, DEFAULT_TAG
    host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
    if slash:
        before, second_slash, namespace = path.rpartition("/")
        host = before if second_slash else DEFAULT_HOST
    fits = _HOST.match(host) and _NAMESPACE.match(namespace)
    if not (fits and _PART.match(model) and _PART.match(tag)):
        return None
    return ModelName(host=host, namespace=namespace, model=model, tag=tag)


class Catalogue:
    """The models of one server by name. Changing it never touches a runner that is loaded."""

    def __init__(self, models: Iterable[SimModel]) -> None:
        self._by_key: dict[str, SimModel] = {}
        for model in models:
            self.put(model)

    def __iter__(self) -> Iterator[SimModel]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, name: str) -> SimModel | None:
        """The model of this name by Ollama's rules, or None if invalid or not there."""
        parsed = parse_name(name)
        return None if parsed is None else self._by_key.get(parsed.key)

    def find_exact(self, name: str) -> SimModel | None:
        """As `find`, but the case must match: /api/embeddings looks names up this way."""
        model = self.find(name)
        parsed = parse_name(name)
        if model is None or parsed is None or parsed.short != model.name:
            return None
        return model

    def put(self, model: SimModel) -> None:
        """Adds a model or points its name elsewhere, as create and copy do."""
        parsed = parse_name(model.name)
        if parsed is None or parsed.short != model.name:
            raise ValueError(f"not a canonical model name: {model.name!r}")
        self._by_key[parsed.key] = model

    def remove(self, name: str) -> bool:
        """Forgets a name, as delete does; False if there is none."""
        parsed = parse_name(name)
        return parsed is not None and self._by_key.pop(parsed.key, None) is not None


def default_catalogue() -> Catalogue:
    """What `ollama-sim` holds when nothing else is asked for: six models of usual sizes."""
    return Catalogue(DEFAULT_MODELS)


def recorded_catalogue() -> Catalogue:
    """The models of the recordings, with rates in the proportions that were recorded."""
    return Catalogue(RECORDED_MODELS)
