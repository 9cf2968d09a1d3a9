"""How long each phase of a request may take: from the caller, the model and the configuration, and
of these the tightest counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Final

from broker.core.value import value


class Phase(Enum):
    """What took too long. Values are the names of the wire without their unit."""

    QUEUE = "queue"  # from its arrival until a backend has it, each time that it waits
    LOAD = "load"  # the part of a wait during which its model is being loaded
    FIRST_TOKEN = "first_token"  # from the start of an attempt to its first piece
    TOKEN_GAP = "token_gap"  # between two pieces
    TOTAL = "total"  # from its arrival to its end: the deadline


@value(kw_only=True)
class TimeOuts:
    """Nanoseconds for each phase; None: no limit from this side."""

    queue_ns: int | None = None
    load_ns: int | None = None
    first_token_ns: int | None = None
    token_gap_ns: int | None = None
    total_ns: int | None = None


NO_TIME_OUTS: Final = TimeOuts()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOutPolicy:
    """What the operator says, of all requests and of those for one model (by comparison key)."""

    of_all: TimeOuts = NO_TIME_OUTS
    by_model: Mapping[str, TimeOuts] = field(default_factory=dict)


def tightest(*those: TimeOuts) -> TimeOuts:
    """Of each phase the shortest that anybody gave."""
    first, *rest = those
    if all(each is NO_TIME_OUTS for each in rest):
        return first
    shortest: dict[str, int | None] = {}
    for phase in fields(TimeOuts):
        given = [limit for each in those if (limit := getattr(each, phase.name)) is not None]
        shortest[phase.name] = min(given, default=None)
    return TimeOuts(**shortest)
