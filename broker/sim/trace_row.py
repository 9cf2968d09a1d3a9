"""One request of a trace, and what its values must be, whatever kind of file it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST
from broker.sim.workload_problem import shown

ROWS_MAX: Final = 1_000_000  # of one trace
TOKENS_MAX: Final = 10_000_000  # the largest context in Ollama's library
ARRIVAL_MS_MAX: Final = 1e13  # a moment of the present century in Unix milliseconds
CALLS_MAX: Final = 10_000  # of one session, as on the wire
WORD_LENGTH_MAX: Final = 256
_MS_NS: Final = 1_000_000
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One request. A token count is None where it never ran, so that nobody knows."""

    arrival_ns: int
    prompt_tokens: int | None
    output_tokens: int | None
    agent: str = ""
    model: str = ""
    priority: int | None = None
    session: str = ""
    expected_calls: int = 0  # of its session, as its caller said; 0: not told
    deadline_ns: int = 0  # how long it might take in all; 0: not told
    soft_deadline_ns: int = 0  # the same of its soft deadline
    blocks: tuple[int, ...] = ()  # names of its prompt's tokens, see workload.Task
    line: int = 0
    model_column: int = 0  # of its line, where that names one


class Misplaced(Exception):
    """What is wrong with one line, and at which column of it."""

    def __init__(self, column: int, text: str) -> None:
        super().__init__(text)
        self.column = column
        self.text = text


class Unreadable(Misplaced):
    """The line is not what it was written as: torn, or of somebody else."""


# Makes a row of one line: None where it is about something else; Misplaced where it is wrong.
ReadRow = Callable[[str, int], TraceRow | None]


# Each of these raises ValueError with the words of what is wrong.


def tokens_of(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        raise ValueError(f"is {shown(value)}; must be a whole number from 0 to {TOKENS_MAX}")
    return value


def calls_of(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= CALLS_MAX:
        raise ValueError(f"is {shown(value)}; must be a whole number from 0 to {CALLS_MAX}")
    return value


def priority_of(value: object) -> int:
    least, most = PRIORITY_HIGHEST, PRIORITY_LOWEST
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"is {shown(value)}; must be a whole number from {least} to {most}")
    return value


def word_of(value: object) -> str:
    is_text = isinstance(value, str) and 0 < len(value) <= WORD_LENGTH_MAX and value.isprintable()
    if not is_text:
        words = f"must be text of 1 to {WORD_LENGTH_MAX} printable characters"
        raise ValueError(f"is {shown(value)}; {words}")
    return str(value)


def arrival_ns_of(value: object) -> int:
    """Milliseconds since whatever moment, or a date and time."""
    if isinstance(value, str):
        return _unix_ns_of(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {shown(value)}; must be milliseconds")
    if 0 <= value <= ARRIVAL_MS_MAX:  # which infinities and what is no number are not
        return round(value * _MS_NS)
    raise ValueError(f"is {shown(value)}; must be milliseconds from 0 to {ARRIVAL_MS_MAX:g}")


def _unix_ns_of(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _UNIX_EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError):
        raise ValueError(f"is {shown(text)}; must be a date and time") from None


class TraceKind(Enum):
    CSV = "CSV"
    JSON_LINES = "JSON lines"
    REQUEST_LOG = "request log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`skipped` lines were about something else, as most of a daemon's log are; `torn` are the
    lines of a log that cannot be read."""

    source: str
    kind: TraceKind
    rows: tuple[TraceRow, ...]
    skipped: int = 0
    torn: tuple[int, ...] = ()
