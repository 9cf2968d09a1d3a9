"""The OLLAMA_* variables as Ollama reads them.

Rules: values are trimmed of spaces and quotes; what cannot be read means the default; a keep-alive
may be a duration or whole seconds, negative means forever.

Source: reference/OLLAMA.md §4; recording 13_env_keep_alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.sim.ollama_fields import FOREVER_NS, parse_duration_ns
from broker.sim.ollama_gojson import GoJsonError

PORT_DEFAULT: Final = 11434
HOST_DEFAULT: Final = "127.0.0.1"
_PORT_OF_SCHEME: Final = {"http": 80, "https": 443}


def trimmed(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, "").strip().strip("\"'").strip()


def unsigned_of(environment: Mapping[str, str], name: str, default: int) -> int:
    """A whole number from 0 up; anything else is the default."""
    text = trimmed(environment, name)
    return int(text) if text.isascii() and text.isdigit() else default


def duration_ns_of(environment: Mapping[str, str], name: str, default_ns: int) -> int:
    """A duration ("5m") or whole seconds ("300"); negative is FOREVER_NS, junk the default."""
    text = trimmed(environment, name)
    if not text:
        return default_ns
    try:
        length_ns = parse_duration_ns(text)
    except GoJsonError:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            return default_ns
        length_ns = int(text) * 1_000_000_000
    return FOREVER_NS if length_ns < 0 else length_ns


def address_of(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of OLLAMA_HOST; an empty host means every interface."""
    text = trimmed(environment, "OLLAMA_HOST")
    if not text:
        return HOST_DEFAULT, PORT_DEFAULT
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "http", text
    port_default = _PORT_OF_SCHEME.get(scheme, PORT_DEFAULT) if mark else PORT_DEFAULT
    rest = rest.partition("/")[0]
    if rest.startswith("["):
        host, _, after = rest[1:].partition("]")
        port_text = after.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port_text = rest.partition(":")
    else:
        host, port_text = rest, ""
    if port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535:
        return host, int(port_text)
    return host, port_default
