"""The trace that a request is part of, by W3C Trace Context: `traceparent` in the metadata.

What is malformed is ignored, as the standard asks: a request is not refused for its trace.
"""

from __future__ import annotations

import re
from typing import Any, Final

import grpc

KEY: Final = "traceparent"

# version-trace-parent-flags. Neither the trace nor the parent may be all zeros, the version not ff;
# a later version may have more behind.
_SHAPE = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]*)?"
)
_LENGTH_MAX: Final = 128
_LENGTH: Final = 55  # of version 00, which has nothing behind


def traceparent_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """As the caller sent it; "" where it sent none, or none that can be used."""
    for key, value in context.invocation_metadata() or ():
        if key == KEY:
            return value if isinstance(value, str) and is_traceparent(value) else ""
    return ""


def is_traceparent(text: str) -> bool:
    """Is it one that can be used?"""
    if len(text) > _LENGTH_MAX or _SHAPE.fullmatch(text) is None:
        return False
    return not text.startswith("00-") or len(text) == _LENGTH
