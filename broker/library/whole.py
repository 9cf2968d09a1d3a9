"""What came of many pages, as one answer: joined with what was known, and only if it is whole.

A page may be complete and its content gone all the same, as when the library's design has changed:
what then looks like a small library is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from broker.core.library import (
    LIBRARY_VARIANTS_MAX,
    LibraryFailed,
    LibraryModel,
    LibraryVariant,
)
from broker.library.pages import Age, ListedModel, TagRow

# Of fewer models than this, half may go at once.
_MANY: Final = 20


def model_of(
    listed: ListedModel, rows: Iterable[TagRow], known: LibraryModel | None, now: datetime
) -> LibraryModel:
    """One model, of its entry and its tags. What is still the same file keeps the date that it had
    when its age was told more exactly."""
    before = {each.name: each for each in known.variants} if known else {}
    return LibraryModel(
        name=listed.name,
        variants=tuple(_variant(row, before.get(row.name), now) for row in rows),
        capabilities=listed.capabilities,
        description=listed.description,
        mark=listed.mark,
    )


def _variant(row: TagRow, before: LibraryVariant | None, now: datetime) -> LibraryVariant:
    is_same = before is not None and row.digest and before.digest == row.digest
    return LibraryVariant(
        name=row.name,
        size_bytes=row.size_bytes,
        context_window=row.context_window,
        modified_at=before.modified_at if before and is_same else date_of(row.age, now),
        digest=row.digest,
    )


def date_of(age: Age | None, now: datetime) -> str:
    """The day, month or year that is so long ago, as far as the age tells it."""
    if age is None:
        return ""
    try:
        then = now.astimezone(UTC) - timedelta(days=age.days)
    except OverflowError:
        return ""
    then = then.replace(hour=0, minute=0, second=0, microsecond=0)
    if age.unit == "month":
        then = then.replace(day=1)
    elif age.unit == "year":
        then = then.replace(month=1, day=1)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_whole(models: tuple[LibraryModel, ...]) -> None:
    """Raises LibraryFailed where this cannot be what the library holds."""
    variants = [variant for model in models for variant in model.variants]
    if not variants:
        raise LibraryFailed("no model of the library has a tag: its pages must have changed")
    if len(variants) > LIBRARY_VARIANTS_MAX:
        raise LibraryFailed(f"the library has over {LIBRARY_VARIANTS_MAX} variants")
    sized = sum(1 for each in variants if each.size_bytes)
    if sized * 2 < len(variants):
        raise LibraryFailed(
            f"of {len(variants)} tags of the library only {sized} have a size: its pages must"
            " have changed"
        )


def has_shrunk(models: int, known: Mapping[str, LibraryModel]) -> bool:
    """Is this so much less than before that it looks like half an answer?"""
    return len(known) >= _MANY and models * 2 < len(known)
