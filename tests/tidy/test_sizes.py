"""Files of at most 400 lines, functions of at most 60, lines of at most 100 columns.

A file that grows past it holds two nouns, a function two thoughts. Held from the first day, since a
limit that spares what is already too large only stops it from growing further.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from tests.tidy.sources import ROOT, code_files

FILE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60
LINE_LENGTH_MAX: Final = 100


def too_large(text: str, name: str) -> Iterator[str]:
    """Everything in one source that is over its limit. Functions are counted where Python is."""
    lines = text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f"{name} has {len(lines)} lines"
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_LENGTH_MAX:
            yield f"{name}:{number} has {len(line)} columns"
    if not name.endswith((".py", ".pyi")):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES_MAX:
                yield f"{name}:{node.lineno} {node.name} has {size} lines"


def test_nothing_is_too_large() -> None:
    found = [
        each
        for path in code_files()
        for each in too_large(path.read_text(), path.relative_to(ROOT).as_posix())
    ]
    assert not found, "\n".join(found)


def test_each_limit_is_held() -> None:
    body = "def f():\n" + "    x = 1\n" * 60
    assert list(too_large("\n" * 400, "a.py")) == []
    assert list(too_large("\n" * 401, "a.pyx")) == ["a.pyx has 401 lines"]
    assert list(too_large("#" * 101, "a.pyx")) == ["a.pyx:1 has 101 columns"]
    assert list(too_large(body, "a.py")) == ["a.py:1 f has 61 lines"]
