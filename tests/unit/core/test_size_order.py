"""Short requests do not wait behind long ones: of agents that were served alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.queueing import (
    CREDIT_NS_MAX,
    STAND_BACK_NS_MAX,
    AgentOrder,
    QueuePolicy,
)
from broker.core.story import Rule
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, serving
from tests.unit.core.story_scene import story

QUEUE = QueuePolicy(size_handicap=3.0)
LONG_BYTES, SHORT_BYTES = 4_000, 100  # 40 s and 1 s


def measured(queue: QueuePolicy = QUEUE) -> Scene:
    """m reads a hundred bytes in a second (a first such prompt took no time, one took two), and is
    busy with "running" of agent x."""
    scene = serving(model("m"), queue=queue)
    scene.turn(arrived("sample"))
    scene.wait(2 * SECOND_NS)
    scene.ends("sample")
    comes(scene, "running", "x", SHORT_BYTES)
    return scene


def comes(scene: Scene, name: str, agent: str, size_bytes: int) -> None:
    word = arrived(name, agent=agent, size_bytes=size_bytes, deadline_ns=60 * MINUTE_NS)
    scene.turn(word)


def test_a_short_request_does_not_wait_behind_a_long_one() -> None:
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.wait(SECOND_NS)
    comes(scene, "short", "b", SHORT_BYTES)
    assert scene.order() == "running short long"


@pytest.mark.parametrize(("after_s", "first"), [(116, "short"), (118, "long")])
def test_a_long_request_ages_into_its_turn(after_s: int, first: str) -> None:
    """It stands back by three times the 39 s that it is longer, and no further."""
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.wait(after_s * SECOND_NS)
    comes(scene, "short", "b", SHORT_BYTES)
    assert scene.order().split()[1] == first


def test_what_nothing_is_known_of_is_served_as_it_comes() -> None:
    scene = serving(model("m"), queue=QUEUE)
    for name, agent, size_bytes in (("running", "x", 1), ("long", "a", 9_000), ("short", "b", 1)):
        comes(scene, name, agent, size_bytes)
    assert scene.order() == "running long short"


def test_who_was_served_a_whole_request_more_waits_however_short_its_requests_are() -> None:
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    for number in range(3):
        comes(scene, f"b{number}", "b", SHORT_BYTES)
    assert scene.order() == "running b0 long b1 b2"


@pytest.mark.parametrize(("after_s", "first"), [(116, "short"), (118, "long")])
def test_of_one_agent_too_the_short_one_does_not_wait_behind_the_long_one(
    after_s: int, first: str
) -> None:
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.wait(after_s * SECOND_NS)
    comes(scene, "short", "a", SHORT_BYTES)
    assert scene.order().split()[1] == first


def test_of_one_agent_the_first_of_a_size_stays_the_first() -> None:
    scene = measured()
    for number in range(3):
        comes(scene, f"a{number}", "a", LONG_BYTES)
    assert scene.order() == "running a0 a1 a2"


def test_by_arrival_the_first_of_an_agent_stays_the_first() -> None:
    scene = measured(replace(QUEUE, agent_order=AgentOrder.ARRIVAL))
    comes(scene, "long", "a", LONG_BYTES)
    comes(scene, "short", "a", SHORT_BYTES)
    assert scene.order() == "running long short"


def test_a_short_request_of_its_own_takes_neither_age_nor_place_from_another_agent() -> None:
    """It is head since it came: who waits for longer is before it, sizes considered."""
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.wait(SECOND_NS)
    comes(scene, "b", "b", SHORT_BYTES)
    scene.wait(SECOND_NS)
    comes(scene, "short", "a", SHORT_BYTES)
    assert scene.order() == "running b short long"


def test_another_order_begins_behind_what_came_by_the_one_before() -> None:
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.reload(queue=replace(QUEUE, agent_order=AgentOrder.ARRIVAL))
    comes(scene, "short", "a", SHORT_BYTES)
    assert scene.order() == "running long short"


def test_the_tail_of_a_flood_has_no_age() -> None:
    """Its next request stands since it became the first of its agent, not since it came."""
    scene = measured()
    for number in range(4):
        comes(scene, f"a{number}", "a", SHORT_BYTES)
    scene.wait(SECOND_NS)
    comes(scene, "b0", "b", 2 * SHORT_BYTES)
    scene.wait(9 * SECOND_NS)
    scene.end_one()
    assert scene.order() == "a0 b0 a1 a2 a3"


def test_a_handicap_of_nothing_is_first_come_among_those_served_alike() -> None:
    scene = measured(QueuePolicy(size_handicap=0.0))
    comes(scene, "long", "a", LONG_BYTES)
    scene.wait(1)
    comes(scene, "short", "b", SHORT_BYTES)
    assert scene.order() == "running long short"


def test_without_a_grain_sizes_play_no_part() -> None:
    scene = measured(QueuePolicy(fairness_grain=0))
    comes(scene, "long", "a", LONG_BYTES)
    comes(scene, "short", "b", SHORT_BYTES)
    assert scene.order() == "running long short"


@pytest.mark.parametrize(("grain", "order"), [(0, "long short"), (4_096, "short long")])
def test_a_reload_orders_what_waits_by_another_grain(grain: int, order: str) -> None:
    scene = measured(QueuePolicy(fairness_grain=4_096 - grain))
    comes(scene, "long", "a", LONG_BYTES)
    comes(scene, "short", "b", SHORT_BYTES)
    scene.reload(queue=QueuePolicy(fairness_grain=grain))
    assert scene.order() == f"running {order}"


def test_a_reload_leaves_what_waits_at_the_handicap_it_has() -> None:
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.reload(queue=QueuePolicy(size_handicap=0.0))
    scene.wait(1)
    comes(scene, "short", "b", SHORT_BYTES)
    comes(scene, "new", "c", LONG_BYTES)
    assert scene.order() == "running short new long"


def test_who_was_passed_for_its_size_hears_that() -> None:
    scene = measured()
    comes(scene, "long", "a", LONG_BYTES)
    scene.wait(1)
    comes(scene, "short", "b", SHORT_BYTES)
    scene.wait(1)
    comes(scene, "as long", "c", LONG_BYTES)
    scene.order()
    [passed] = story(scene, "long").overtaken
    assert (passed.rule, passed.count) == (Rule.SIZE, 1)
    assert story(scene, "short", "b").overtaken == ()


def test_nobody_stands_back_for_longer_than_a_day() -> None:
    assert QUEUE.stand_back_ns(2 * SECOND_NS) == CREDIT_NS_MAX + 6 * SECOND_NS
    assert QUEUE.stand_back_ns(1 << 62) == CREDIT_NS_MAX + STAND_BACK_NS_MAX
