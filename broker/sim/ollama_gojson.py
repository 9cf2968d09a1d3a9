"""JSON as Go's encoding/json reads and writes it: what is accepted, and the words of each refusal.

Rules: the first value of a body counts, bytes after it are ignored; bytes that are not UTF-8 become
U+FFFD; a syntax error carries the text of Go's scanner; strings are written with `<`, `>` and `&`
escaped. Nothing here knows of Ollama's fields (ollama_fields.py does).

Source: encoding/json/scanner.go and encode.go as met in reference/OLLAMA.md §1.1, and the
recordings 12_generate_bad_json, 12_generate_empty_body and 16_generate_unicode.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Final, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_SPACE: Final = b" \t\r\n"
_STRING: Final = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_STRING_START: Final = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_HEX: Final = b"0123456789abcdefABCDEF"
_LITERALS: Final = {b"t": b"true", b"f": b"false", b"n": b"null"}
_DEPTH_MAX: Final = 10_000  # encoding/json/scanner.go:maxNestingDepth
_HTML: Final = str.maketrans(
    {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
)


class GoJsonError(Exception):
    """A body that Go does not read; `text` is what Go's error says."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class EmptyBody(GoJsonError):
    """No value at all (io.EOF): the handlers answer `missing request body` themselves."""


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def decode(body: bytes) -> Json:
    """The first JSON value of a body; raises GoJsonError with Go's words."""
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise EmptyBody("EOF")
    try:
        value: Json = _DECODER.raw_decode(text)[0]
    except RecursionError:
        raise GoJsonError("exceeded max depth") from None
    except ValueError:
        raise GoJsonError(_Scanner(text.encode()).problem()) from None
    return _without_surrogates(value) if "\\u" in text else value


def _without_surrogates(value: Json) -> Json:
    """Go turns an escaped half of a surrogate pair into U+FFFD; Python would keep it."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_surrogates(item) for item in value]
        case dict():
            return {
                str(_without_surrogates(key)): _without_surrogates(item)
                for key, item in value.items()
            }
        case _:
            return value


def kind_of(value: Json) -> str:
    """The word for a value in Go's `cannot unmarshal ...`."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"


class _Scanner:
    """Walks a text that Python refused and stops where Go would, to borrow Go's words."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0

    def problem(self) -> str:
        try:
            self._value(0)
        except GoJsonError as error:
            return error.text
        except RecursionError:
            return "exceeded max depth"
        # Python refused what this scanner accepts, for instance a number of 5,000 digits.
        return "json: cannot unmarshal number into Go value of type float64"

    def _fail(self, context: str) -> GoJsonError:
        if self._at >= len(self._text):
            return GoJsonError("unexpected EOF")
        return GoJsonError(f"invalid character {_quoted(self._text[self._at])} {context}")

    def _peek(self) -> bytes:
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _value(self, depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise GoJsonError("exceeded max depth")
        first = self._peek()
        if first == b"{":
            self._members(depth)
        elif first == b"[":
            self._elements(depth)
        elif first == b'"':
            self._string()
        elif first in _LITERALS and first:
            self._literal(_LITERALS[first])
        elif first and first in b"-0123456789":
            self._number()
        else:
            raise self._fail("looking for beginning of value")

    def _members(self, depth: int) -> None:
        self._at += 1
        if self._peek() == b"}":
            self._at += 1
            return
        while True:
            if self._peek() != b'"':
                raise self._fail("looking for beginning of object key string")
            self._string()
            if self._peek() != b":":
                raise self._fail("after object key")
            self._at += 1
            self._value(depth + 1)
            if not self._more(b"}", "after object key:value pair"):
                return

    def _elements(self, depth: int) -> None:
        self._at += 1
        if self._peek() == b"]":
            self._at += 1
            return
        while True:
            self._value(depth + 1)
            if not self._more(b"]", "after array element"):
                return

    def _more(self, closing: bytes, context: str) -> bool:
        mark = self._peek()
        if mark not in (b",", closing):
            raise self._fail(context)
        self._at += 1
        return mark == b","

    def _string(self) -> None:
        whole = _STRING.match(self._text, self._at)
        if whole is not None:
            self._at = whole.end()
            return
        start = _STRING_START.match(self._text, self._at)
        self._at = len(self._text) if start is None else start.end()
        if self._text[self._at : self._at + 1] != b"\\":
            raise self._fail("in string literal")
        self._at += 1
        if self._text[self._at : self._at + 1] != b"u":
            raise self._fail("in string escape code")
        self._at += 1
        while self._at < len(self._text) and self._text[self._at] in _HEX:
            self._at += 1
        raise self._fail("in \\u hexadecimal character escape")

    def _literal(self, word: bytes) -> None:
        for expected in word:
            if self._text[self._at : self._at + 1] != bytes([expected]):
                context = f"in literal {word.decode()} (expecting {_quoted(expected)})"
                raise self._fail(context)
            self._at += 1

    def _number(self) -> None:
        match = _NUMBER.match(self._text, self._at)
        if match is None:
            self._at += 1
            raise self._fail("in numeric literal")
        self._at = match.end()
        following = self._text[self._at : self._at + 1]
        if following == b".":
            self._at += 1
            raise self._fail("after decimal point in numeric literal")
        if following in (b"e", b"E"):
            self._at += 1
            if self._text[self._at : self._at + 1] in (b"+", b"-"):
                self._at += 1
            raise self._fail("in exponent of numeric literal")


def _quoted(byte: int) -> str:
    if byte == ord("'"):
        return "'\\''"
    if byte == ord('"'):
        return "'\"'"
    return "'" + json.dumps(chr(byte), ensure_ascii=False)[1:-1].replace("\\u00", "\\x") + "'"


@lru_cache(maxsize=8192)
def quote(text: str) -> str:
    """A string as json.Marshal writes it, quotes included."""
    return json.dumps(text, ensure_ascii=False).translate(_HTML)


def go_quote(text: str) -> str:
    """A string as `%q` prints it in an error text, quotes included."""
    return json.dumps(text, ensure_ascii=False)


def marshal(value: Json) -> str:
    """A value as json.Marshal writes it: compact, HTML escaped, keys in the order given."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return number(value)
        case str():
            return quote(value)
        case list():
            return f"[{','.join(map(marshal, value))}]"
        case dict():
            members = (f"{quote(key)}:{marshal(item)}" for key, item in value.items())
            return f"{{{','.join(members)}}}"


def number(value: float) -> str:
    """A float as json.Marshal writes it: shortest digits, an exponent without leading zero."""
    if value == math.floor(value) and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text
    if abs(value) >= 1e-6 and abs(value) < 1e21:
        return f"{value:.20f}".rstrip("0") if abs(value) < 1 else f"{value:.0f}"
    sign = "-" if exponent.startswith("-") else "+"
    return f"{mantissa}e{sign}{exponent.lstrip('+-').lstrip('0')}"
