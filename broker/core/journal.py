"""What is remembered for explanations: the last starts, and the last requests that ended."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple, TypeVar

from broker.core.queueing import LineKey
from broker.core.record import Attempt, Passage, Record
from broker.core.requests import AttemptId, Outcome, RequestKey, RequestSpec

T = TypeVar("T")

# Starts kept: who waited through more of them hears of the last ones only, and is told so.
STARTS_MAX: Final = 4096

# Ended requests kept, and refused ones apart: a flood that is refused pushes nothing else out.
ENDED_MAX: Final = 1000
REFUSED_MAX: Final = 1000


class Start(NamedTuple):
    """A request got a slot, and this is how things stood."""

    attempt: AttemptId
    at_ns: int
    key: RequestKey
    arrived_ns: int
    line: LineKey
    priority: int
    compartment: int
    closed: int  # mask of the compartments that were full
    held: int  # mask of what the level let go after the others
    was_boosted: bool
    is_small_first: bool  # the level let small models go first, and its own is one
    service_ns: int  # how long it was thought to run
    credit_ns: int  # how much older it counted as, for its session


class Ended(NamedTuple):
    """A request that was under way. `starts_before`: attempts that had been made when it ended."""

    record: Record
    attempt: Attempt | None
    outcome: Outcome
    problem: str
    at_ns: int
    starts_before: int
    reason: str  # as the client was told; "" where it completed


class Refused(NamedTuple):
    """A request that was never let in."""

    spec: RequestSpec
    passage: Passage
    problem: str
    at_ns: int


class Journal:
    """Bounded in both; written by the engine, read by `story.py`."""

    __slots__ = ("ended", "refused", "starts")

    def __init__(self) -> None:
        self.starts: deque[Start] = deque(maxlen=STARTS_MAX)
        self.ended: OrderedDict[RequestKey, Ended] = OrderedDict()
        self.refused: OrderedDict[RequestKey, Refused] = OrderedDict()

    def start(self, attempt: Attempt, closed: int, held: int, *, is_small_first: bool) -> None:
        record = attempt.record
        self.starts.append(
            Start(
                attempt.id,
                attempt.started_ns,
                record.spec.key,
                record.arrived_ns,
                record.line,
                record.priority,
                record.compartment,
                closed,
                held,
                record.agent.weight > record.agent.type.weight,
                is_small_first,
                record.service_ns,
                record.credit_ns,
            )
        )

    def end(self, key: RequestKey, how: Ended) -> None:
        """The last request under a key is the one that is remembered."""
        _remember(self.ended, key, how, ENDED_MAX)

    def refuse(self, key: RequestKey, how: Refused) -> None:
        _remember(self.refused, key, how, REFUSED_MAX)


def _remember(ends: OrderedDict[RequestKey, T], key: RequestKey, how: T, size_max: int) -> None:
    if key in ends:
        ends.move_to_end(key)
    elif len(ends) >= size_max:
        ends.popitem(last=False)
    ends[key] = how
