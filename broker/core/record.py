"""What the engine keeps of a request while it is under way, and of a call to a backend."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.effects import WaitReason
from broker.core.lifecycle import LIFECYCLE, State, Trigger
from broker.core.placement import LineKey
from broker.core.requests import AttemptId, RequestSpec
from broker.core.residency import Residency


@dataclass(slots=True, kw_only=True)
class Record:
    """One request. `line` says where it waits or waited."""

    spec: RequestSpec
    model: str  # comparison key of the model that will answer
    substituted_for: str
    line: LineKey
    arrived_ns: int
    state: State = State.RECEIVED
    deadline_timer: int = 0
    attempt: Attempt | None = None
    tries: int = 0
    head_since_ns: int = 0  # its place in its line when it was last taken
    told_position: int = 0
    told_reason: WaitReason | None = None

    def move(self, trigger: Trigger) -> None:
        self.state = LIFECYCLE.step(self.state, trigger)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One call to a backend, which holds a slot until it is proven to have ended.

    `ending` is set once the request was told to end: how it will have ended when the call has.
    """

    id: AttemptId
    record: Record
    backend: str
    residency: Residency
    started_ns: int
    first_token_ns: int = 0
    ending: Trigger | None = None
    grace_timer: int = 0  # set once its call has ended without proof that the work has
