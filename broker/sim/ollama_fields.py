"""The fields of Ollama's requests by type, and what Go says when a value is of another.

Rules: keys match whatever their case; unknown keys are ignored; null leaves a field alone. A wrong
type does not stop Go, which reports the first one at the end; a type that reads itself (keep_alive,
think, tool arguments) stops at once with its own words.

Source: reference/OLLAMA.md §1.3, §1.4, §1.4b, §1.4c and §2; api/types.go of Ollama; recordings
12_generate_wrong_type, 15_chat_content_array, 11_keep_alive_forms, 20_chat_thinking_bad.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from broker.sim.ollama_gojson import GoJsonError, Json, go_quote, kind_of

FOREVER_NS: Final = -1  # keep_alive without end, as ollama_work.py spells it
_INT64_MAX: Final = 2**63 - 1

_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
# A number with at most one point, then a unit up to the next digit or point; either may be missing.
_DURATION_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_THINK_LEVELS: Final = ("high", "medium", "low", "max")


def parse_duration_ns(text: str) -> int:
    """A duration as time.ParseDuration reads it; raises GoJsonError with its words."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total_ns = 0
    for part in _DURATION_PART.finditer(rest):
        if part.group() or not rest:
            total_ns += _part_ns(text, *part.groups())
    if total_ns > _INT64_MAX:
        raise GoJsonError(f"time: invalid duration {go_quote(text)}")
    return -total_ns if text.startswith("-") else total_ns


def _part_ns(text: str, digits: str, fraction: str | None, unit: str) -> int:
    """One number and unit of the duration `text`, in nanoseconds."""
    if not (digits or fraction):
        raise GoJsonError(f"time: invalid duration {go_quote(text)}")
    if not unit:
        raise GoJsonError(f"time: missing unit in duration {go_quote(text)}")
    scale_ns = _UNITS_NS.get(unit)
    if scale_ns is None:
        raise GoJsonError(f"time: unknown unit {go_quote(unit)} in duration {go_quote(text)}")
    part_ns = int(digits or 0) * scale_ns
    return part_ns + int(fraction) * scale_ns // 10 ** len(fraction) if fraction else part_ns


def parse_keep_alive_ns(value: Json) -> int | None:
    """keep_alive of a request: nanoseconds, FOREVER_NS, or None to leave the runner's alone.

    A number above 9.2e9 overflows Go's nanoseconds: the model goes as soon as it is idle. Not by
    the 0 that makes a request without a prompt an unload, so it is the shortest time there is.
    """
    match value:
        case None:
            return None
        case bool():
            raise GoJsonError("Unsupported type: 'bool'")
        case int() | float():
            if value < 0:
                return FOREVER_NS
            length_ns = value * 1_000_000_000
            return 1 if length_ns > _INT64_MAX else int(length_ns)
        case str():
            parsed_ns = parse_duration_ns(value)
            return FOREVER_NS if parsed_ns < 0 else parsed_ns
        case list():
            raise GoJsonError("Unsupported type: '[]interface {}'")
        case dict():
            raise GoJsonError("Unsupported type: 'map[string]interface {}'")


def parse_think(value: Json) -> bool | str | None:
    """think of a request: a truth value, a level, or None when the request does not say."""
    match value:
        case None | bool():
            return value
        case str() if value in _THINK_LEVELS:
            return value
        case str():
            raise GoJsonError(
                f"invalid think value: {go_quote(value)} "
                '(must be "high", "medium", "low", "max", true, or false)'
            )
        case _:
            raise GoJsonError(
                'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'
            )


class Kind(Enum):
    """The type of a field; the value is Go's name for it in an error text."""

    STRING = "string"
    BOOL = "bool"
    INT = "int"
    INTS = "[]int"
    RAW = "json.RawMessage"  # any JSON at all
    OPTIONS = "map[string]interface {}"
    IMAGES = "[]api.ImageData"
    MESSAGES = "[]api.Message"
    TOOL_CALLS = "[]api.ToolCall"
    TOOL_FUNCTION = "api.ToolCallFunction"
    ARGUMENTS = "api.ToolCallFunctionArguments"
    TOOLS = "api.Tools"
    KEEP_ALIVE = "api.Duration"
    THINK = "api.ThinkValue"


_PLAIN: Final[Mapping[Kind, type]] = {
    Kind.STRING: str,
    Kind.BOOL: bool,
    Kind.OPTIONS: dict,
    Kind.TOOLS: list,
}
_CUSTOM: Final[Mapping[Kind, Callable[[Json], object]]] = {
    Kind.KEEP_ALIVE: parse_keep_alive_ns,
    Kind.THINK: parse_think,
}
_MESSAGE: Final[Mapping[str, Kind]] = {
    "role": Kind.STRING,
    "content": Kind.STRING,
    "thinking": Kind.STRING,
    "images": Kind.IMAGES,
    "tool_calls": Kind.TOOL_CALLS,
    "tool_name": Kind.STRING,
    "tool_call_id": Kind.STRING,
}
_TOOL_CALL: Final[Mapping[str, Kind]] = {"id": Kind.STRING, "function": Kind.TOOL_FUNCTION}
_TOOL_FUNCTION: Final[Mapping[str, Kind]] = {
    "index": Kind.INT,
    "name": Kind.STRING,
    "arguments": Kind.ARGUMENTS,
}
_STRUCTS: Final[Mapping[Kind, Mapping[str, Kind]]] = {
    Kind.MESSAGES: _MESSAGE,
    Kind.TOOL_CALLS: _TOOL_CALL,
}
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/\r\n]")


def read_struct(name: str, fields: Mapping[str, Kind], value: Json) -> dict[str, object]:
    """The fields of a body by lower-case name, absent ones left out.

    `name` is the Go type in the api package, for the error text. Raises GoJsonError with the text
    that Ollama puts into its 400.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GoJsonError(
            f"json: cannot unmarshal {kind_of(value)} into Go value of type api.{name}"
        )
    reader = _Reader(name)
    found = reader.struct(fields, value, "")
    if reader.first_problem is not None:
        raise GoJsonError(reader.first_problem)
    return found


class _Reader:
    """Fills one struct and those within it; remembers the first wrong type, as Go does."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.first_problem: str | None = None

    def struct(
        self, fields: Mapping[str, Kind], value: dict[str, Json], path: str
    ) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, item in value.items():
            field = key.lower()
            kind = fields.get(field)
            if kind is None or item is None:
                continue
            read = self._field(kind, item, f"{path}{field}")
            if read is not None:
                found[field] = read
        return found

    def _wrong(self, value: Json, kind: Kind, path: str) -> None:
        described = kind_of(value)
        if kind is Kind.INT and isinstance(value, float):
            described = f"number {value}"
        if self.first_problem is None:
            self.first_problem = (
                f"json: cannot unmarshal {described} into Go struct field "
                f"{self._name}.{path} of type {kind.value}"
            )

    def _field(self, kind: Kind, value: Json, path: str) -> object:
        custom = _CUSTOM.get(kind)
        if custom is not None:
            return custom(value)
        plain = _PLAIN.get(kind)
        if plain is not None:
            if isinstance(value, plain):
                return value
            self._wrong(value, kind, path)
            return None
        if kind is Kind.RAW:
            return value
        if kind is Kind.INT:
            return self._integer(value, path)
        if kind is Kind.ARGUMENTS:
            return _arguments(value)
        return self._compound(kind, value, path)

    def _integer(self, value: Json, path: str) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        self._wrong(value, Kind.INT, path)
        return None

    def _compound(self, kind: Kind, value: Json, path: str) -> object:
        if kind is Kind.TOOL_FUNCTION:
            if isinstance(value, dict):
                return self.struct(_TOOL_FUNCTION, value, f"{path}.")
            self._wrong(value, kind, path)
            return None
        if not isinstance(value, list):
            self._wrong(value, kind, path)
            return None
        if kind is Kind.INTS:
            return [self._integer(item, path) for item in value]
        if kind is Kind.IMAGES:
            return [self._image(item, path) for item in value]
        return [self._element(kind, item, path) for item in value]

    def _element(self, kind: Kind, value: Json, path: str) -> dict[str, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(value, kind, path)
            return {}
        return self.struct(_STRUCTS[kind], value, f"{path}.")

    def _image(self, value: Json, path: str) -> bytes:
        if not isinstance(value, str):
            self._wrong(value, Kind.IMAGES, path)
            return b""
        try:
            return base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
        except binascii.Error:
            bad = _NOT_BASE64.search(value.rstrip("="))
            offset = len(value) if bad is None else bad.start()
            if self.first_problem is None:
                self.first_problem = f"illegal base64 data at input byte {offset}"
            return b""


def _arguments(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        # The words of the library that keeps the order of arguments, whatever else came.
        raise GoJsonError("Value looks like object, but can't find closing '}' symbol")
    return value
