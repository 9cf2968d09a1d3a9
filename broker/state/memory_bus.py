"""The bus of one broker alone: what nobody took is gone when the broker is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

from broker.core.errors import Draining, SubscribersFull
from broker.core.events import Batch, BusCounts, Event, Payload, Published, What
from broker.core.topics import (
    ALERTS,
    LEVEL,
    PRIORITY,
    SYSTEM,
    WITH_STATE,
    PatternTree,
    fits,
    names_of,
)
from broker.state.fanout import Fanout, FanoutPolicy
from broker.state.mailbox import Mailbox, MailboxLimits

# Of these a subscriber hears before the tokens of others go on.
AT_ONCE: Final = frozenset({LEVEL, PRIORITY, ALERTS})
# A topic, and of several things that it speaks of, which.
_Which = tuple[str, Hashable]


class MemoryBus:
    """See `broker.core.events.Bus`. To be made and used within one event loop."""

    def __init__(
        self,
        unix_ns: Callable[[], int],
        *,
        subscribers_max: int = 2_000,
        limits: MailboxLimits | None = None,
        fanout: FanoutPolicy | None = None,
    ) -> None:
        self._unix_ns = unix_ns
        self._subscribers_max = subscribers_max
        self._limits = limits or MailboxLimits()
        self._fanout = Fanout(fanout or FanoutPolicy(), asyncio.get_running_loop())
        self._listeners: PatternTree[MemorySubscription] = PatternTree()
        self._subscriptions: dict[MemorySubscription, None] = {}
        self._states: dict[_Which, Event] = {}
        self._heard = dict.fromkeys(SYSTEM, 0)  # how many listen
        self._seq = 0
        self._published = dict.fromkeys((*SYSTEM, ""), 0)
        self._missed = 0
        self._is_closed = False

    def publish(
        self, topic: str, what: What, *, publisher: str = "", key: Hashable = None
    ) -> Published:
        """See the port."""
        self._seq += 1
        self._published[topic if topic in self._published else ""] += 1
        event = Event(
            seq=self._seq,
            topic=topic,
            at_unix_ns=self._unix_ns(),
            publisher=publisher,
            what=what,
            size_bytes=len(what.data) + len(what.content_type) if type(what) is Payload else 0,
        )
        listeners = self._listeners.find(names_of(topic))
        which = (topic, key) if topic in WITH_STATE else None
        if which is not None:
            self._set_state(which, event)
        at_once, fanout = topic in AT_ONCE, self._fanout
        for each in listeners:
            if which is None:
                self._missed += each.mailbox.put(event)
            else:
                self._missed += each.mailbox.put_state(which, event)
            if at_once:
                each.is_urgent = True
            if each.is_waiting:
                fanout.due(each, at_once=at_once)
        return Published(seq=event.seq, subscribers=len(listeners))

    def keep(self, topic: str, what: What, *, key: Hashable = None) -> None:
        """See the port."""
        before = self._states.get((topic, key))
        state = Event(
            seq=before.seq if before is not None else 0,
            topic=topic,
            at_unix_ns=self._unix_ns(),
            publisher="",
            what=what,
            is_state=True,
        )
        self._set_state((topic, key), state)

    def _set_state(self, which: _Which, event: Event) -> None:
        """Remembers as many as a mailbox holds; of more, those that changed last."""
        states = self._states
        states.pop(which, None)
        states[which] = event
        if len(states) > self._limits.states_max:
            del states[next(iter(states))]

    def forget(self, topic: str, *, key: Hashable = None) -> None:
        """See the port."""
        self._states.pop((topic, key), None)

    def subscribe(self, patterns: tuple[str, ...]) -> MemorySubscription:
        """See the port."""
        if self._is_closed:
            raise Draining("the broker is leaving")
        if len(self._subscriptions) >= self._subscribers_max:
            raise SubscribersFull(f"{self._subscribers_max} subscribers listen already")
        subscription = MemorySubscription(self, self._fanout, tuple(dict.fromkeys(patterns)))
        subscription.mailbox = Mailbox(self._limits, self._present(subscription.hears))
        for pattern in subscription.patterns:
            self._listeners.add(subscription, pattern)
        for topic in subscription.hears:
            self._heard[topic] += 1
        self._subscriptions[subscription] = None
        return subscription

    def leave(self, subscription: MemorySubscription) -> None:
        """It listens no more."""
        if subscription in self._subscriptions:
            del self._subscriptions[subscription]
            for pattern in subscription.patterns:
                self._listeners.remove(subscription, pattern)
            for topic in subscription.hears:
                self._heard[topic] -= 1

    def _present(self, topics: tuple[str, ...]) -> list[Event]:
        """The states of these: those of whole topics first, as they are few."""
        chosen = [each for each in self._states if each[0] in topics]
        chosen.sort(key=lambda which: which[1] is not None)
        return [self._as_state(each) for each in chosen]

    def _as_state(self, which: _Which) -> Event:
        """One object for all who are told it, so that it is encoded once."""
        event = self._states[which]
        if not event.is_state:
            event = self._states[which] = Event(
                seq=event.seq,
                topic=event.topic,
                at_unix_ns=event.at_unix_ns,
                publisher="",
                what=event.what,
                is_state=True,
            )
        return event

    def is_heard(self, topic: str) -> bool:
        """See the port."""
        return self._heard[topic] > 0

    def counts(self) -> BusCounts:
        """See the port."""
        return BusCounts(
            subscribers=len(self._subscriptions),
            subscribers_max=self._subscribers_max,
            published=dict(self._published),
            missed=self._missed,
        )

    def close(self) -> None:
        """See the port."""
        self._is_closed = True
        for each in self._subscriptions:
            each.end()


class MemorySubscription:
    """See `broker.core.events.Subscription`."""

    __slots__ = (
        "_bus",
        "_fanout",
        "_is_ended",
        "_waiter",
        "hears",
        "is_urgent",
        "mailbox",
        "patterns",
    )

    def __init__(self, bus: MemoryBus, fanout: Fanout, patterns: tuple[str, ...]) -> None:
        self._bus = bus
        self._fanout = fanout
        self.patterns = patterns
        # Of the broker's own topics.
        self.hears = tuple(
            topic
            for topic in SYSTEM
            if any(fits(pattern, name) for name in names_of(topic) for pattern in patterns)
        )
        self.is_urgent = False  # there is something that cannot wait
        self.mailbox = Mailbox(MailboxLimits())
        self._waiter: asyncio.Future[None] | None = None
        self._is_ended = False

    @property
    def is_waiting(self) -> bool:
        return self._waiter is not None

    def take(self) -> Batch:
        """See the port."""
        self.is_urgent = False
        return self.mailbox.take()

    async def wait(self) -> None:
        """See the port."""
        if self._is_ended:
            raise Draining("the broker is leaving")
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        if not self.mailbox.is_empty:
            self._fanout.due(self, at_once=self.is_urgent)
        try:
            await waiter
        finally:
            self._waiter = None
            self._fanout.forget(self)

    def wake(self) -> None:
        """It is its turn."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """The broker leaves: who waits hears so now, who does not when it waits next."""
        self._is_ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Draining("the broker is leaving"))

    def close(self) -> None:
        """See the port."""
        self._bus.leave(self)
