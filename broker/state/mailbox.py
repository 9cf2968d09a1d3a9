"""What has gathered for one subscriber: bounded, whatever it does. Pure.

Events are kept up to a number and a size; beyond, the oldest goes and is counted. Of a state the
last event takes the place of the one before, which is not counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from broker.core.events import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Batch, Event


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxLimits:
    """Events and bytes of what agents published. `states_max` is more than operators can have in
    force at once (1,000 scopes), so that it is met only by who reads nothing for very long."""

    events_max: int = 256
    bytes_max: int = 1024 * 1024
    states_max: int = 2_048


class Mailbox:
    """See the module. `present` is what the first batch begins with."""

    __slots__ = ("_events", "_limits", "_missed", "_present", "_size_bytes", "_states")

    def __init__(self, limits: MailboxLimits, present: Iterable[Event] = ()) -> None:
        self._limits = limits
        self._present = deque(present)
        self._events: deque[Event] = deque()
        self._size_bytes = 0
        self._states: dict[Hashable, Event] = {}  # in the order of their numbers
        self._missed = 0

    @property
    def is_empty(self) -> bool:
        return not (self._events or self._states or self._present or self._missed)

    def put(self, event: Event) -> int:
        """An event that may not be replaced. How many are missed for it."""
        events, limits = self._events, self._limits
        events.append(event)
        self._size_bytes += event.size_bytes
        missed = 0
        while len(events) > limits.events_max or self._size_bytes > limits.bytes_max:
            self._size_bytes -= events.popleft().size_bytes
            missed += 1
        self._missed += missed
        return missed

    def put_state(self, which: Hashable, event: Event) -> int:
        """The state of something, instead of the one that waits. How many are missed for it."""
        states = self._states
        states.pop(which, None)
        states[which] = event
        if len(states) > self._limits.states_max:
            del states[next(iter(states))]
            self._missed += 1
            return 1
        return 0

    def take(self) -> Batch:
        """The oldest, up to the bounds of a batch."""
        present, events, states = self._present, self._events, self._states
        taken: list[Event] = []
        while present and len(taken) < BATCH_EVENTS_MAX:
            taken.append(present.popleft())
        size_bytes = 0
        while (events or states) and len(taken) < BATCH_EVENTS_MAX:
            which = next(iter(states)) if states else None
            if states and not (events and events[0].seq < states[which].seq):
                taken.append(states.pop(which))
                continue
            if size_bytes and size_bytes + events[0].size_bytes > BATCH_BYTES_MAX:
                break
            event = events.popleft()
            size_bytes += event.size_bytes
            taken.append(event)
        self._size_bytes -= size_bytes
        missed, self._missed = self._missed, 0
        return Batch(events=tuple(taken), missed=missed)
