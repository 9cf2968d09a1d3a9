"""The port of the bus: what every bus promises, played on each that there is.

A model of a few lines says what each subscriber must be handed, whatever is published, kept, taken
and left in whatever order: which events, in which order, under which numbers, and how many missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.effects import TellPriority
from broker.core.errors import Draining, SubscribersFull
from broker.core.events import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    AlertsState,
    Bus,
    Event,
    Payload,
    RequestChange,
    Subscription,
    What,
)
from broker.core.level import Level
from broker.core.stimuli import Scope
from broker.core.topics import SYSTEM, WITH_STATE, fits, names_of
from broker.state.mailbox import MailboxLimits
from broker.state.memory_bus import MemoryBus

PATIENCE_S = 30.0
SUBSCRIBERS_MAX = 3
EVENTS_MAX, BYTES_MAX, STATES_MAX = 3, 20, 3
BUSES: dict[str, Callable[[MailboxLimits], Bus]] = {
    "memory": lambda limits: MemoryBus(
        lambda: 1_700_000_000_000_000_000, subscribers_max=SUBSCRIBERS_MAX, limits=limits
    ),
}
SMALL = MailboxLimits(events_max=EVENTS_MAX, bytes_max=BYTES_MAX, states_max=STATES_MAX)
LARGE = MailboxLimits(events_max=10_000, bytes_max=1 << 30, states_max=10_000)

REQUEST = RequestChange(
    agent_id="a",
    request_id="r",
    state="started",
    model="m",
    backend="b",
    priority=5,
    reason="",
    level=Level.NORMAL,
    queue_wait_ns=0,
)


def payload(size_bytes: int = 1) -> Payload:
    return Payload(data=b"x" * size_bytes, content_type="")


def alerts(at_ns: int) -> AlertsState:
    return AlertsState(at_ns=at_ns, firing=())


def priority(agent_id: str) -> TellPriority:
    return TellPriority(
        scope=Scope(agent_id=agent_id),
        weight_factor=2.0,
        rate_factor=1.0,
        priority_best=0,
        is_blocked=False,
        is_paused=False,
    )


# What can happen, as (name, arguments)

TOPICS = ("free:a", "free:b", "other", "requests", "alerts", "level", "priority")
PATTERNS = ("**", "*", "free:*", "free:a", "alerts", "level", "priority", "requests", "agent:**")
KEYS = ("", "k1", "k2", "k3", "k4")  # of "priority" alone
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.sampled_from(KEYS[1:])),
        st.tuples(st.just("large"), st.sampled_from(TOPICS[:3]), st.integers(0, BYTES_MAX + 5)),
        st.tuples(st.just("keep"), st.sampled_from(("alerts", "level")), st.just("")),
        st.tuples(st.just("forget"), st.just("priority"), st.sampled_from(KEYS[1:])),
        st.tuples(
            st.just("subscribe"),
            st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(tuple),
            st.just(""),
        ),
        st.tuples(st.just("take"), st.integers(0, SUBSCRIBERS_MAX - 1), st.just("")),
        st.tuples(st.just("close"), st.integers(0, SUBSCRIBERS_MAX - 1), st.just("")),
    ),
    max_size=60,
)
Told = tuple[int, str, bool, What]  # number, topic, is it a state, what


def told(event: Event) -> Told:
    return event.seq, event.topic, event.is_state, event.what


@dataclass
class Listener:
    """What the model knows of a subscriber."""

    patterns: tuple[str, ...]
    end: Subscription
    present: list[Told]
    waiting: list[tuple[Hashable, int, Told]] = field(default_factory=list)  # which, size, told
    missed: int = 0

    def hears(self, topic: str) -> bool:
        return any(fits(each, name) for each in self.patterns for name in names_of(topic))

    def put(self, which: Hashable, size_bytes: int, one: Told) -> None:
        if which is not None:
            self.waiting = [each for each in self.waiting if each[0] != which]
        self.waiting.append((which, size_bytes, one))
        for is_state, too_much in ((True, self._states_over), (False, self._events_over)):
            while too_much():
                oldest = next(e for e in self.waiting if (e[0] is not None) is is_state)
                self.waiting.remove(oldest)
                self.missed += 1

    def _states_over(self) -> bool:
        return sum(each[0] is not None for each in self.waiting) > STATES_MAX

    def _events_over(self) -> bool:
        events = [each for each in self.waiting if each[0] is None]
        return len(events) > EVENTS_MAX or sum(each[1] for each in events) > BYTES_MAX

    def check_take(self) -> None:
        batch = self.end.take()
        assert batch.missed == self.missed
        assert [told(each) for each in batch.events] == [
            *self.present,
            *(each[2] for each in self.waiting),
        ]
        self.present, self.waiting, self.missed = [], [], 0


class Play:
    """Does everything twice: on a bus and on the model."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.seq = 0
        self.listeners: list[Listener] = []
        self.states: dict[tuple[str, Hashable], Told] = {}

    def publish(self, topic: str, key: str) -> None:
        what: What = payload()
        if topic == "priority":
            self.tell(topic, priority(key), key=key)
            return
        if topic == "requests":
            what = REQUEST
        elif topic in WITH_STATE:
            what = alerts(self.seq)
        self.tell(topic, what)

    def large(self, topic: str, size_bytes: int) -> None:
        self.tell(topic, payload(size_bytes))

    def tell(self, topic: str, what: What, key: Hashable = None) -> None:
        self.seq += 1
        which = (topic, key) if topic in WITH_STATE else None
        size_bytes = len(what.data) if isinstance(what, Payload) else 0
        hearing = [each for each in self.listeners if each.hears(topic)]
        for each in hearing:
            each.put(which, size_bytes, (self.seq, topic, False, what))
        if which is not None:
            self._remember(which, (self.seq, topic, True, what))
        published = self.bus.publish(topic, what, key=key)
        assert (published.seq, published.subscribers) == (self.seq, len(hearing))

    def _remember(self, which: tuple[str, Hashable], one: Told) -> None:
        self.states.pop(which, None)
        self.states[which] = one
        if len(self.states) > STATES_MAX:
            del self.states[next(iter(self.states))]

    def keep(self, topic: str, _: str) -> None:
        what = alerts(-self.seq)
        before = self.states.get((topic, None))
        self._remember((topic, None), (before[0] if before else 0, topic, True, what))
        self.bus.keep(topic, what)

    def forget(self, topic: str, key: str) -> None:
        self.states.pop((topic, key), None)
        self.bus.forget(topic, key=key)

    def subscribe(self, patterns: tuple[str, ...], _: str) -> None:
        if len(self.listeners) == SUBSCRIBERS_MAX:
            with pytest.raises(SubscribersFull):
                self.bus.subscribe(patterns)
            return
        one = Listener(patterns, self.bus.subscribe(patterns), [])
        chosen = [each for each in self.states if one.hears(each[0])]
        whole_first = sorted(chosen, key=lambda which: which[1] is not None)
        one.present = [self.states[each] for each in whole_first]
        self.listeners.append(one)

    def take(self, number: int, _: str) -> None:
        for each in self.listeners[number : number + 1]:
            each.check_take()

    def close(self, number: int, _: str) -> None:
        for each in self.listeners[number : number + 1]:
            each.end.close()
            each.end.close()  # again: nothing
            self.listeners.remove(each)

    def check(self) -> None:
        for topic in SYSTEM:
            heard = any(each.hears(topic) for each in self.listeners)
            assert self.bus.is_heard(topic) is heard


@pytest.mark.parametrize("name", BUSES)
@given(actions=ACTIONS)
def test_each_subscriber_is_handed_what_the_model_says(
    name: str, actions: list[tuple[str, object, object]]
) -> None:
    async def play() -> None:
        game = Play(BUSES[name](SMALL))
        for verb, *arguments in actions:
            getattr(game, verb)(*arguments)
            game.check()
        for each in game.listeners:
            each.check_take()

    asyncio.run(play())


@pytest.fixture(params=BUSES)
def make(request: pytest.FixtureRequest) -> Callable[[MailboxLimits], Bus]:
    return BUSES[request.param]


Make = Callable[[MailboxLimits], Bus]


async def heard_after_wait(end: Subscription) -> list[Event]:
    await asyncio.wait_for(end.wait(), PATIENCE_S)
    return list(end.take().events)


async def test_who_waits_is_woken_by_what_it_hears_and_by_nothing_else(make: Make) -> None:
    bus = make(LARGE)
    ends = [bus.subscribe(("free:a",)), bus.subscribe(("alerts",)), bus.subscribe(("free:b",))]
    waits = [asyncio.ensure_future(heard_after_wait(each)) for each in ends]
    await asyncio.sleep(0)
    bus.publish("free:a", payload())
    bus.publish("alerts", alerts(1))
    assert [each.topic for each in await waits[0]] == ["free:a"]
    assert [each.topic for each in await waits[1]] == ["alerts"]
    assert not waits[2].done()
    bus.publish("free:b", payload())
    assert [each.topic for each in await waits[2]] == ["free:b"]


async def test_what_came_while_nobody_waited_wakes_at_once(make: Make) -> None:
    bus = make(LARGE)
    end = bus.subscribe(("**",))
    for topic in ("free:a", "level"):
        bus.publish(topic, payload() if topic != "level" else alerts(1))
        assert [each.topic for each in await heard_after_wait(end)] == [topic]


async def test_a_wait_that_is_given_up_costs_the_next_one_nothing(make: Make) -> None:
    bus = make(LARGE)
    end = bus.subscribe(("**",))
    first = asyncio.ensure_future(end.wait())
    await asyncio.sleep(0)
    bus.publish("free:a", payload())
    first.cancel()
    assert [each.topic for each in await heard_after_wait(end)] == ["free:a"]


async def test_a_batch_is_bounded_and_the_rest_follows_in_order(make: Make) -> None:
    bus = make(LARGE)
    end = bus.subscribe(("**",))
    for _ in range(BATCH_EVENTS_MAX + 10):
        bus.publish("free:a", payload(0))
    bus.publish("alerts", alerts(1))
    batches = [end.take(), end.take(), end.take()]
    assert [len(each.events) for each in batches] == [BATCH_EVENTS_MAX, 11, 0]
    numbers = [event.seq for batch in batches for event in batch.events]
    assert numbers == list(range(1, BATCH_EVENTS_MAX + 12))


async def test_a_batch_is_bounded_in_bytes_but_holds_one_event_at_least(make: Make) -> None:
    bus = make(LARGE)
    end = bus.subscribe(("**",))
    half = BATCH_BYTES_MAX // 2
    for size_bytes in (half, half, 1, BATCH_BYTES_MAX + 1, 1):
        bus.publish("free:a", payload(size_bytes))
    assert [len(end.take().events) for _ in range(4)] == [2, 1, 1, 1]


async def test_more_states_than_a_batch_holds_follow(make: Make) -> None:
    bus = make(LARGE)
    for number in range(BATCH_EVENTS_MAX + 1):
        bus.publish("priority", priority(f"a{number}"), key=number)
    bus.keep("alerts", alerts(1))
    end = bus.subscribe(("**",))
    first, second = end.take().events, end.take().events
    assert first[0].topic == "alerts"
    assert (len(first), len(second)) == (BATCH_EVENTS_MAX, 2)
    assert all(each.is_state for each in (*first, *second))


async def test_a_state_that_was_kept_again_has_the_number_of_its_last_change(make: Make) -> None:
    bus = make(LARGE)
    bus.keep("alerts", alerts(1))
    assert [each.seq for each in bus.subscribe(("alerts",)).take().events] == [0]
    bus.publish("free:a", payload())
    bus.publish("alerts", alerts(2))
    bus.keep("alerts", alerts(3))
    (state,) = bus.subscribe(("alerts",)).take().events
    assert (state.seq, state.what, state.is_state) == (2, alerts(3), True)


async def test_all_who_are_told_get_one_object(make: Make) -> None:
    """So that it is encoded once."""
    bus = make(LARGE)
    one, other = bus.subscribe(("**",)), bus.subscribe(("free:*",))
    bus.publish("free:a", payload())
    assert one.take().events[0] is other.take().events[0]
    one.close()
    bus.publish("alerts", alerts(1))
    states = [bus.subscribe(("alerts",)).take().events[0] for _ in range(2)]
    assert states[0] is states[1]


async def test_a_broker_that_leaves_tells_all_and_takes_nobody(make: Make) -> None:
    bus = make(LARGE)
    waiting, busy = bus.subscribe(("**",)), bus.subscribe(("**",))
    told_so = asyncio.ensure_future(waiting.wait())
    await asyncio.sleep(0)
    bus.publish("free:a", payload())
    bus.close()
    with pytest.raises(Draining):
        await asyncio.wait_for(told_so, PATIENCE_S)
    with pytest.raises(Draining):
        await busy.wait()
    with pytest.raises(Draining):
        bus.subscribe(("**",))
    waiting.close()
    busy.close()


async def test_what_is_carried_and_what_is_lost_is_counted(make: Make) -> None:
    bus = make(SMALL)
    slow, other = bus.subscribe(("free:*", "priority")), bus.subscribe(("alerts",))
    for _ in range(EVENTS_MAX + 2):
        bus.publish("free:a", payload())
    for number in range(STATES_MAX + 1):
        bus.publish("priority", priority(f"a{number}"), key=number)
    bus.publish("other", payload())  # which nobody hears
    bus.publish("alerts", alerts(1))
    bus.publish("alerts", alerts(2))  # instead of the one before, which is no loss
    bus.keep("level", alerts(3))  # which is no event
    counts = bus.counts()
    assert {topic: count for topic, count in counts.published.items() if count} == {
        "": EVENTS_MAX + 3,
        "priority": STATES_MAX + 1,
        "alerts": 2,
    }
    assert set(counts.published) == {*SYSTEM, ""}
    assert counts.missed == 3
    assert (counts.subscribers, counts.subscribers_max) == (2, SUBSCRIBERS_MAX)
    assert slow.take().missed == 3
    slow.close()
    other.close()
    assert bus.counts().missed == 3  # also when who lost them is gone
    assert bus.counts().subscribers == 0


async def test_a_place_that_is_left_is_free(make: Make) -> None:
    bus = make(LARGE)
    ends = [bus.subscribe(("**",)) for _ in range(SUBSCRIBERS_MAX)]
    with pytest.raises(SubscribersFull):
        bus.subscribe(("**",))
    ends[0].close()
    assert bus.publish("free:a", payload()).subscribers == SUBSCRIBERS_MAX - 1
    bus.subscribe(("**",))
