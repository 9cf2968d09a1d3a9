"""What is wrong with one setting, in words: its path as TOML writes it, and the limit it breaks.

The words are ours, not the validating library's, so that they stay the same when it changes. A kind
of fault without words here is reported in the library's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from broker.config.schema import Config, key

# A path into the configuration: section names and keys, and indexes of arrays.
KeyPath = tuple[str | int, ...]

SHOWN_LENGTH_MAX: Final = 60

# The library's name of a fault -> our words; {limit} and the like come from the fault itself.
_WORDS: Final[Mapping[str, str]] = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be one of {expected}",
    "tuple_type": "must be an array",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "missing": "is missing",
    "value_error": "{error}",
}
# Faults of which the value says nothing, because it is absent or too large to show.
_WITHOUT_VALUE: Final = frozenset({"missing", "too_short", "too_long", "model_type", "dict_type"})


def show_path(path: KeyPath) -> str:
    """`backends[0].url`, `models."llama3:8b".num_ctx`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{key(part)}" if text else key(part)
    return text


def explain(fault: ErrorDetails, path: KeyPath) -> str:
    """The sentence for one fault of the setting at `path`."""
    kind = fault["type"]
    if kind == "extra_forbidden":
        return _unknown(path)
    words = _WORDS.get(kind)
    text = fault["msg"] if words is None else words.format_map(fault.get("ctx", {}))
    if kind in _WITHOUT_VALUE:
        return text
    return f"is {show_value(fault['input'])}; {text}"


def _unknown(path: KeyPath) -> str:
    names = _names_at(path[:-1])
    close = difflib.get_close_matches(str(path[-1]), names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
    return f"is no setting; {hint}"


def _names_at(path: KeyPath) -> list[str]:
    """The settings of the section at `path`."""
    section: type[BaseModel] = Config
    for part in path:
        # Indexes of arrays and names of models choose among sections of one kind.
        field = section.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            section = _section_in(field.annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The kind of section in `X`, `tuple[X, ...]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)


def show_value(value: object) -> str:
    """A value as TOML writes it, cut where it is long."""
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    if text is None:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}..."
