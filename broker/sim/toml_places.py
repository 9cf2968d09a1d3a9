"""Where in a TOML document a setting stands. tomllib tells the values and not their places.

Rules: headers of tables, headers of arrays of tables, keys before an equals sign; what stands
inside an inline table or array has the place of the key that it belongs to. The document has been
parsed before, so that only places are looked for here, never meaning.
"""

from __future__ import annotations

import re
from typing import Final

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1

_PART: Final = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*""")
_LONG_QUOTES: Final = ('"""', "'''")


class TomlPlaces:
    """The places of a document's settings."""

    def __init__(self, text: str) -> None:
        self._places: dict[Path, Place] = {}
        self._counts: dict[Path, int] = {}
        table: Path = ()
        closing = ""
        depth = 0
        for number, line in enumerate(text.splitlines(), 1):
            if closing:
                closing = "" if closing in line else closing
                continue
            bare = line.lstrip()
            column = len(line) - len(bare) + 1
            if depth <= 0 and bare.startswith("["):
                table = self._header(bare)
                whole = table[:-1] if table and isinstance(table[-1], int) else table
                for each in (table, whole):
                    self._places.setdefault(each, (number, column))
                continue
            if depth <= 0 and (keys := _keys(bare)):
                self._places.setdefault((*table, *keys), (number, column))
                depth = 0
            depth += _opened(line)
            closing = _left_open(line)

    def place(self, path: Path) -> Place:
        """Of the setting, else of the nearest table that it belongs to; (0, 0) for none."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, (0, 0))

    def _header(self, line: str) -> Path:
        is_array = line.startswith("[[")
        names = _parts(line[2 if is_array else 1 :], "]")
        path: Path = ()
        for name in names:
            path = (*path, name)
            last = self._counts.get(path)
            if last is not None and not (is_array and len(path) >= len(names)):
                path = (*path, last)  # a table below the last entry of an array
        if is_array:
            key = path
            self._counts[key] = self._counts.get(key, -1) + 1
            path = (*path, self._counts[key])
        return path


def _parts(text: str, end: str) -> list[str]:
    """The names of a dotted key, up to what ends it; none where it is no key."""
    names: list[str] = []
    place = 0
    while match := _PART.match(text, place):
        names.append(match[1].strip("\"'"))
        place = match.end()
        if text[place : place + 1] == end:
            return names
        if text[place : place + 1] != ".":
            return []
        place += 1
    return []


def _keys(line: str) -> list[str]:
    return [] if line.startswith("#") else _parts(line, "=")


def _opened(line: str) -> int:
    """How many brackets of arrays the line leaves open."""
    code = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', "", line).partition("#")[0]
    return code.count("[") + code.count("{") - code.count("]") - code.count("}")


def _left_open(line: str) -> str:
    """The quotes of text over several lines that begins here, "" where there is none."""
    return next((each for each in _LONG_QUOTES if line.count(each) % 2), "")
