"""Which rows of the library a query means: a mask, made of one for each thing that is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import compress

from broker.core.model_name import comparison_key
from broker.models.library_rows import LibraryRows
from broker.models.planes import BYTES, as_mask, as_number, both, mask_of, turned
from broker.models.query import ModelQuery
from broker.models.slices import Steps


def meant(
    rows: LibraryRows, query: ModelQuery, hidden: bytes, named: Collection[str]
) -> Steps[bytes]:
    """All that the query asks but `admits`. `hidden` rows are on a backend; `named` are the keys
    that the configuration names."""
    number = as_number(turned(hidden))
    bases = _of_bases(rows, query)
    if bases is not None:
        number &= as_number(rows.rows_of(bases))
    yield
    if query.size_bytes_max > 0:
        number &= as_number(rows.by_size.at_most(query.size_bytes_max))
    if query.context_min > 0:
        number &= as_number(rows.by_context.at_least(query.context_min))
    if query.exclude_dynamic:
        found = (rows.find(key) for key in named)
        number &= as_number(mask_of((row for row in found if row is not None), len(rows)))
    yield
    for word in words_of(query.search):
        number &= _with_word(rows, word)
        yield
    return as_mask(number, len(rows))


def words_of(search: str) -> list[str]:
    """What is looked for, the longest first; one that is part of another says nothing more."""
    found: list[str] = []
    for word in sorted(set(search.lower().split()), key=len, reverse=True):
        if not any(word in other for other in found):
            found.append(word)
    return found


def _of_bases(rows: LibraryRows, query: ModelQuery) -> bytes | None:
    """The bases that can do it, and may; None where all of them."""
    mask: bytes | None = None
    if query.capabilities:
        table = bytearray(BYTES)
        for number, each in enumerate(rows.distinct_sets):
            table[number] = query.capabilities <= each
        can = bytearray(rows.sets.translate(table))
        if len(rows.distinct_sets) == BYTES - 1:
            for base, number in enumerate(rows.sets):
                if number == BYTES - 1:
                    can[base] = query.capabilities <= rows.capabilities[base]
        mask = bytes(can)
    if query.exclude_guards:
        mask = turned(rows.guards) if mask is None else both(mask, turned(rows.guards))
    return mask


def _with_word(rows: LibraryRows, word: str) -> int:
    """The rows whose name or description has it somewhere."""
    number = as_number(rows.rows_of([word in each for each in rows.texts]))
    number |= _tagged(rows, lambda each: word in each)
    if ":" in word:  # it may lie on both sides of the colon before the tag
        head, colon, tag = word.rpartition(":")
        bases = rows.rows_of([each.endswith(head + colon) for each in rows.keys])
        number |= as_number(bases) & _tagged(rows, lambda each: each.startswith(tag))
    return number


def _tagged(rows: LibraryRows, fits: Callable[[str], bool]) -> int:
    """The rows whose tag fits."""
    tags = rows.by_tag
    table = bytearray(BYTES)
    table[1 : len(tags.texts) + 1] = bytes(map(fits, tags.texts))
    number = as_number(tags.plane.translate(table)) if any(table) else 0
    rare = list(compress(tags.rare_rows, map(fits, tags.rare_texts)))
    return number | as_number(mask_of(rare, len(rows))) if rare else number


def keys_of(names: Iterable[str]) -> frozenset[str]:
    """What these names are compared by."""
    return frozenset(comparison_key(each) for each in names)
