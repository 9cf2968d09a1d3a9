"""Parts of a body that every dialect says alike: JSON that callers hand in as text, and tools."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.content import Tool
from broker.core.errors import BackendRefused

_raw_decoder: Final = msgspec.json.Decoder(msgspec.Raw)


def checked_json(text: str, what: str) -> msgspec.Raw:
    """The text as it stands, order and all, once it is proved to be exactly one JSON value: so it
    cannot bring fields of its own. Raises BackendRefused, which names `what` it is."""
    try:
        return _raw_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BackendRefused(f"{what} is not JSON: {error}", status=400) from error


def tool_body(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name, "description": tool.description}
    if tool.parameters_json:
        function["parameters"] = checked_json(tool.parameters_json, f"the schema of {tool.name}")
    return {"type": "function", "function": function}
