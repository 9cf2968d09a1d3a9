"""Traces as JSON lines: a request in each object; or the log of a broker, of which lines are used
that tell of the end of a request.

Rules: a request is {"timestamp", "input_length", "output_length", "hash_ids"} as Mooncake's traces
have it (milliseconds; each hash names 512 tokens of the prompt), or the same under the names of our
CSV; agent, model, priority and session may stand beside. Null is not said. A log's line counts from
its arrival: when it was written less how long the request took. What did not complete has no
tokens: nobody knows how many it would have had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from broker.core.requests import Outcome
from broker.sim.trace_row import (
    TOKENS_MAX,
    Misplaced,
    TraceRow,
    Unreadable,
    arrival_ns_of,
    calls_of,
    priority_of,
    tokens_of,
    word_of,
)
from broker.sim.workload import BLOCK_TOKENS
from broker.sim.workload_problem import shown

ENDED: Final = "request ended"  # the event of a log's line that counts
COMPLETED: Final = Outcome.COMPLETED.value
_BLOCKS_MAX: Final = TOKENS_MAX // BLOCK_TOKENS


def _blocks_of(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _BLOCKS_MAX:
        raise ValueError(f"is {shown(value)}; must be an array of at most {_BLOCKS_MAX} numbers")
    for each in value:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < 1 << 64:
            raise ValueError(f"holds {shown(each)}; must hold whole numbers below 2^64")
    return tuple(value)


Fields = Mapping[str, tuple[str, Callable[[object], Any]]]

_FIELDS: Final[Fields] = {
    "timestamp": ("arrival_ns", arrival_ns_of),
    "arrival_ms": ("arrival_ns", arrival_ns_of),
    "input_length": ("prompt_tokens", tokens_of),
    "prompt_tokens": ("prompt_tokens", tokens_of),
    "output_length": ("output_tokens", tokens_of),
    "output_tokens": ("output_tokens", tokens_of),
    "hash_ids": ("blocks", _blocks_of),
    "agent": ("agent", word_of),
    "model": ("model", word_of),
    "priority": ("priority", priority_of),
    "session": ("session", word_of),
    "expected_calls": ("expected_calls", calls_of),
}
_NEEDED: Final = {
    "arrival_ns": "timestamp",
    "prompt_tokens": "input_length",
    "output_tokens": "output_length",
}
# Of a log's line; what else it says is not of a trace.
_OF_LOG: Final = ("agent", "model", "priority", "session", "expected_calls")
_TOKENS: Final = ("prompt_tokens", "output_tokens")


def is_log_line(line: str) -> bool:
    """Is it a line that our daemon, or another program with such a log, wrote?"""
    try:
        return "event" in _object(line)
    except Misplaced:
        return False


class JsonLines:
    """Reads one line at a time."""

    def __init__(self, *, is_log: bool) -> None:
        self._is_log = is_log

    def read(self, line: str, number: int) -> TraceRow | None:
        told = _object(line)
        if self._is_log:
            return None if told.get("event") != ENDED else _row_of_log(told, line, number)
        return _row(told, line, number)


def _row(told: dict[str, object], line: str, number: int) -> TraceRow:
    values: dict[str, Any] = {}
    for name, value in told.items():
        if name not in _FIELDS:
            near = get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_FIELDS)}"
            raise Misplaced(_column(line, name), f"{shown(name)} is no field; {hint}")
        field, _ = _FIELDS[name]
        if field in values:
            raise Misplaced(_column(line, name), f"{name} says again what another field says")
        if value is not None:
            values[field] = _value(name, value, line)
    for field, name in _NEEDED.items():
        if field not in values:
            raise Misplaced(len(line) + 1, f"{name} is missing")
    return TraceRow(**values, line=number, model_column=_model_column(values, line))


def _row_of_log(told: dict[str, object], line: str, number: int) -> TraceRow:
    if told.get("timestamp") is None:
        raise Misplaced(len(line) + 1, "timestamp is missing")
    took_ns = _time_ns("total_ms", told, line)
    values: dict[str, Any] = {"prompt_tokens": None, "output_tokens": None}
    values["deadline_ns"] = _time_ns("deadline_ms", told, line)
    values["soft_deadline_ns"] = _time_ns("soft_deadline_ms", told, line)
    is_whole = told.get("outcome") == COMPLETED
    for name in (*_OF_LOG, *_TOKENS) if is_whole else _OF_LOG:
        if told.get(name) not in (None, ""):  # the model is "" where none of them answered
            values[_FIELDS[name][0]] = _value(name, told[name], line)
    ended_ns = _value("timestamp", told["timestamp"], line)
    arrival_ns = ended_ns - took_ns
    return TraceRow(
        **values, arrival_ns=arrival_ns, line=number, model_column=_model_column(values, line)
    )


def _time_ns(name: str, told: dict[str, object], line: str) -> int:
    """Of a field in milliseconds; 0 where it is not there."""
    if told.get(name) is None:
        return 0
    try:
        if isinstance(told[name], str):
            raise ValueError(f"is {shown(told[name])}; must be milliseconds")
        return arrival_ns_of(told[name])
    except ValueError as error:
        raise Misplaced(_column(line, name), f"{name} {error}") from None


def _value(name: str, value: object, line: str) -> Any:
    try:
        return _FIELDS[name][1](value)
    except ValueError as error:
        raise Misplaced(_column(line, name), f"{name} {error}") from None


def _model_column(values: Mapping[str, Any], line: str) -> int:
    return _column(line, "model") if values.get("model") else 0


def _column(line: str, name: str) -> int:
    """Where the value of a field begins, or the field where that cannot be told."""
    found = re.search(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:\s*", line)
    return found.end() + 1 if found else len(line) - len(line.lstrip()) + 1


def _object(line: str) -> dict[str, object]:
    try:
        told = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(error.colno, f"is not JSON: {error.msg}") from None
    except RecursionError:
        raise Misplaced(1, "is not JSON that can be used: nested too deeply") from None
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise Misplaced(1, f"is not JSON that can be used: {error}") from None
    if not isinstance(told, dict):
        raise Misplaced(1, "must be an object")
    return told


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
