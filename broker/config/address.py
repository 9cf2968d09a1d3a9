"""Addresses as text: is this one that a server can listen on, or that a backend can be asked at?

The text itself is kept as it was written: what OLLAMA_HOST means in detail is the backend's
matter, and here only what no reading of it could mean is refused.
"""

from __future__ import annotations

import ipaddress
from typing import Final

PORT_MAX: Final = 65_535
_NO_HOST_HAS: Final = frozenset("@?#\\%")


def check_listen_address(text: str) -> str:
    """HOST:PORT; an IPv6 host stands in brackets, port 0 takes any free one. Else ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > PORT_MAX:
        raise ValueError(f"must be HOST:PORT with a port from 0 to {PORT_MAX}")
    if host.startswith("[") and host.endswith("]"):
        _check_ipv6(host[1:-1])
    elif not host or ":" in host or _has_stray(host):
        raise ValueError("must be HOST:PORT, an IPv6 host in brackets")
    return text


def check_backend_url(text: str) -> str:
    """As OLLAMA_HOST may be written: [SCHEME://]HOST[:PORT][/PATH]. Else ValueError."""
    trimmed = text.strip().strip("\"'").strip()
    if not trimmed:
        raise ValueError("must not be empty")
    scheme, separator, rest = trimmed.partition("://")
    if not separator:
        rest = trimmed
    elif scheme not in ("http", "https"):
        raise ValueError("must have the scheme http or https, or none")
    authority = rest.partition("/")[0]
    if _has_stray(rest):
        raise ValueError("must not hold a space, a control character or any of @ ? # \\ %")
    if authority.startswith("[") or authority.count(":") > 1:
        host = authority
        if authority.startswith("["):
            host = authority[1:].partition("]")[0]
        _check_ipv6(host)
    return text


def is_loopback(text: str) -> bool:
    """Is a backend at this url (checked before) on this host? Judged by the text alone: a name
    other than localhost may be anything."""
    trimmed = text.strip().strip("\"'").strip()
    authority = trimmed.partition("://")[2] or trimmed
    authority = authority.partition("/")[0]
    if authority.startswith("["):
        host = authority[1:].partition("]")[0]
    elif authority.count(":") > 1:
        host = authority
    else:
        host = authority.partition(":")[0]
    if host.lower() in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _has_stray(text: str) -> bool:
    return any(c.isspace() or not c.isprintable() or c in _NO_HOST_HAS for c in text)


def _check_ipv6(host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{host} is no IPv6 address") from None
