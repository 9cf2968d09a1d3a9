"""What the broker tells of itself: nothing that nobody hears, and states that are others."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import replace

import pytest

from broker.core.effects import TellHealing, TellLevel, TellPriority
from broker.core.engine import Engine
from broker.core.events import (
    AlertsState,
    BusCounts,
    CapacityState,
    HealthChange,
    LevelState,
    ModelsState,
    Published,
    RequestChange,
    Subscription,
    What,
)
from broker.core.healing import HealingStep
from broker.core.level import Level
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView, Snapshot, take_snapshot
from broker.core.stimuli import Scope
from broker.core.views import LevelView, PreemptionReport, RequestStart
from broker.services import system_topics
from broker.services.system_topics import PRESENT_AGE_NS_MAX, SystemTopics

START = RequestStart(
    key=("a", "r"),
    agent_type="t",
    model="m",
    backend="b",
    priority=5,
    level=Level.NORMAL,
    queue_wait_ns=1,
    load_wait_ns=0,
)
RESIDENT = ResidencyView(
    model="m",
    runner="m",
    state=ResidencyState.RESIDENT,
    managed=True,
    slots=4,
    running=0,
    queued=0,
    num_ctx=4096,
    memory_bytes=1,
    gpu_memory_bytes=1,
)
NORMAL = LevelView(
    level=Level.NORMAL,
    before=None,
    is_automatic=True,
    since_ns=0,
    until_ns=None,
    why="",
    load=None,
    parts=(),
    sensors=(),
    host=None,
    gpus=(),
)


class WatchedBus:
    """Notes what it is told. `heard` are the topics that somebody listens to."""

    def __init__(self, *heard: str) -> None:
        self.heard = set(heard)
        self.told: list[tuple[str, What]] = []
        self.kept: dict[tuple[str, Hashable], What] = {}
        self.was_told = asyncio.Event()

    def publish(
        self, topic: str, what: What, *, publisher: str = "", key: Hashable = None
    ) -> Published:
        self.told.append((topic, what))
        self.kept[topic, key] = what
        self.was_told.set()
        return Published(seq=len(self.told), subscribers=1)

    def keep(self, topic: str, what: What, *, key: Hashable = None) -> None:
        self.kept[topic, key] = what

    def forget(self, topic: str, *, key: Hashable = None) -> None:
        self.kept.pop((topic, key), None)

    def subscribe(self, patterns: tuple[str, ...]) -> Subscription:
        raise AssertionError("nobody subscribes here")

    def is_heard(self, topic: str) -> bool:
        return topic in self.heard

    def counts(self) -> BusCounts:
        raise AssertionError("nobody counts here")

    def close(self) -> None:
        raise AssertionError("nobody closes it here")


class Box:
    """A machine that a test leads."""

    def __init__(self) -> None:
        self.now = take_snapshot(Engine(EnginePolicy(backends=(BackendPolicy(name="b"),))), 0)
        self.view = NORMAL
        self.at_ns = 0
        self.looks = 0

    def snapshot(self) -> Snapshot:
        self.looks += 1
        return self.now

    def level(self) -> LevelView:
        return self.view

    def now_ns(self) -> int:
        return self.at_ns

    def hold(self, **changed: object) -> None:
        """The backend answers, and holds this model."""
        resident = replace(RESIDENT, **changed)  # type: ignore[arg-type]
        backend = replace(self.now.backends[0], up=True, residents=(resident,))
        self.now = replace(self.now, backends=(backend,))


@pytest.fixture
def box() -> Box:
    return Box()


def test_a_request_that_nobody_hears_of_costs_no_event(box: Box) -> None:
    bus = WatchedBus()
    SystemTopics(bus, lambda: box).request_started(START)
    assert bus.told == []
    bus.heard.add("requests")
    SystemTopics(bus, lambda: box).request_started(START)
    ((topic, change),) = bus.told
    assert topic == "requests"
    assert isinstance(change, RequestChange)
    assert (change.agent_id, change.request_id, change.state) == ("a", "r", "started")


def test_a_list_of_models_that_changed_is_told_at_once_by_its_timestamp(box: Box) -> None:
    bus, changed = WatchedBus(), 5
    topics = SystemTopics(bus, lambda: box, lambda: changed)
    topics.list_changed()
    assert (bus.told, bus.kept, box.looks) == ([], {}, 0), "nobody listens"
    bus.heard.add("models")
    topics.list_changed()
    assert bus.told == [], "before it nothing was told"
    assert bus.kept["models", None] == ModelsState(models=(), changed_unix_ms=5)
    changed = 6
    topics.list_changed()
    assert bus.told == [("models", ModelsState(models=(), changed_unix_ms=6))]
    topics.list_changed()
    assert len(bus.told) == 1


def test_a_request_that_was_set_aside_is_told_to_who_listens(box: Box) -> None:
    bus = WatchedBus()
    report = PreemptionReport(
        key=("a", "r"),
        agent_type="t",
        model="m:latest",
        backend="b",
        priority=9,
        level=Level.NORMAL,
        number=1,
        times=1,
        pieces=3,
        voids_pieces=True,
        waste_ns=5,
        message="urgent work takes its slot",
    )
    SystemTopics(bus, lambda: box).attempt_preempted(report)
    assert bus.told == []
    bus.heard.add("requests")
    SystemTopics(bus, lambda: box).attempt_preempted(report)
    ((topic, change),) = bus.told
    assert topic == "requests"
    assert isinstance(change, RequestChange)
    assert (change.request_id, change.state, change.reason) == ("r", "requeued", "PREEMPTED")


def test_what_ails_a_backend_is_told_to_who_listens(box: Box) -> None:
    bus = WatchedBus()
    topics = SystemTopics(bus, lambda: box)
    told = TellHealing(backend="b", model="m", step=HealingStep.FROZEN, evidence="no piece for 9 s")
    topics.healing(told)
    assert bus.told == []
    bus.heard.add("health")
    box.now = replace(box.now, backends=(replace(box.now.backends[0], restarts=2),))
    topics.healing(told)
    change = HealthChange(
        backend="b", model="m", step="frozen", detail="no piece for 9 s", restarts=2
    )
    assert bus.told == [("health", change)]


async def test_whether_a_backend_answers_is_told_as_it_changes(box: Box) -> None:
    bus = WatchedBus("health")
    topics = SystemTopics(bus, lambda: box)

    def seen(*, up: bool, problem: str = "") -> list[tuple[str, str]]:
        bus.told.clear()
        backend = replace(box.now.backends[0], up=up, problem=problem)
        box.now = replace(box.now, backends=(backend,))
        topics.backends_changed()
        changes = [what for _, what in bus.told if isinstance(what, HealthChange)]
        return [(each.step, each.detail) for each in changes]

    topics.look()
    assert not [topic for topic, _ in bus.told if topic == "health"], "how it is is no event"
    assert seen(up=True) == [("up", "it answers again")]
    assert seen(up=True) == []
    assert seen(up=False, problem="refused") == [("down", "refused")]
    assert seen(up=False, problem="no answer") == []
    topics.close()


def test_the_level_is_told_with_all_that_decides_it_whoever_listens(box: Box) -> None:
    bus = WatchedBus()
    box.at_ns = 7
    SystemTopics(bus, lambda: box).level_changed(
        TellLevel(level=Level.LEVEL_1, before=Level.NORMAL, why="why")
    )
    assert bus.told == [("level", LevelState(at_ns=7, view=box.view))]


def test_an_override_is_a_state_until_nothing_is_left_of_it(box: Box) -> None:
    bus = WatchedBus()
    topics = SystemTopics(bus, lambda: box)
    scopes = Scope(agent_id="a"), Scope(agent_type="t")
    told = [
        TellPriority(
            scope=each,
            weight_factor=1.0,
            rate_factor=1.0,
            priority_best=0,
            is_blocked=True,
            is_paused=False,
        )
        for each in scopes
    ]
    for each in told:
        topics.priority_changed(each)
    assert set(bus.kept) == {("priority", scope) for scope in scopes}
    over = replace(told[0], is_blocked=False)
    topics.priority_changed(over)
    assert set(bus.kept) == {("priority", scopes[1])}
    assert bus.told[-1] == ("priority", over)  # those who listen hear that it is over


async def test_a_newcomer_is_told_what_is_true_now(box: Box) -> None:
    bus = WatchedBus()
    topics = SystemTopics(bus, lambda: box)
    topics.look()
    assert bus.kept["alerts", None] == AlertsState(at_ns=0, firing=())
    assert isinstance(bus.kept["models", None], ModelsState)
    box.hold()
    box.at_ns = PRESENT_AGE_NS_MAX
    topics.look()
    capacity = bus.kept["capacity", None]
    assert isinstance(capacity, CapacityState)
    assert (capacity.slots, capacity.backends_up, capacity.backends_down) == (4, ("b",), ())
    assert bus.told == []
    topics.close()


async def test_a_fleet_that_comes_at_once_costs_one_look(box: Box) -> None:
    topics = SystemTopics(WatchedBus(), lambda: box)
    for box.at_ns in range(100):
        topics.look()
    assert box.looks == 1
    topics.close()


async def test_what_a_newcomer_finds_changed_those_there_are_told(box: Box) -> None:
    bus = WatchedBus("capacity", "models")
    topics = SystemTopics(bus, lambda: box)
    topics.look()
    before = box.now
    bus.told.clear()
    box.hold()
    box.at_ns = PRESENT_AGE_NS_MAX
    topics.look()
    assert [topic for topic, _ in bus.told] == ["capacity", "models"]
    bus.told.clear()
    # It swings back before the next look: the newcomer was told what is no longer so.
    box.now = before
    topics._look_again()
    assert [topic for topic, _ in bus.told] == ["capacity", "models"]
    assert bus.kept["models", None] == ModelsState(models=())
    topics.close()


async def test_what_a_newcomer_finds_unchanged_nobody_else_is_told(box: Box) -> None:
    bus = WatchedBus("capacity", "models")
    topics = SystemTopics(bus, lambda: box)
    box.hold()
    topics.look()
    bus.told.clear()
    box.hold(running=1)  # which makes no other model, but is what there is
    box.at_ns = PRESENT_AGE_NS_MAX
    topics.look()
    assert bus.told == []
    models = bus.kept["models", None]
    assert isinstance(models, ModelsState)
    assert models.models[0][1].running == 1
    topics.close()


async def test_capacity_and_models_are_told_once_for_each_change(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_topics, "LOOK_INTERVAL_S", 0.0)
    bus = WatchedBus("capacity", "models")
    topics = SystemTopics(bus, lambda: box)
    topics.look()
    box.hold()
    await asyncio.wait_for(bus.was_told.wait(), 30)
    assert [topic for topic, _ in bus.told] == ["capacity", "models"]
    bus.told.clear()
    bus.was_told.clear()
    box.hold(running=1, queued=3)  # of no model more or less, which other topics tell
    box.now = replace(box.now, running=1)
    await asyncio.wait_for(bus.was_told.wait(), 30)
    looks = box.looks
    async with asyncio.timeout(30):
        # Nothing changes any more. The looks are the topics' own.
        while box.looks < looks + 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert [topic for topic, _ in bus.told] == ["capacity"]
    bus.heard.clear()
    async with asyncio.timeout(30):
        # Nobody listens: nobody looks.
        while topics._timer is not None:  # noqa: ASYNC110
            await asyncio.sleep(0)
