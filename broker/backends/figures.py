"""Figures that servers tell, and how far they are believed: what is beyond is no answer."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Final

import msgspec

from broker.core.errors import BackendFailed

# Far more tokens than any model has in its context; nobody is made to pay for a greater count, nor
# for one below 0.
COUNT_MAX: Final = 100_000_000
Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
# Durations and sizes are of 64 bits, Ollama's and ours on the wire. A duration may be below 0: it
# is between two of Ollama's marks of time, and one that was never set is the year 1.
_INT64_MAX: Final = 2**63 - 1
Nanoseconds = Annotated[int, msgspec.Meta(ge=-_INT64_MAX - 1, le=_INT64_MAX)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]

# What one server lists of its models. A disk holds hundreds; very many would hold up all else while
# they are read.
LISTED_MAX: Final = 10_000
LISTING_BYTES_MAX: Final = 32 * 1024 * 1024


def check_listing(path: str, body: bytes) -> None:
    """Before it is read: BackendFailed where it is larger than any list of models."""
    if len(body) > LISTING_BYTES_MAX:
        raise BackendFailed(f"{path} answered a list of models of over {LISTING_BYTES_MAX} bytes")


def check_listed(path: str, listed: Sized) -> None:
    """BackendFailed where that are more models than any server has."""
    if len(listed) > LISTED_MAX:
        raise BackendFailed(f"{path} lists {len(listed)} models, over {LISTED_MAX}")


def told_count(told: object) -> int:
    """What a model's own file says of itself; 0 where that is no count."""
    if isinstance(told, bool) or not isinstance(told, int):
        return 0
    return told if 0 <= told <= COUNT_MAX else 0
