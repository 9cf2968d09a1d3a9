"""The two kinds of pages of the public library: the list of models, and the tags of one of them.

    /library              a link to /library/NAME for each model; about it a description, badges
                          (tools, thinking, vision, embedding; and 8b, 70b, which are parameters),
                          when it was updated, how many tags it has
    /library/NAME/tags    a link to /library/NAME:TAG for each tag; beside it "4.7GB", "128K context
                          window", twelve digits of its digest, "5 months ago"

Rules: what is known is recognised by its own form, wherever it stands; what is not is passed over.
A page in which nothing is recognised, or that is cut off, is PageFailed, never empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from broker.core.library import DESCRIPTION_CHARACTERS_MAX, LIBRARY_MODELS_MAX
from broker.core.model_name import canonical
from broker.core.model_sizes import bytes_of
from broker.library.page_text import PageFailed, PageText

# The most tags of a model were 160 when this was written.
TAGS_OF_MODEL_MAX: Final = 5_000
_NEXT_PAGES_MAX: Final = 1_000

CAPABILITIES: Final = frozenset(
    {"tools", "thinking", "vision", "embedding", "insert", "audio", "image"}
)
_COMPLETION: Final = "completion"
_EMBEDDING: Final = "embedding"

_BETWEEN: Final = re.compile(r"\s*[•·|]\s*")
_CONTEXT: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([KM]?)( context(?: window)?)?")
_DIGEST: Final = re.compile(r"[0-9a-f]{12}(?:[0-9a-f]{52})?")
_AGE: Final = re.compile(
    r"(?:about |over |almost |updated )*(an?|[0-9]{1,4}) "
    r"(second|minute|hour|day|week|month|year)s? ago",
    re.IGNORECASE,
)
_DAYS: Final = {"second": 0, "minute": 0, "hour": 0, "day": 1, "week": 7, "month": 30, "year": 365}
_AT_ONCE: Final = {"just now": 0, "now": 0, "today": 0, "yesterday": 1}
_DATE: Final = re.compile(r"[A-Z][a-z]{2} [0-9]{1,2}, [0-9]{4} .{1,20}")
_PAGE: Final = re.compile(r"[?&]page=([0-9]{1,6})(?:&|$)")
_SENTENCE_WORDS_MIN: Final = 3
_UNITS: Final = {"": 1, "K": 1_024, "M": 1_048_576}
_CONTEXT_MAX: Final = 100_000_000
# What runs on the library's own machines and is never on a disk of ours (OLLAMA.md §1.10).
_CLOUD: Final = "cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One entry of the list. `mark` changes when any of its tags does, "" where none is told."""

    name: str
    description: str = ""
    capabilities: frozenset[str] = frozenset()
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """How long ago, as people say it: "5 months ago" is 150 days, give or take a month."""

    days: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRow:
    """One tag of a model, and what stands beside it."""

    name: str
    size_bytes: int = 0
    context_window: int = 0
    digest: str = ""
    age: Age | None = None


class _Address:
    """Which addresses lead to a model of the library, and to one tag of it."""

    def __init__(self, path: str) -> None:
        self._found = re.compile(
            rf"(?:https?://[^/]+)?{re.escape(path)}/([A-Za-z0-9._-]+)(?::([A-Za-z0-9._-]+))?/?"
        )

    def name(self, href: str) -> tuple[str, str] | None:
        """Model and tag ("" for none), or None for any other address."""
        found = self._found.fullmatch(href)
        if found is None or canonical(found[1]) is None:
            return None
        return found[1], found[2] or ""


class _Entry:
    """What stands beside one link to a model, as far as it has come."""

    def __init__(self) -> None:
        self.description = ""
        self.badges: set[str] = set()
        self.updated = ""
        self.tags = ""
        self._before = ""

    def add(self, text: str) -> None:
        word = text.casefold()
        if word in CAPABILITIES:
            self.badges.add(word)
        elif word in ("tags", "tag") and self._before.isdigit():
            self.tags = self._before
        elif len(text.split()) >= _SENTENCE_WORDS_MIN and age_of(text) is None:
            self.description = max(self.description, text, key=len)
        self._before = text

    def model(self, name: str) -> ListedModel:
        answers = set() if _EMBEDDING in self.badges else {_COMPLETION}
        return ListedModel(
            name=name,
            description=self.description[:DESCRIPTION_CHARACTERS_MAX],
            capabilities=frozenset(self.badges | answers),
            mark=f"{self.updated}, {self.tags} tags" if self.updated and self.tags else "",
        )


class ListingPage(PageText):
    """The list of models, at /library."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._address = _Address(path)
        self._entries: dict[str, _Entry] = {}
        self._entry: _Entry | None = None
        self._next: set[int] = set()

    def on_link(self, href: str) -> None:
        found = self._address.name(href)
        if found is None or found[1]:
            return
        if found[0] not in self._entries and len(self._entries) >= LIBRARY_MODELS_MAX:
            raise PageFailed(f"it lists over {LIBRARY_MODELS_MAX} models")
        self._entry = self._entries.setdefault(found[0], _Entry())

    def on_text(self, text: str) -> None:
        if self._entry is not None:
            self._entry.add(text)

    def on_title(self, title: str) -> None:
        if self._entry is not None and _DATE.fullmatch(title):
            self._entry.updated = title

    def on_more(self, address: str) -> None:
        found = _PAGE.search(address)
        if found is not None and len(self._next) < _NEXT_PAGES_MAX:
            self._next.add(int(found[1]))

    def on_end(self) -> None:
        self._entry = None

    def has_page(self, number: int) -> bool:
        """Does it say that there is a page of this number?"""
        return number in self._next

    def models(self) -> tuple[ListedModel, ...]:
        """All of them, after `finish`. Raises PageFailed where there is none."""
        if not self._entries:
            raise PageFailed("nothing in it is a model")
        return tuple(entry.model(name) for name, entry in self._entries.items())


class TagsPage(PageText):
    """The tags of one model, at /library/NAME/tags."""

    def __init__(self, path: str, model: str) -> None:
        super().__init__()
        self._address = _Address(path)
        self._model = model.lower()
        self._rows: dict[str, dict[str, str | int | Age]] = {}
        self._row: dict[str, str | int | Age] | None = None

    def on_link(self, href: str) -> None:
        found = self._address.name(href)
        if found is None or found[0].lower() != self._model:
            # Another model, or a link of the page's own: its texts are not of the tag before.
            self._row = None if found is not None else self._row
            return
        if not found[1]:
            return
        name = canonical(f"{found[0]}:{found[1]}")
        if name is None:
            return
        if name not in self._rows and len(self._rows) >= TAGS_OF_MODEL_MAX:
            raise PageFailed(f"it lists over {TAGS_OF_MODEL_MAX} tags")
        self._row = self._rows.setdefault(name, {})

    def on_text(self, text: str) -> None:
        row = self._row
        if row is None:
            return
        for scrap in _BETWEEN.split(text):
            for field, value in _told(scrap):
                row.setdefault(field, value)  # of two the first: it stands nearest to the name

    def on_end(self) -> None:
        self._row = None

    def rows(self) -> tuple[TagRow, ...]:
        """All tags, after `finish`, but those that only the cloud has. Empty where it has no other;
        raises PageFailed where there is no tag at all."""
        if not self._rows:
            raise PageFailed(f"nothing in it is a tag of {self._model}")
        return tuple(_row(name, row) for name, row in self._rows.items() if not is_of_cloud(name))


def is_of_cloud(name: str) -> bool:
    """Is this the name of what runs elsewhere? Its tag says so."""
    tag = name.rpartition(":")[2].lower()
    return tag == _CLOUD or tag.endswith(f"-{_CLOUD}")


def _row(name: str, row: dict[str, str | int | Age]) -> TagRow:
    size, context, digest = row.get("size", 0), row.get("context", 0), row.get("digest", "")
    age = row.get("age")
    return TagRow(
        name=name,
        size_bytes=size if isinstance(size, int) else 0,
        context_window=context if isinstance(context, int) else 0,
        digest=digest if isinstance(digest, str) else "",
        age=age if isinstance(age, Age) else None,
    )


def _told(scrap: str) -> list[tuple[str, str | int | Age]]:
    """What a piece of text beside a tag says: at most one thing."""
    size = bytes_of(scrap)
    if size:
        return [("size", size)]
    context = context_of(scrap)
    if context:
        return [("context", context)]
    if _DIGEST.fullmatch(scrap):
        return [("digest", scrap)]
    age = age_of(scrap)
    return [] if age is None else [("age", age)]


def context_of(scrap: str) -> int:
    """Tokens of "128K context window" (131,072) or "128K"; 0 for anything else. A bare number is
    none, and nor is "8b"."""
    found = _CONTEXT.fullmatch(scrap)
    if found is None or not (found[2] or found[3]):
        return 0
    tokens = int(float(found[1]) * _UNITS[found[2]])
    return tokens if tokens <= _CONTEXT_MAX else 0


def age_of(text: str) -> Age | None:
    """What "5 months ago" or "yesterday" means; None for anything else."""
    days = _AT_ONCE.get(text.casefold())
    if days is not None:
        return Age(days=days, unit="day")
    found = _AGE.fullmatch(text)
    if found is None:
        return None
    many = int(found[1]) if found[1].isdigit() else 1
    unit = found[2].lower()
    return Age(days=many * _DAYS[unit], unit=unit)
