"""Events, and the port of the bus that carries them to subscribers.

What is promised: events of all topics have one row of numbers over the life of the bus. A
subscriber gets each event that fits its patterns once, in the order of their numbers, or is told
how many it missed. Of a topic that has a state a slow subscriber gets the last event alone, which
is not counted as missed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from broker.core.effects import TellPriority
from broker.core.level import Level
from broker.core.snapshot import ResidencyView
from broker.core.value import value
from broker.core.views import AlertView, LevelView

# At most so many events, and so many bytes of what agents published, are handed over at once.
BATCH_EVENTS_MAX = 256
BATCH_BYTES_MAX = 1024 * 1024


@value(kw_only=True)
class Payload:
    """What an agent published. The broker does not look at it."""

    data: bytes
    content_type: str


@value(kw_only=True)
class LevelState:
    """The level at a moment of the engine's clock, which the durations in it are counted to."""

    at_ns: int
    view: LevelView


@value(kw_only=True)
class CapacityState:
    """How much there is to have. `slots` are those of resident models on backends that answer."""

    level: Level
    queued: int
    queued_max: int
    running: int
    slots: int
    backends_up: tuple[str, ...]
    backends_down: tuple[str, ...]


@value(kw_only=True)
class ModelsState:
    """The models that occupy backends, each with its backend's name. `changed_unix_ms`: when what
    is known of all models last changed."""

    models: tuple[tuple[str, ResidencyView], ...]
    changed_unix_ms: int = 0


@value(kw_only=True)
class AlertsState:
    """The alerts that fire at a moment of the engine's clock."""

    at_ns: int
    firing: tuple[AlertView, ...]


@value(kw_only=True)
class RequestChange:
    """A step in the life of a request: "started", or the word of its outcome. It holds nothing of
    what was asked. `first_token_ns` and `total_ns` are from its arrival, 0 where they never came.
    """

    agent_id: str
    request_id: str
    state: str
    model: str
    backend: str
    priority: int
    reason: str
    level: Level
    queue_wait_ns: int
    first_token_ns: int = 0
    total_ns: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@value(kw_only=True)
class HealthChange:
    """Something ails a backend, or a model on one (else ""), or is cured. `step`: as in
    `HealingStep`, or "down" and "up". `restarts`: by the operator's command, since start."""

    backend: str
    model: str
    step: str
    detail: str
    restarts: int


What = (
    Payload
    | LevelState
    | CapacityState
    | TellPriority
    | ModelsState
    | RequestChange
    | AlertsState
    | HealthChange
)


@dataclass(slots=True, kw_only=True, eq=False)
class Event:
    """Something that happened, as subscribers get it; one object for all of them.

    `is_state`: it is the present state, told to a new subscriber; then `at_unix_ns` is when it was
    looked at, and `seq` that of the last change, 0 where there was none. `frame` is for whoever
    encodes it, to do so once.
    """

    seq: int
    topic: str
    at_unix_ns: int
    publisher: str  # "" where the broker itself is
    what: What
    is_state: bool = False
    size_bytes: int = 0  # of what an agent published
    frame: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a subscriber takes at once. `missed`: so many were dropped since the batch before."""

    events: tuple[Event, ...]
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Its number, and how many subscribers it concerned at that moment."""

    seq: int
    subscribers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusCounts:
    """What a bus has carried since it began. `published` has the broker's own topics by their
    names, and all others together under "". `missed` are events that a subscriber who read too
    slowly lost, counted for each of them."""

    subscribers: int
    subscribers_max: int
    published: Mapping[str, int]
    missed: int


class Subscription(Protocol):
    """One subscriber's end. Whoever has it must `close` it."""

    def take(self) -> Batch:
        """What has gathered, up to the bounds of a batch. The first one holds the present state of
        topics that have one; of what does not fit into it the next ones begin."""
        ...

    async def wait(self) -> None:
        """Returns when there is something to take and it is this subscriber's turn. Raises Draining
        when the broker leaves. For one caller at a time."""
        ...

    def close(self) -> None:
        """Nothing gathers any more. Again: nothing."""
        ...


class Bus(Protocol):
    """Carries events. A state is that of a topic, or, with a `key`, of one thing of many that the
    topic speaks of."""

    def publish(
        self, topic: str, what: What, *, publisher: str = "", key: Hashable = None
    ) -> Published:
        """Tells the subscribers of a topic. Where it has a state this is the state from now on."""
        ...

    def keep(self, topic: str, what: What, *, key: Hashable = None) -> None:
        """What new subscribers are told of a topic from now on; those there are hear nothing."""
        ...

    def forget(self, topic: str, *, key: Hashable = None) -> None:
        """New subscribers are told no such state any more."""
        ...

    def subscribe(self, patterns: tuple[str, ...]) -> Subscription:
        """From now on. SubscribersFull where there are as many as may be; Draining after `close`.
        Of the patterns nothing is checked here."""
        ...

    def is_heard(self, topic: str) -> bool:
        """Does anybody listen to this topic of the broker's own? Cheap."""
        ...

    def counts(self) -> BusCounts:
        """For who watches the bus. Cheap."""
        ...

    def close(self) -> None:
        """The broker leaves: every subscriber hears so, and nobody comes in."""
        ...
