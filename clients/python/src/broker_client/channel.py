"""How this client reaches a broker: address, channel options, metadata.

Sources: grpc core's channel arguments (include/grpc/impl/channel_arg_names.h); DESIGN.md section 5
for the address and its environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from broker_client.version import __version__

ADDRESS_DEFAULT: Final = "127.0.0.1:50434"
ADDRESS_VARIABLE: Final = "BROKER_ADDRESS"

METADATA: Final[tuple[tuple[str, str], ...]] = (("broker-client", f"python/{__version__}"),)

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # What is too large is the broker's to say, with a field and a limit; so no limit on sending.
    ("grpc.max_send_message_length", -1),
    # 256 inputs of 65,536 floats, the largest answer there is, are 64 MiB of numbers.
    ("grpc.max_receive_message_length", 128 * 1024 * 1024),
    # A dead path is noticed within 75 s although a request may wait much longer in silence. Pings
    # more often than once a minute would be struck down by servers with stricter limits.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own backoff starts at 1 s, longer than the reconnects of our retry policy.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This one bounds how long making a connection may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A broker is a neighbour; gRPC would send even loopback calls through http_proxy.
    ("grpc.enable_http_proxy", 0),
)


def broker_address(given: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The address to call: the one given, else BROKER_ADDRESS, else this machine's default."""
    environ = os.environ if environ is None else environ
    return given or environ.get(ADDRESS_VARIABLE, "") or ADDRESS_DEFAULT
