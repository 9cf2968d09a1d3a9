"""Traces of requests: when each came, and how large it was. CSV, JSON lines, or a broker's own log.

Rules: what kind of file it is, its first line decides. Arrivals are counted from the first one, and
rows are in the order of arrival, whatever the order of the lines. What a trace does not tell is
empty; nothing is made up here. Every malformed line is named with its column, all together; but a
log may have lines that were torn when its writer died, or that others wrote: they are counted.

Sources: the columns of the Azure LLM inference traces (2023, 2024) and of Mooncake's
(arXiv 2407.00079), and broker/observability/request_log.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from broker.sim.trace_csv import csv_reader
from broker.sim.trace_jsonl import JsonLines, is_log_line
from broker.sim.trace_row import (
    ROWS_MAX,
    Misplaced,
    ReadRow,
    Trace,
    TraceKind,
    TraceRow,
    Unreadable,
)
from broker.sim.workload_problem import PROBLEMS_MAX, Problem, WorkloadProblems

_GZIP: Final = b"\x1f\x8b"
LINE_BYTES_MAX: Final = 1_048_576  # the longest prompt of a trace names some hundreds of blocks


def read_trace(path: Path, *, rows_max: int = ROWS_MAX) -> Trace:
    """The first `rows_max` rows of a file; WorkloadProblems with all that is wrong in them."""
    try:
        with path.open("rb") as stream:
            return _read(_lines(stream), str(path), rows_max)
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        raise WorkloadProblems([Problem(source=str(path), text=text)]) from None


def parse_trace(content: bytes, source: str, *, rows_max: int = ROWS_MAX) -> Trace:
    """The same of what has been read already."""
    return _read(_lines(BytesIO(content)), source, rows_max)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """No longer than one byte above the limit, so that a device without lines has an end."""
    while line := stream.readline(LINE_BYTES_MAX + 1):
        yield line
        if len(line) > LINE_BYTES_MAX:
            return


def _read(lines: Iterable[bytes], source: str, rows_max: int) -> Trace:
    kind, read_row = TraceKind.CSV, None
    rows: list[TraceRow] = []
    problems: list[Problem] = []
    skipped, number = 0, 0
    torn: list[int] = []
    for number, data in enumerate(lines, 1):
        try:
            line = _decoded(data, is_first=number == 1)
            if not line.strip():
                continue
            if read_row is None:
                kind, read_row = _reader(line)
                if kind is TraceKind.CSV:
                    continue
            row = read_row(line, number)
        except Misplaced as wrong:
            if kind is TraceKind.REQUEST_LOG and isinstance(wrong, Unreadable):
                torn.append(number)
                continue
            problem = Problem(source=source, line=number, column=wrong.column, text=wrong.text)
            problems.append(problem)
            if read_row is None or len(problems) > PROBLEMS_MAX:
                break
            continue
        if row is None:
            skipped += 1
            continue
        rows.append(row)
        if len(rows) >= rows_max:
            break
    if not rows and not problems:
        text = "tells of no request that ended" if skipped else "holds no request"
        problems.append(Problem(source=source, line=number + 1, column=1, text=text))
    if problems:
        raise WorkloadProblems(problems)
    return Trace(
        source=source, kind=kind, rows=_from_first(rows), skipped=skipped, torn=tuple(torn)
    )


def _decoded(data: bytes, *, is_first: bool) -> str:
    if len(data) > LINE_BYTES_MAX:
        raise Misplaced(LINE_BYTES_MAX + 1, f"the line is longer than {LINE_BYTES_MAX} bytes")
    if is_first and data.startswith(_GZIP):
        raise Misplaced(1, "is compressed: unpack it with gunzip first")
    try:
        text = data.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        column = len(data[: error.start].decode("utf-8", "replace")) + 1
        raise Unreadable(column, "is not UTF-8") from None
    return text.rstrip("\r\n")


def _reader(first: str) -> tuple[TraceKind, ReadRow]:
    """Whose first line is this?"""
    if not first.lstrip().startswith("{"):
        return TraceKind.CSV, csv_reader(first)
    kind = TraceKind.REQUEST_LOG if is_log_line(first) else TraceKind.JSON_LINES
    return kind, JsonLines(is_log=kind is TraceKind.REQUEST_LOG).read


def _from_first(rows: list[TraceRow]) -> tuple[TraceRow, ...]:
    rows.sort(key=lambda each: each.arrival_ns)  # stable: lines of one moment keep their order
    first_ns = rows[0].arrival_ns
    return tuple(replace(each, arrival_ns=each.arrival_ns - first_ns) for each in rows)
