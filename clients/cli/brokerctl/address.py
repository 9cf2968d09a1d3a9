"""Checks where a broker is said to be, before gRPC looks for a host of that name. Pure."""

from __future__ import annotations

import re
from typing import Final

import click

# Of gRPC's naming (doc/naming.md): these say for themselves how they are written.
SCHEMES: Final = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")
HOST_PORT: Final = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\d{1,5})", re.ASCII)
PORT_MAX: Final = 65_535


def checked_address(address: str) -> str:
    """The address, where it can be one; click's usage error names what is meant."""
    written = HOST_PORT.fullmatch(address)
    if address.startswith(SCHEMES) or (written and 0 < int(written[1]) <= PORT_MAX):
        return address
    raise click.UsageError(
        f"{address!r} is no address; say HOST:PORT, as 127.0.0.1:50434 or [::1]:50434 (from "
        "--address, else BROKER_ADDRESS)"
    )
