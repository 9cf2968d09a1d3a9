"""What is remembered for explanations: the last starts, and the last requests that ended."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from broker.core.queueing import LineKey
from broker.core.record import Attempt, Passage, Record
from broker.core.requests import AttemptId, Outcome, RequestKey, RequestSpec

# Starts kept: who waited through more of them hears of the last ones only, and is told so.
STARTS_MAX: Final = 4096

# Ended and refused requests kept; the one that ended first goes first.
ENDED_MAX: Final = 1000


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
    was_boosted: bool


class Ended(NamedTuple):
    """A request that was under way. `starts_before`: attempts that had been made when it ended."""

    record: Record
    attempt: Attempt | None
    outcome: Outcome
    problem: str
    at_ns: int
    starts_before: int


class Refused(NamedTuple):
    """A request that was never let in."""

    spec: RequestSpec
    passage: Passage
    problem: str
    at_ns: int


class Journal:
    """Bounded in both; written by the engine, read by `story.py`."""

    __slots__ = ("ended", "starts")

    def __init__(self) -> None:
        self.starts: deque[Start] = deque(maxlen=STARTS_MAX)
        self.ended: OrderedDict[RequestKey, Ended | Refused] = OrderedDict()

    def start(self, attempt: Attempt, closed: int) -> None:
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
                record.agent.is_boosted,
            )
        )

    def end(self, key: RequestKey, how: Ended | Refused) -> None:
        """The last request under a key is the one that is remembered."""
        ended = self.ended
        if key in ended:
            ended.move_to_end(key)
        elif len(ended) >= ENDED_MAX:
            ended.popitem(last=False)
        ended[key] = how
