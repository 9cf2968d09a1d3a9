"""The public library: what could be downloaded, in the words that its sources and readers share.

A source is a web page, a file of the operator's, or nothing at all. It answers whole or not at all:
half a listing would take models away that are still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from broker.core.errors import BrokerError

# What one answer may hold, whoever gives it. The library of Ollama had some 250 models with 5,000
# variants when this was written.
LIBRARY_MODELS_MAX: Final = 20_000
LIBRARY_VARIANTS_MAX: Final = 400_000
DESCRIPTION_CHARACTERS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryVariant:
    """One name that can be pulled, always with its tag: `llama3:8b`. `size_bytes` is what it takes
    on disk, 0 where that is not told: parameters are no bytes. `modified_at` is RFC 3339, "" where
    it is not told. `digest` may be the beginning of one."""

    name: str
    size_bytes: int = 0
    context_window: int = 0
    modified_at: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryModel:
    """A model with all that it can be pulled as. `name` has no tag: `llama3`. `capabilities` are in
    the words of /api/show (completion, tools, thinking, vision, embedding, insert); empty means
    that the source does not tell. `mark` is the source's own sign of this version, "" if none."""

    name: str
    variants: tuple[LibraryVariant, ...]
    capabilities: frozenset[str] = frozenset()
    description: str = ""
    mark: str = ""


class LibraryFailed(BrokerError):
    """The library answered with something that is no listing, or not whole. The same again would
    come of asking again soon: somebody has to look, or its form to be mended."""


class LibraryAway(LibraryFailed):
    """The library did not answer, or said that it is busy: it may answer a while later."""

    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What an answer of the library cost: bytes that came, and the time in which they were waited
    for, of which the reader's own is no part."""

    received_bytes: int = 0
    receiving_ns: int = 0

    @property
    def bytes_per_s(self) -> float | None:
        """None where too little came to tell."""
        if not self.received_bytes or not self.receiving_ns:
            return None
        return self.received_bytes * 1e9 / self.receiving_ns


class Library(Protocol):
    """Where models that could be downloaded are listed."""

    @property
    def name(self) -> str:
        """What people read of it: an address or a path."""
        ...

    @property
    def transfer(self) -> Transfer:
        """What the last answer cost; of a source that is no network, nothing."""
        ...

    async def models(self, known: Mapping[str, LibraryModel]) -> tuple[LibraryModel, ...]:
        """All that it lists. `known` is what it answered before, by name: what it says has not
        changed need not be fetched again. Raises LibraryFailed, and then nothing has changed."""
        ...

    async def close(self) -> None: ...
