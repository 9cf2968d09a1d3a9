"""The list of models as it is kept over a restart: the words, and the port of what keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from broker.core.ports import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVariant:
    """One name with its tag. `backends` have it, as each of them told it; what is `downloaded` and
    on none of them is somewhere that was not written down. `listed`: the library has it."""

    name: str
    downloaded: bool = False
    size_bytes: int = 0
    context_window: int = 0
    modified_at: str = ""
    digest: str = ""
    listed: bool = True
    backends: Mapping[str, ModelFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptModel:
    """A name without its tag, with all that is known below it; the rest is what the library says.
    `downloaded` speaks of its untagged variant, `NAME:latest`."""

    name: str
    variants: tuple[KeptVariant, ...]
    downloaded: bool = False
    capabilities: frozenset[str] = frozenset()
    description: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBackend:
    """Where it was, and when it listed its models, in milliseconds since 1970."""

    url: str
    listed_unix_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTimes:
    """How old what is kept is. `library_unix_ms` None: that is not known."""

    library_unix_ms: int | None = None
    backends: Mapping[str, KeptBackend] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptList:
    """What was found. `models` are made as they are asked for; what makes no sense is none of them,
    which the keeper tells."""

    models: Iterable[KeptModel]
    times: KeptTimes


class ListKeeper(Protocol):
    """Keeps one list."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    def read(self) -> KeptList | None:
        """What was kept last; None where nothing was, or nothing that can be read."""
        ...

    async def write(self, models: Iterator[KeptModel], times: KeptTimes) -> bool:
        """Keeps these from now on, all or nothing; False where it could not, which was told. The
        models are asked for in another thread, in parts."""
        ...

    async def write_times(self, times: KeptTimes) -> bool:
        """The models are those that were kept last, or read, and this old; False where that could
        not be kept."""
        ...
