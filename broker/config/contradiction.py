"""One thing that only several settings together can get wrong, and the words that rules share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from broker.config.explanation import KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """One setting that does not go with others. `involved` are all of them, itself included."""

    path: KeyPath
    involved: tuple[KeyPath, ...]
    problem: str


def twice(
    values: Iterable[tuple[KeyPath, str, str]], is_what: Callable[[str, str], str]
) -> Iterator[Contradiction]:
    """`values` are (path, as written, as compared); those that were seen before are at fault."""
    seen: dict[str, tuple[KeyPath, str]] = {}
    for path, written, compared in values:
        first = seen.setdefault(compared, (path, written))
        if first[0] != path:
            yield Contradiction(
                path=path, involved=(path, first[0]), problem=is_what(written, first[1])
            )


def nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(names)}" if names else ""
