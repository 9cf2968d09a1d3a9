"""A file in the library's place: for machines without a network, and for libraries of one's own.

It has the seed's shape, as JSON or, if its name ends in .toml, as TOML:

    {"llama3": {"variants": {"llama3:8b": {"size_str": "4.7GB", "context_window": 8192,
                                           "modified_at": "2024-05-01T00:00:00Z"}},
                "description": "...", "capabilities": ["completion", "tools"]}}

Rules: all problems are told together, each with its place, up to PROBLEMS_TOLD_MAX; one is enough
to refuse the file. What it says of downloads is passed over: only backends know.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from broker.core.library import (
    DESCRIPTION_CHARACTERS_MAX,
    LIBRARY_MODELS_MAX,
    LIBRARY_VARIANTS_MAX,
    LibraryFailed,
    LibraryModel,
    LibraryVariant,
    Transfer,
)
from broker.core.model_name import canonical, comparison_key
from broker.core.model_sizes import bytes_of

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
PROBLEMS_TOLD_MAX: Final = 20
CAPABILITIES_MAX: Final = 16

_WORD_CHARACTERS_MAX: Final = 64
_CONTEXT_MAX: Final = 100_000_000
_OF_MODEL: Final = frozenset({"downloaded", "variants", "description", "capabilities"})
_OF_VARIANT: Final = frozenset(
    {"downloaded", "size_str", "context_window", "modified_at", "digest"}
)


class CatalogueFile:
    """The models in a file. It is read anew each time that it is asked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def transfer(self) -> Transfer:
        return Transfer()

    async def models(self, known: Mapping[str, LibraryModel]) -> tuple[LibraryModel, ...]:
        """All that it lists; LibraryFailed where it cannot be used."""
        return await asyncio.to_thread(read_catalogue, self._path)

    async def close(self) -> None:
        """Nothing is open."""


def read_catalogue(path: Path) -> tuple[LibraryModel, ...]:
    """The models in a file. Raises LibraryFailed, which names every problem's place."""
    try:
        if path.is_fifo():  # who opens it would wait for one who writes
            raise LibraryFailed(f"{path}: it is a pipe")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise LibraryFailed(f"{path}: {error.strerror or error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise LibraryFailed(f"{path}: it is over {FILE_BYTES_MAX} bytes")
    models = _Reading(_document(path, data))
    if models.problems:
        told = models.problems[:PROBLEMS_TOLD_MAX]
        more = len(models.problems) - len(told)
        lines = [f"{path}: {each}" for each in told]
        raise LibraryFailed("\n".join([*lines, f"and {more} more"] if more else lines))
    return tuple(models.found)


def _document(path: Path, data: bytes) -> object:
    try:
        text = data.decode("utf-8-sig")
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise LibraryFailed(f"{path}: byte {error.start} is no UTF-8") from error
    except json.JSONDecodeError as error:
        raise LibraryFailed(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:  # of TOML, with its line, or too deep
        raise LibraryFailed(f"{path}: {error}") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON. Of two of the same key, readers keep one or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice!r} stands there twice")
    return found


class _Reading:
    """What a document says, and what is wrong with it."""

    def __init__(self, document: object) -> None:
        self.problems: list[str] = []
        self.found: list[LibraryModel] = []
        self._names: set[str] = set()
        self._variants = 0
        if not isinstance(document, dict):
            self.problems.append("it must be a table of models")
            return
        if len(document) > LIBRARY_MODELS_MAX:
            self.problems.append(f"it has over {LIBRARY_MODELS_MAX} models")
            return
        for name, given in document.items():
            self._model(name, given)
        if self._variants > LIBRARY_VARIANTS_MAX:
            self.problems.append(f"it has over {LIBRARY_VARIANTS_MAX} variants")

    def _wrong(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")

    def _table(self, place: str, given: object, keys: frozenset[str]) -> dict[str, object]:
        if not isinstance(given, dict):
            self._wrong(place, "must be a table")
            return {}
        for key in given.keys() - keys:
            self._wrong(f"{place}.{key}", f"no such key; there are {', '.join(sorted(keys))}")
        return given

    def _model(self, name: str, given: object) -> None:
        if canonical(name) is None or ":" in name.rpartition("/")[2]:
            self._wrong(repr(name), "must be the name of a model, without a tag")
            return
        if name.lower() in self._names:
            self._wrong(name, "is there twice, as names are compared")
        self._names.add(name.lower())
        table = self._table(name, given, _OF_MODEL)
        self._flag(f"{name}.downloaded", table.get("downloaded", False))
        variants = table.get("variants", {})
        if not isinstance(variants, dict):
            self._wrong(f"{name}.variants", "must be a table")
            variants = {}
        self._variants += len(variants)
        found = [self._variant(name, key, each) for key, each in variants.items()]
        for key, times in Counter(each.name.lower() for each in found if each).items():
            if times > 1:
                self._wrong(f'{name}.variants."{key}"', "is there twice, as names are compared")
        self.found.append(
            LibraryModel(
                name=name,
                variants=tuple(each for each in found if each is not None),
                capabilities=self._words(f"{name}.capabilities", table.get("capabilities", [])),
                description=self._text(
                    f"{name}.description",
                    table.get("description", ""),
                    DESCRIPTION_CHARACTERS_MAX,
                ),
            )
        )

    def _variant(self, model: str, key: str, given: object) -> LibraryVariant | None:
        place = f'{model}.variants."{key}"'
        name = canonical(key)
        if (
            name is None
            or name.rpartition(":")[0].lower() != comparison_key(model).rpartition(":")[0]
        ):
            self._wrong(place, f"must be {model} with a tag")
            return None
        table = self._table(place, given, _OF_VARIANT)
        self._flag(f"{place}.downloaded", table.get("downloaded", False))
        size = self._text(f"{place}.size_str", table.get("size_str", ""), _WORD_CHARACTERS_MAX)
        return LibraryVariant(
            name=name,
            size_bytes=bytes_of(size) or 0,  # "8b" is no size, and said by some
            context_window=self._count(f"{place}.context_window", table.get("context_window", 0)),
            modified_at=self._date(f"{place}.modified_at", table.get("modified_at", "")),
            digest=self._text(f"{place}.digest", table.get("digest", ""), 100),
        )

    def _flag(self, place: str, given: object) -> None:
        if not isinstance(given, bool):
            self._wrong(place, "must be true or false")

    def _text(self, place: str, given: object, characters_max: int) -> str:
        if not isinstance(given, str) or not (given.isprintable() or not given):
            self._wrong(place, "must be a text on one line")
            return ""
        if len(given) > characters_max:
            self._wrong(place, f"must be at most {characters_max} characters")
        return given

    def _count(self, place: str, given: object) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= _CONTEXT_MAX:
            self._wrong(place, f"must be a whole number from 0 to {_CONTEXT_MAX}")
            return 0
        return given

    def _date(self, place: str, given: object) -> str:
        if isinstance(given, datetime):  # TOML has dates
            return given.isoformat()
        text = self._text(place, given, _WORD_CHARACTERS_MAX)
        try:
            if text:
                datetime.fromisoformat(text)
        except ValueError:
            self._wrong(place, 'must be a date as "2024-05-01T00:00:00Z", or empty')
        return text

    def _words(self, place: str, given: object) -> frozenset[str]:
        if not isinstance(given, list) or len(given) > CAPABILITIES_MAX:
            self._wrong(place, f"must be a list of at most {CAPABILITIES_MAX} words")
            return frozenset()
        return frozenset(
            self._text(f"{place}[{number}]", each, _WORD_CHARACTERS_MAX)
            for number, each in enumerate(given)
        )
