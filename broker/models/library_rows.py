"""What could be downloaded, as rows: hundreds of thousands of names, searched in milliseconds.

A row is a variant; those of one base lie side by side, all in order of their comparison keys.
Columns and not objects: they take less memory, what collects garbage never walks through them, and
masks (`planes.py`) answer for all rows at once. Never changed once it is made.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from broker.core.guards import is_guard
from broker.core.library import LibraryModel, LibraryVariant
from broker.core.model_sizes import size_str
from broker.models.known import KnownModel
from broker.models.planes import BYTES, Numbers
from broker.models.slices import Steps

# So many names are sorted in one step.
_SORTED_AT_ONCE: Final = 1_024
_ADDED_AT_ONCE: Final = 256
# The columns that all others are made of.
_TOLD: Final = (
    "names",
    "capabilities",
    "descriptions",
    "marks",
    "starts",
    "tags",
    "sizes",
    "contexts",
    "modified",
    "digests",
)
# A tag that less than one in so many rows have is looked at row by row.
_WORTH_A_NUMBER: Final = 4_096
# Of these the last means that a base's are told apart by itself.
_SETS_MAX: Final = BYTES - 1


@dataclass(slots=True)
class Tags:
    """The part of each name behind its colon. Most are shared by many models: the most frequent
    have a number in `plane`, the others are `rare`, row by row."""

    texts: list[str] = field(default_factory=list)  # those with a number, from 1 on
    plane: bytes = b""
    rare_rows: list[int] = field(default_factory=list)
    rare_texts: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class LibraryRows:
    """See the module. `names` to `marks` have an element per base, all others one per row."""

    names: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # with a colon at their ends
    texts: list[str] = field(default_factory=list)  # what words are looked for in
    capabilities: list[frozenset[str]] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    guards: bytes = b""
    sets: bytes = b""  # which of `distinct_sets` its capabilities are
    distinct_sets: list[frozenset[str]] = field(default_factory=list)
    starts: array[int] = field(default_factory=lambda: array("q", [0]))  # and the end of the last
    tags: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    contexts: array[int] = field(default_factory=lambda: array("q"))
    modified: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    # Made of these when all are there.
    by_size: Numbers = field(default_factory=lambda: Numbers(array("q"), [0], [0], b""))
    by_context: Numbers = field(default_factory=lambda: Numbers(array("q"), [0], [0], b""))
    by_tag: Tags = field(default_factory=Tags)
    # As many ones and zeros as a base has rows, shared by all that have as many.
    ones: list[bytes] = field(default_factory=list)
    zeros: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tags)

    def same(self, other: LibraryRows) -> Steps[bool]:
        """Do they say the same?"""
        is_same = True
        for name in _TOLD:
            is_same = is_same and getattr(self, name) == getattr(other, name)
            yield
        return is_same

    def rows_of(self, bases: Sequence[int]) -> bytes:
        """The mask of the rows whose base is meant by this one."""
        parts = zip(bases, self.ones, self.zeros, strict=True)
        return b"".join([one if meant else zero for meant, one, zero in parts])

    def base_at(self, row: int) -> int:
        """The base of a row."""
        return bisect_right(self.starts, row) - 1

    def name_at(self, row: int) -> str:
        return f"{self.names[self.base_at(row)]}:{self.tags[row]}"

    def key_at(self, row: int) -> str:
        return f"{self.keys[self.base_at(row)]}{self.tags[row].lower()}"

    def row_from(self, key: str) -> int:
        """The first row whose key is this one or comes after it."""
        head, colon, tag = key.rpartition(":")
        base = bisect_left(self.keys, head + colon)
        if base == len(self.keys):
            return len(self.tags)
        start, end = self.starts[base], self.starts[base + 1]
        if self.keys[base] != head + colon:
            return start
        return bisect_left(self.tags, tag, start, end, key=str.lower)

    def find(self, key: str) -> int | None:
        """The row of this comparison key."""
        row = self.row_from(key)
        return row if row < len(self.tags) and self.key_at(row) == key else None

    def base_of_key(self, key: str) -> int | None:
        """The base that the model of this key has, whether or not that very variant is listed."""
        head = key.rpartition(":")[0] + ":"
        base = bisect_left(self.keys, head)
        return base if base < len(self.keys) and self.keys[base] == head else None

    def known(self, row: int, *, is_dynamic: bool) -> KnownModel:
        """The model of a row."""
        base = self.base_at(row)
        return KnownModel(
            name=f"{self.names[base]}:{self.tags[row]}",
            base=self.names[base],
            downloaded=False,
            size_bytes=self.sizes[row],
            size_str=size_str(self.sizes[row]),
            context_window=self.contexts[row],
            modified_at=self.modified[row],
            capabilities=self.capabilities[base],
            digest=self.digests[row],
            description=self.descriptions[base],
            is_guard=bool(self.guards[base]),
            is_dynamic=is_dynamic,
        )

    def model(self, base: int) -> LibraryModel:
        """A base with its variants, as the library told it."""
        name = self.names[base]
        return LibraryModel(
            name=name,
            variants=tuple(
                LibraryVariant(
                    name=f"{name}:{self.tags[row]}",
                    size_bytes=self.sizes[row],
                    context_window=self.contexts[row],
                    modified_at=self.modified[row],
                    digest=self.digests[row],
                )
                for row in range(self.starts[base], self.starts[base + 1])
            ),
            capabilities=self.capabilities[base],
            description=self.descriptions[base],
            mark=self.marks[base],
        )


class LibraryModels(Mapping[str, LibraryModel]):
    """What the library told, by the names of the bases; each is put together when it is wanted."""

    def __init__(self, rows: LibraryRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows.names)

    def __getitem__(self, name: str) -> LibraryModel:
        base = self._rows.base_of_key(f"{name.lower()}:")
        if base is None:
            raise KeyError(name)
        return self._rows.model(base)


def library_rows(models: Iterable[LibraryModel]) -> Steps[LibraryRows]:
    """The rows of these models, whose names are canonical and each there once."""
    by_key: dict[str, LibraryModel] = {}
    for each in models:  # who makes them may look at each of their variants
        by_key[f"{each.name.lower()}:"] = each
        yield
    keys = yield from _sorted(list(by_key))
    rows = LibraryRows()
    guards, sets = bytearray(), bytearray()
    numbers: dict[frozenset[str], int] = {}
    shared: dict[str, str] = {}  # tags and times are the same again and again
    for key in keys:
        model = by_key[key]
        yield from _add(rows, key, model, shared)
        guards.append(is_guard(model.name))
        sets.append(min(numbers.setdefault(model.capabilities, len(numbers)), _SETS_MAX))
        yield
    rows.guards, rows.sets = bytes(guards), bytes(sets)
    rows.distinct_sets = list(numbers)[:_SETS_MAX]
    rows.by_size = yield from Numbers.of(rows.sizes)
    rows.by_context = yield from Numbers.of(rows.contexts)
    rows.by_tag = yield from _tags(rows.tags)
    yield from _runs(rows)
    return rows


def _sorted(keys: list[str]) -> Steps[list[str]]:
    """As `sorted`, a part at a time."""
    parts = []
    for start in range(0, len(keys), _SORTED_AT_ONCE):
        parts.append(sorted(keys[start : start + _SORTED_AT_ONCE]))
        yield
    merged: list[str] = []
    for each in heapq.merge(*parts):
        merged.append(each)
        if not len(merged) % _SORTED_AT_ONCE:
            yield
    return merged


def _add(rows: LibraryRows, key: str, model: LibraryModel, shared: dict[str, str]) -> Steps[None]:
    rows.names.append(model.name)
    rows.keys.append(key)
    rows.texts.append(f"{model.name}\n{model.description}".lower())
    rows.capabilities.append(model.capabilities)
    rows.descriptions.append(model.description)
    rows.marks.append(model.mark)
    cut = len(model.name) + 1
    names = ((each.name[cut:], each) for each in model.variants)
    tagged = sorted(((tag.lower(), tag, each) for tag, each in names), key=itemgetter(0))
    for count, (_, tag, each) in enumerate(tagged, 1):
        rows.tags.append(shared.setdefault(tag, tag))
        rows.sizes.append(each.size_bytes)
        rows.contexts.append(each.context_window)
        rows.modified.append(shared.setdefault(each.modified_at, each.modified_at))
        rows.digests.append(each.digest)
        if not count % _ADDED_AT_ONCE:
            yield
    rows.starts.append(len(rows.tags))


def _tags(tags: list[str]) -> Steps[Tags]:
    counts: dict[str, int] = {}
    many: set[str] = set()
    enough = max(2, len(tags) // _WORTH_A_NUMBER)
    for row, tag in enumerate(tags):
        tag = tag.lower()
        counts[tag] = count = counts.get(tag, 0) + 1
        if count == enough:
            many.add(tag)
        if not row % _SORTED_AT_ONCE:
            yield
    frequent = heapq.nlargest(BYTES - 1, many, counts.__getitem__)
    yield
    numbers = {tag: number for number, tag in enumerate(frequent, 1)}
    found = Tags(texts=frequent)
    plane = bytearray(len(tags))
    for row, tag in enumerate(tags):
        number = numbers.get(tag.lower(), 0)
        plane[row] = number
        if not number:
            found.rare_rows.append(row)
            found.rare_texts.append(tag.lower())
        if not row % _SORTED_AT_ONCE:
            yield
    found.plane = bytes(plane)
    return found


def _runs(rows: LibraryRows) -> Steps[None]:
    ones: dict[int, bytes] = {}
    zeros: dict[int, bytes] = {}
    for base, start in enumerate(rows.starts[:-1]):
        count = rows.starts[base + 1] - start
        rows.ones.append(ones.setdefault(count, b"\1" * count))
        rows.zeros.append(zeros.setdefault(count, bytes(count)))
        if not base % _SORTED_AT_ONCE:
            yield
