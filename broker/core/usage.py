"""Who used which models, when, and what it cost: the words, and the port of what keeps them.

Counted by the hour, by the clock on the wall. Models go by their comparison key, so that two
spellings of a name are one; what asks for no model that exists is counted as `UNKNOWN`, as an agent
of no type is. Beyond their bounds agents are summed as `OTHERS`. Loads are the broker's own doing
and belong to no agent: to "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Protocol

from broker.core.requests import Outcome

HOUR_MS: Final = 3_600_000
HOUR_NS: Final = HOUR_MS * 1_000_000
DAY_H: Final = 24

UNKNOWN: Final = "(unknown)"
OTHERS: Final = "(others)"
NO_AGENT: Final = ""

OUTCOMES: Final = tuple(Outcome)
OUTCOME_INDEX: Final = {each: index for index, each in enumerate(OUTCOMES)}


class UsageKey(NamedTuple):
    """What one row counts. `hour` is in hours since 1970, `hours` how many it stands for: 1, or 24
    where those of a day were summed up."""

    hour: int
    model: str
    agent_id: str
    hours: int = 1


@dataclass(slots=True)
class Counts:
    """What is counted. `outcomes` in the order of `OUTCOMES`; `last_unix_ms` is when a request
    ended last, 0 where none did."""

    outcomes: list[int] = field(default_factory=lambda: [0] * len(OUTCOMES))
    prompt_tokens: int = 0
    output_tokens: int = 0
    loads: int = 0
    busy_ns: int = 0
    gpu_ns: int = 0
    wait_ns: int = 0
    wait_ns_max: int = 0
    last_unix_ms: int = 0

    @property
    def requests(self) -> int:
        """All that ended, however they did."""
        return sum(self.outcomes)

    @property
    def completed(self) -> int:
        return self.outcomes[OUTCOME_INDEX[Outcome.COMPLETED]]

    def add(self, other: Counts) -> None:
        """Both as one."""
        for index, count in enumerate(other.outcomes):
            self.outcomes[index] += count
        self.prompt_tokens += other.prompt_tokens
        self.output_tokens += other.output_tokens
        self.loads += other.loads
        self.busy_ns += other.busy_ns
        self.gpu_ns += other.gpu_ns
        self.wait_ns += other.wait_ns
        self.wait_ns_max = max(self.wait_ns_max, other.wait_ns_max)
        self.last_unix_ms = max(self.last_unix_ms, other.last_unix_ms)


class UsageRow(NamedTuple):
    """Counts with what they count. In an answer that is not by model, agent or hour, that part of
    the key is empty or 0."""

    key: UsageKey
    counts: Counts


@dataclass(slots=True)
class ModelUse:
    """How much a model was used, as far as use is kept. `last_unix_ms` 0: no request is known."""

    requests: int = 0
    output_tokens: int = 0
    loads: int = 0
    last_unix_ms: int = 0


class UsageGroup(Enum):
    """By what use is summed up."""

    MODEL = "model"
    AGENT = "agent"
    HOUR = "hour"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which use. Rows of hours that overlap the time are in it as a whole. `until_hour` is the
    first that is not. `model` is a comparison key; "" means all, for agents too."""

    since_hour: int = 0
    until_hour: int
    group: UsageGroup = UsageGroup.MODEL
    model: str = ""
    agent_id: str = ""
    rows_max: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAnswer:
    """Those with most requests first, hours in their order. `kept_since_hour` 0: nothing is kept;
    `left_out`: rows that there was no room for."""

    rows: tuple[UsageRow, ...] = ()
    kept_since_hour: int = 0
    left_out: int = 0


class ModelHour(NamedTuple):
    """Requests for a model in one hour. Days that were summed up are not among them."""

    hour: int
    model: str
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTidied:
    """What a look at the bounds came to. `rows` are left."""

    rows: int
    totals: dict[str, ModelUse]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageHealth:
    """How it is with what is kept: `rows`. `waiting` are not kept yet; `failures`: how often
    keeping them has failed since start."""

    rows: int
    waiting: int
    failures: int


class UsageNotKept(Exception):
    """What keeps use cannot do so now. The message says why, for people."""


class UsageStore(Protocol):
    """Keeps rows over restarts. Each method may raise UsageNotKept; then it changed nothing."""

    async def add(self, rows: Sequence[UsageRow]) -> int:
        """Adds these counts to what is kept of the same keys: all of them, or none. How many rows
        are kept then; more than may be, until it is tidied."""
        ...

    async def tidy(self, now_hour: int) -> UsageTidied:
        """Keeps to the bounds, and says what is left."""
        ...

    async def ask(self, query: UsageQuery, more: Sequence[UsageRow] = ()) -> UsageAnswer:
        """Sums up what is kept, and these rows with it, which are not."""
        ...

    async def history(self, since_hour: int) -> tuple[ModelHour, ...]:
        """What was asked for in each hour from then on, the oldest first."""
        ...

    async def close(self) -> None:
        """No call may follow."""
        ...
