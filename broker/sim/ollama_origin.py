"""Who may ask a simulated Ollama: its checks of `Host` and `Origin`.

Rules: a server that listens on loopback answers only to hosts that mean this machine or network;
an `Origin` that is neither local nor the host asked is refused; either way 403 and nothing else.

Source: reference/OLLAMA.md §1.1 (CORS, allowedHostsMiddleware); recordings 12_options_cors and
17_transport.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final

_LOCAL_ORIGIN: Final = re.compile(
    r"(?:https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::[0-9]+)?"
    r"|(?:app|file|tauri|vscode-webview|vscode-file)://.*)"
)
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")
_ALLOWED_HEADERS: Final = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_PREFLIGHT: Final = (
    ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_host_allowed(host: str) -> bool:
    """Whether a `Host` header means this machine or its network."""
    name = _without_port(host).lower()
    if not name or name == "localhost" or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == socket.gethostname().lower()
    return address.is_loopback or address.is_private or address.is_unspecified


def is_origin_allowed(origin: str, host: str) -> bool:
    """Whether an `Origin` header is a local one or the server itself."""
    if _LOCAL_ORIGIN.fullmatch(origin):
        return True
    return origin in (f"http://{host}", f"https://{host}")


def cross_origin_headers(origin: str, *, preflight: bool) -> tuple[tuple[str, str], ...]:
    """What an answer to an allowed origin carries besides its own headers."""
    allowed = (("Access-Control-Allow-Origin", origin),)
    return (*allowed, *_PREFLIGHT) if preflight else (*allowed, ("Vary", "Origin"))
