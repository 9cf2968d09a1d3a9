"""Traces as CSV: a header, then a request on each line.

Rules: the header names the columns, in any order: those of the Azure traces as published
(TIMESTAMP, ContextTokens, GeneratedTokens) or ours (arrival_ms, prompt_tokens, output_tokens), and
beside either, agent, model, priority and session. An empty cell of the latter is not said. A cell
may stand in quotes, which are doubled inside; a line has one request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from broker.sim.trace_row import (
    Misplaced,
    ReadRow,
    TraceRow,
    arrival_ns_of,
    calls_of,
    priority_of,
    tokens_of,
    word_of,
)
from broker.sim.workload_problem import shown

# A line of a journal that holds a line of our log.
_LOG_BEHIND: Final = re.compile(r'\{.*"event":')

Cell = tuple[int, str]  # its column in the line, and what it says


def _number(text: str) -> int | float | str:
    """What it would be in JSON; the text itself where it is no number."""
    for kind in (int, float):
        try:
            return kind(text) if len(text) <= 32 and "_" not in text else text
        except ValueError:
            continue
    return text


def _milliseconds(text: str) -> int:
    value = _number(text)
    if isinstance(value, str):
        raise ValueError(f"is {shown(text)}; must be milliseconds")
    return arrival_ns_of(value)


# How a column is called -> the field of a row, and what makes one of a cell.
_COLUMNS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "arrival_ms": ("arrival_ns", _milliseconds),
    "TIMESTAMP": ("arrival_ns", arrival_ns_of),
    "prompt_tokens": ("prompt_tokens", lambda text: tokens_of(_number(text))),
    "ContextTokens": ("prompt_tokens", lambda text: tokens_of(_number(text))),
    "output_tokens": ("output_tokens", lambda text: tokens_of(_number(text))),
    "GeneratedTokens": ("output_tokens", lambda text: tokens_of(_number(text))),
    "agent": ("agent", word_of),
    "model": ("model", word_of),
    "priority": ("priority", lambda text: priority_of(_number(text))),
    "session": ("session", word_of),
    "expected_calls": ("expected_calls", lambda text: calls_of(_number(text))),
}
_NEEDED: Final = ("arrival_ns", "prompt_tokens", "output_tokens")


def csv_reader(header: str) -> ReadRow:
    """What reads the lines below this header; Misplaced where it is none."""
    cells = _header_cells(header)
    for place, name in cells:
        if name not in _COLUMNS:
            near = get_close_matches(name, _COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_COLUMNS)}"
            raise Misplaced(place, f"{shown(name)} is no column; {hint}")
    fields = [_COLUMNS[name][0] for _, name in cells]
    twice = next((each for each, count in Counter(fields).items() if count > 1), "")
    if twice:
        again = len(fields) - 1 - fields[::-1].index(twice)
        raise Misplaced(cells[again][0], f"{cells[again][1]} is there twice")
    absent = [each for each in _NEEDED if each not in fields]
    if absent:
        names = " and ".join("arrival_ms" if each == "arrival_ns" else each for each in absent)
        raise Misplaced(len(header) + 1, f"has no column {names}")
    columns = [name for _, name in cells]

    def read(line: str, number: int) -> TraceRow:
        return _row(columns, _cells(line), line, number)

    return read


def _header_cells(header: str) -> list[Cell]:
    """Misplaced where not one of them is known: then it is something else than a trace."""
    if _LOG_BEHIND.search(header):
        words = "a log in JSON, with something before each line"
        raise Misplaced(1, f"is {words}: journalctl -o cat leaves that out")
    if not any(name in header for name in _COLUMNS):
        words = "must be a header that names arrival_ms, prompt_tokens, output_tokens, or JSON"
        hint = 'a broker writes a log in JSON with server.log_format = "json"'
        raise Misplaced(1, f"is {shown(header)}; {words}; {hint}")
    return _cells(header)


def _row(names: list[str], cells: list[Cell], line: str, number: int) -> TraceRow:
    if len(cells) < len(names):
        raise Misplaced(len(line) + 1, f"{names[len(cells)]} is missing")
    if len(cells) > len(names):
        raise Misplaced(cells[len(names)][0], f"has more than the {len(names)} columns")
    values: dict[str, Any] = {}
    for name, (column, text) in zip(names, cells, strict=True):
        field, read = _COLUMNS[name]
        if not text and field not in _NEEDED:
            continue
        try:
            values[field] = read(text)
        except ValueError as error:
            raise Misplaced(column, f"{name} {error}") from None
        if field == "model":
            values["model_column"] = column
    return TraceRow(**values, line=number)


def _cells(line: str) -> list[Cell]:
    """The cells of a line, spaces around them left out."""
    if '"' not in line:
        cells: list[Cell] = []
        column = 1
        for text in line.split(","):
            indent = len(text) - len(text.lstrip())
            cells.append((column + indent, text.strip()))
            column += len(text) + 1
        return cells
    return _quoted_cells(line)


def _quoted_cells(line: str) -> list[Cell]:
    cells: list[Cell] = []
    place = 0
    while True:
        while line[place : place + 1] in (" ", "\t"):
            place += 1
        begun = place
        if line[place : place + 1] == '"':
            text, place = _quoted(line, place)
            after = line.find(",", place)
            rest = line[place : after if after >= 0 else None]
            if rest.strip():
                raise Misplaced(place + 1, f"{shown(rest)} stands behind a closing quote")
        else:
            after = line.find(",", place)
            text = line[place : after if after >= 0 else None].strip()
        cells.append((begun + 1, text))
        if after < 0:
            return cells
        place = after + 1


def _quoted(line: str, opened: int) -> tuple[str, int]:
    """What stands in quotes, and where it goes on behind them."""
    text, place = "", opened + 1
    while (closed := line.find('"', place)) >= 0:
        text += line[place:closed]
        if line[closed + 1 : closed + 2] != '"':
            return text, closed + 1
        text, place = text + '"', closed + 2
    raise Misplaced(opened + 1, "a quote is not closed in its line")
