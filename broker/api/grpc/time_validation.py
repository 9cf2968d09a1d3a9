"""What callers say of time: how long each phase may take, by when they would like an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker_client.pb.broker.v1 import inference_pb2 as pb

TIMEOUT_MS_MAX: Final = 86_400_000  # a day

# Takes whether all is well, the field, and what is wrong with it else.
Require = Callable[[bool, str, str], None]


def check_times(
    request: pb.GenerateRequest | pb.EmbedRequest, soft_ms_max: int, require: Require
) -> None:
    """The time-outs and the soft deadline of a request."""
    if request.HasField("timeouts"):
        for descriptor, limit_ms in request.timeouts.ListFields():
            rule = f"is {limit_ms}; must be 1 to {TIMEOUT_MS_MAX}"
            require(1 <= limit_ms <= TIMEOUT_MS_MAX, f"timeouts.{descriptor.name}", rule)
    if request.HasField("soft_deadline_ms"):
        soft_ms = request.soft_deadline_ms
        rule = f"is {soft_ms}; must be 1 to {soft_ms_max}"
        require(1 <= soft_ms <= soft_ms_max, "soft_deadline_ms", rule)
