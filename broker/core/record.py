"""What the engine keeps of a request while it is under way, and of a call to a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.core.agents import Agent
from broker.core.calibration import Word
from broker.core.effects import WaitReason
from broker.core.errors import BrokerError
from broker.core.level import Level
from broker.core.lifecycle import LIFECYCLE, State, Trigger
from broker.core.queueing import LineKey
from broker.core.quota import NOT_COUNTED
from broker.core.requests import AttemptId, RequestKey, RequestSpec
from broker.core.residency import Residency
from broker.core.views import AttemptView

# Attempts of one request that are remembered: as many as the configuration lets it have.
PAST_MAX: Final = 16

STARTS_ALL: Final = 1 << 62  # more attempts than are ever made

_TABLE = LIFECYCLE.table


@dataclass(slots=True)
class Passage:
    """The numbers that the gates judged a request by; None where a gate had nothing to judge.
    Filled in as the request goes from gate to gate."""

    requests_left: float | None = None
    tokens_reserved: int = NOT_COUNTED
    tokens_left: float | None = None
    queued: int = 0
    queued_max: int = 0
    agent_queued: int = 0
    queued_bytes: int = 0
    samples: int = 0
    wait_ns: float | None = None  # until an answer, as measured
    load_ns: float = 0.0  # of that until its model is loaded
    lasting_ns: float | None = None  # of that what it needs itself, from whenever it begins
    remaining_ns: int = 0
    displaced: RequestKey | None = None
    was_in_room: bool = False
    offer: str = ""  # what the level does to it, in words
    is_answered: bool = False  # with the default answer: no gate came after that
    stopped_at: str = ""  # the gate that said no


class Accepted(NamedTuple):
    """A model that may answer a request, and the line to wait in for it."""

    model: str  # comparison key
    line: LineKey


class Bound(NamedTuple):
    """It starts within `ns` of when it came; None: no bound can be stated, and `why`."""

    ns: int | None
    why: str = ""


@dataclass(slots=True, kw_only=True)
class Record:
    """One request. `line` says where it waits or waited; `priority` and `compartment` are those it
    has, which its agent's type may have lowered."""

    spec: RequestSpec
    agent: Agent
    priority: int
    compartment: int
    model: str  # comparison key of the model that will answer
    substituted_for: str
    line: LineKey
    arrived_ns: int
    rank: int  # its place among the requests of its agent
    passage: Passage
    starts_before: int  # attempts that had been made when it began to wait, the last time
    service_ns: int = 0  # how long it probably runs, as it looked when it was weighed; 0: unknown
    known_bytes: int = 0  # of its prompt's beginning, that a server has probably read before
    new_from_bytes: int = -1  # from there on it was the first to have its beginning read; -1: none
    credit_ns: int = 0  # how much older it counts as, for what its session has come to
    answered: tuple[str, ...] = ()  # what it was told with the default answer
    past: tuple[AttemptView, ...] = ()  # attempts that came to nothing, the last ones
    pieces_kept: int = 0  # of attempts before this one, which the next goes on from
    has_streamed: bool = False  # did a piece of an attempt before this one reach the client?
    is_for_level: bool = False  # is another model to answer because only small ones run?
    instead: str = ""  # why another model is to answer, in words, where it is not for the level
    is_in_haste: bool = False  # is that because the line of its own would take too long?
    is_at_hand: bool = False  # is that because it is loaded, and its own is not?
    sent: RequestSpec | None = None  # as it came, where that names no model; `spec` has the chosen
    because: str = ""  # why that one, in words
    accepts: tuple[Accepted, ...] = ()  # where it has a choice: what may answer, its own first
    state: State = State.RECEIVED
    deadline_ns: int = 0
    asked_until_ns: int = 0  # as its newest call gives it; a time-out may be tighter
    soft_met: bool | None = None  # was its soft deadline, where it has one? None: that is open
    deadline_timer: int = 0
    look_ns: int = 0  # from then on it may surely be too late: that is looked at
    room_timer: int = 0
    spared_by: str = ""  # the backend that failed it and was not charged: another takes it up
    away_until_ns: int = 0  # what failed it the last time wants nothing before
    waiting_since_ns: int = 0  # when it came, or came back
    wait_timer: int = 0  # where a time-out bounds its wait
    backoff_timer: int = 0
    owed: tuple[int, int] | None = None  # flow and charge of an attempt, until it is in line again
    attempt: Attempt | None = None
    tries: int = 0
    tries_free: int = 0  # of these, what came to nothing by the broker's own doing
    preemptions: int = 0  # how often it was set aside for urgent work
    entry: int = 0  # its handle in the queue, or in the waiting room
    starts_in_room: int = 0  # attempts that had been made when it left the waiting room
    head_since_ns: int = -1  # its place in its line when it was last taken
    told_position: int = 0
    told_reason: WaitReason | None = None
    told_starts_ns: tuple[int, int] | None = None  # between these moments, as it was last told
    bound: Bound | None = None  # of its wait, as stated when it came; None: it never waited
    first_word: Word | None = None  # when it was told that it would start, in its first word
    is_overdue: bool = False  # has it waited for longer than it was told first?

    @property
    def may_join(self) -> bool:
        """May it go to another line for that it accepts its model? What one model began, and what
        another rule has decided, stays."""
        return not (self.pieces_kept or self.is_for_level or self.is_in_haste)

    @property
    def soft_ns(self) -> int:
        """How long after it came its answer would be liked; 0: at any time."""
        due_ns = self.spec.soft_deadline_ns
        return max(1, due_ns - self.arrived_ns) if due_ns else 0

    def move(self, trigger: Trigger) -> None:
        after = _TABLE.get((self.state, trigger))  # the table itself: five times in each life
        self.state = after if after is not None else LIFECYCLE.step(self.state, trigger)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One call to a backend, which holds a slot until it is proven to have ended.

    `ending` is set once the request was told to end: how it will have ended when the call has.
    `flow` and `charged`: whose virtual counter pays for it, and what was charged so far.
    `given_up`: its call was closed for this; its end is awaited, and counts as a failure by it, but
    where it `is_preempted`.
    """

    id: AttemptId
    record: Record
    backend: str
    residency: Residency
    started_ns: int
    flow: int
    charged: int
    model: str  # comparison key
    number: int = 1  # of the attempts of its request
    continues: bool = False
    level: Level = Level.NORMAL  # when it started
    output_tokens_max: int | None = None  # None: as many as the request asks for
    first_token_ns: int = 0
    first_token_timer: int = 0
    given_up: BrokerError | None = None
    is_owed: bool = False  # was its backend charged when it began, as that had failed it before?
    ended_ns: int = 0
    pieces: int = 0  # known once it has ended
    ending: Trigger | None = None
    grace_timer: int = 0  # set once its call has ended without proof that the work has
    is_preempted: bool = False  # was its call closed for the sake of urgent work?
    waste_ns: int = 0  # of its slot's time, where it was
