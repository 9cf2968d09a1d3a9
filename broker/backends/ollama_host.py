"""Where an Ollama server listens, from the text that people put into OLLAMA_HOST.

Rules: the text is read as Ollama itself reads it (envconfig.Host), so that one setting means the
same address to both programs; what only a listener understands (all interfaces) becomes an address
that a client can reach (envconfig.ConnectableHost). Source: ollama/ollama envconfig/config.go.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

DEFAULT_ADDRESS: Final = "127.0.0.1"
DEFAULT_PORT: Final = 11434
PORT_MAX: Final = 65535

# A scheme that is written out stands for its own port, one that is not for Ollama's.
_PORT_OF_SCHEME: Final = {"http": 80, "https": 443}
_CLOUD: Final = "ollama.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaHost:
    """An address in its parts. `host` is empty where all interfaces are meant; `path` is without
    its slashes and is a prefix of every path that a client asks for."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def client_url(self) -> str:
        """The URL that a client asks, without a slash at its end."""
        host = _connectable(self.host)
        shown = f"[{host}]" if ":" in host else host
        prefix = f"/{self.path}" if self.path else ""
        return f"{self.scheme}://{shown}:{self.port}{prefix}"


def parse_host(text: str) -> OllamaHost:
    """Reads OLLAMA_HOST; empty means the default. A port that is none gives the default port.

    Raises ValueError with a sentence for people where the text names a scheme other than http and
    https or a host that cannot be one: Ollama would go on with it and fail at the first call.
    """
    # Ollama trims twice: envconfig.Var the spaces and the quotes, Host the spaces inside those.
    trimmed = text.strip().strip("\"'").strip()
    scheme, separator, rest = trimmed.partition("://")
    if separator:
        default_port = _PORT_OF_SCHEME.get(scheme)
        if default_port is None:
            raise ValueError(f"the scheme of {trimmed} is neither http nor https")
    elif trimmed == _CLOUD:
        scheme, rest, default_port = "https", trimmed, _PORT_OF_SCHEME["https"]
    else:
        scheme, rest, default_port = "http", trimmed, DEFAULT_PORT
    address, _, path = rest.partition("/")
    host, port = _split(address, default_port)
    if any(character.isspace() or character in "@?#\\%" for character in host + path):
        raise ValueError(f"{trimmed} holds a character that no host or path has")
    return OllamaHost(scheme=scheme, host=host, port=port, path=path.strip("/"))


def _split(address: str, default_port: int) -> tuple[str, int]:
    """Host and port as Go's net.SplitHostPort and, where that fails, Ollama part them."""
    if address.startswith("["):
        host, closed, after = address[1:].partition("]")
        if closed and after.startswith(":") and ":" not in after[1:]:
            return host, _port(after[1:], default_port)
    elif address.count(":") == 1:
        host, _, port = address.partition(":")
        return host, _port(port, default_port)
    bare = address.strip("[]")
    if _ip(bare) is None and ":" in bare:
        raise ValueError(f"{address} is no host and no IPv6 address")
    return bare or DEFAULT_ADDRESS, default_port


def _port(text: str, default_port: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > PORT_MAX:
        return default_port
    return int(text)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:  # a name, which is no mistake
        return None


def _connectable(host: str) -> str:
    if not host:
        return DEFAULT_ADDRESS
    address = _ip(host)
    if address is None or not address.is_unspecified:
        return host
    return DEFAULT_ADDRESS if address.version == 4 else "::1"
