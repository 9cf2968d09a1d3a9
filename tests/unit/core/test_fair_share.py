"""Who is next, as clients see it: fair shares by cost and weight, ageing, places that are kept."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy
from broker.core.effects import TellRequeued
from broker.core.errors import BackendUnreachable
from broker.core.placement import BackendPolicy
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.stimuli import CancelAsked, CancelCause
from tests.unit.core.gate_words import kind
from tests.unit.core.scene import (
    MINUTE_NS,
    Scene,
    arrived,
    model,
    nothing_remains,
    of,
    resident,
    serving,
    started,
)

UNREACHABLE = BackendUnreachable("refused")
STEP_NS = QueuePolicy().handicap_ns_per_priority


def measured(*, slots: int = 1, queue: QueuePolicy | None = None, **weights: float) -> Scene:
    """A request costs 20 on average: 10 output tokens. Agents are their own types."""
    types = (
        *(kind(name, name, weight=weight) for name, weight in weights.items()),
        kind("any", "*"),
    )
    agents = AgentsPolicy(types=types)
    scene = serving(model("m", slots=slots), agents=agents, queue=queue, first_agent="any")
    scene.measured(agent="any", output_tokens=10, prompt_tokens=0)
    return scene


def comes(scene: Scene, names: str, *, priority: int = 5, deadline_ns: int = 0) -> None:
    """Requests such as "a1" (agent a) arrive."""
    for name in names.split():
        later_ns = deadline_ns or scene.now_ns + 60 * MINUTE_NS
        scene.turn(arrived(name, agent=name[0], priority=priority, deadline_ns=later_ns))


def many(agent: str, count: int) -> str:
    return " ".join(f"{agent}{number}" for number in range(count))


def served(scene: Scene, count: int, output_tokens: int = 10) -> list[str]:
    """Whose requests the next so many are."""
    return [scene.end_one(output_tokens=output_tokens)[0] for _ in range(count)]


# Shares


def test_a_flood_does_not_hold_up_who_asks_now_and_then() -> None:
    scene = measured()
    comes(scene, many("f", 300))
    waits = []
    for number in range(20):
        comes(scene, f"m{number}")
        waits.append(served(scene, 3).index("m"))
    assert max(waits) <= 1  # behind what ran, and nobody else


def test_two_that_stay_backlogged_get_the_same_whatever_they_pile_up() -> None:
    scene = measured()
    comes(scene, many("a", 200))
    comes(scene, many("b", 60))
    shares = served(scene, 100)
    assert abs(shares.count("a") - shares.count("b")) <= 2


def test_who_asks_for_long_answers_gets_as_many_tokens_and_fewer_requests() -> None:
    scene = measured()
    comes(scene, many("l", 100))
    comes(scene, many("s", 300))
    for _ in range(200):
        agent = next(iter(scene.engine.attempts.values())).record.agent.id
        scene.end_one(output_tokens=50 if agent == "l" else 10)
    cost = {each.agent_id: each.served_cost for each in scene.engine.agents.views(scene.now_ns)}
    largest = 2 * 50 + 25  # of its 100 bytes of prompt
    assert abs(cost["l"] - cost["s"]) <= 2 * largest


def test_an_agent_of_twice_the_weight_gets_twice_as_much() -> None:
    scene = measured(a=2.0, b=1.0)
    comes(scene, many("a", 100))
    comes(scene, many("b", 100))
    shares = served(scene, 90)
    assert shares.count("a") == pytest.approx(60, abs=2)


def test_several_slots_share_as_one_does() -> None:
    scene = measured(slots=4)
    comes(scene, many("a", 100))
    comes(scene, many("b", 100))
    shares = served(scene, 80)
    assert abs(shares.count("a") - shares.count("b")) <= 5


def test_who_was_idle_has_no_claim_on_the_time_it_did_not_use() -> None:
    scene = measured()
    comes(scene, many("a", 100))
    served(scene, 50)
    comes(scene, many("b", 100))
    shares = served(scene, 20)
    assert abs(shares.count("a") - shares.count("b")) <= 2


def test_sending_and_cancelling_again_and_again_gains_nothing() -> None:
    scene = measured()
    comes(scene, many("a", 50))
    comes(scene, many("b", 50))
    for _ in range(30):
        comes(scene, "c0")
        if ("c", "c0") in scene.engine.records:
            scene.turn(CancelAsked(("c", "c0"), CancelCause.BY_AGENT))
        served(scene, 1)
    assert scene.engine.agents.find("c") is not None
    shares = served(scene, 30)
    assert abs(shares.count("a") - shares.count("b")) <= 2


def test_what_a_cancelled_request_had_used_is_charged() -> None:
    """Who cancels just before the end has had its answer all the same."""
    scene = measured()
    comes(scene, many("a", 40))
    comes(scene, many("b", 40))
    got = {"a": 0, "b": 0}
    for _ in range(40):
        attempt = next(iter(scene.engine.attempts.values()))
        agent, name = attempt.record.spec.key
        if agent == "b":
            scene.turn(CancelAsked((agent, name), CancelCause.BY_AGENT))
        scene.end_one(output_tokens=10)
        got[agent] += 1
    assert abs(got["a"] - got["b"]) <= 2


# Priorities and ages


def test_a_better_priority_goes_first_and_a_lower_one_ages_into_its_turn() -> None:
    scene = measured()
    comes(scene, "x1")
    comes(scene, "a1", priority=6)
    scene.wait(STEP_NS - 1)
    comes(scene, "b1", priority=5)
    scene.wait(2)
    comes(scene, "c1", priority=5)
    assert scene.order() == "x1 b1 a1 c1"


def test_the_tail_of_a_flood_does_not_age() -> None:
    scene = measured()
    comes(scene, many("f", 9), priority=6)  # f0 runs, f1 is head
    scene.wait(10 * STEP_NS)
    comes(scene, "b1 c1 d1", priority=5)
    assert started(scene.ends("f0", agent="f")) == ["f1"]
    assert scene.order() == "f1 b1 c1 d1 f2 f3 f4 f5 f6 f7 f8"


# An agent's own


def test_an_agents_own_requests_go_in_the_order_in_which_they_came() -> None:
    scene = measured()
    comes(scene, "a1 a2 a3 a4")
    assert scene.order() == "a1 a2 a3 a4"


def test_by_deadline_an_agents_most_urgent_goes_first_and_other_agents_are_not_passed() -> None:
    scene = measured(queue=QueuePolicy(agent_order=AgentOrder.DEADLINE))
    now_ns = scene.now_ns
    comes(scene, "x1")
    for name, minutes in (("a1", 9), ("a2", 5), ("a3", 7), ("b1", 60), ("a4", 5)):
        comes(scene, name, deadline_ns=now_ns + minutes * MINUTE_NS)
    assert scene.order() == "x1 a2 b1 a4 a3 a1"


def test_by_deadline_one_that_is_taken_over_goes_where_its_new_deadline_puts_it() -> None:
    scene = measured(queue=QueuePolicy(agent_order=AgentOrder.DEADLINE))
    now_ns = scene.now_ns
    for name, minutes in (("a0", 1), ("a1", 9), ("a2", 5), ("a3", 7)):
        comes(scene, name, deadline_ns=now_ns + minutes * MINUTE_NS)
    comes(scene, "a1", deadline_ns=now_ns + 4 * MINUTE_NS)
    comes(scene, "a2", deadline_ns=now_ns + 20 * MINUTE_NS)
    assert scene.order() == "a0 a1 a3 a2"
    assert nothing_remains(scene)


def test_first_come_one_that_is_taken_over_stays_where_it_is() -> None:
    scene = measured()
    comes(scene, "a0 a1 a2")
    comes(scene, "a2", deadline_ns=scene.now_ns + MINUTE_NS)
    assert scene.order() == "a0 a1 a2"


# Coming back


def test_a_request_that_comes_back_keeps_its_place_among_its_agents_own() -> None:
    scene = measured()
    comes(scene, "a1 a2 a3")
    effects = scene.ends("a1", UNREACHABLE, agent="a")
    assert [each.key[1] for each in of(effects, TellRequeued)] == ["a1"]
    scene.up("b1")
    assert scene.order() == "a1 a2 a3"


def test_several_that_come_back_stand_as_they_had_come() -> None:
    scene = measured(slots=3)
    comes(scene, "a1 a2 a3 a4")
    for name in ("a3", "a1", "a2"):
        scene.ends(name, UNREACHABLE, agent="a")
    scene.up("b1")
    assert scene.order() == "a1 a2 a3 a4"


def test_a_request_that_comes_back_has_aged_as_if_it_had_never_left() -> None:
    scene = measured()
    comes(scene, "a1", priority=6)
    scene.wait(STEP_NS + 1)
    comes(scene, "b1", priority=5)
    scene.ends("a1", UNREACHABLE, agent="a")
    scene.up("b1")
    assert scene.order() == "a1 b1"


def on_two_backends() -> Scene:
    """m is loaded on both, with one slot each."""
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    for backend in ("b1", "b2"):
        scene.open(backend, model("m"))
        scene.seen(backend, resident("m"))
    scene.measured(agent="x", output_tokens=10)
    return scene


def test_an_attempt_that_came_to_nothing_costs_its_agent_nothing_and_gains_it_nothing() -> None:
    """Its counter is neither what was charged for the attempt nor that of a newcomer, who would
    have all turns until it had caught up."""
    scene = on_two_backends()
    comes(scene, many("b", 100))
    comes(scene, many("a", 10))
    served(scene, 24)
    comes(scene, "alone")
    while ("a", "alone") not in {each.record.spec.key for each in scene.engine.attempts.values()}:
        served(scene, 1)
    scene.ends("alone", UNREACHABLE, agent="a")
    comes(scene, many("a", 40))
    shares = served(scene, 20)
    assert abs(shares.count("a") - shares.count("b")) <= 3


def test_what_waits_on_a_backend_that_fell_away_goes_on_elsewhere_in_its_order() -> None:
    scene = on_two_backends()
    comes(scene, "a1 a2 a3 a4 a5")
    scene.ends("a1", UNREACHABLE, agent="a")
    assert scene.order() == "a2 a1 a3 a4 a5"


def test_newcomers_served_least_do_not_keep_their_class_from_growing_old() -> None:
    """A flood of a better priority passes who waits for as long as the handicap says, also where
    the candidate of their class is always a fresh one."""
    scene = serving(model("m"))
    scene.turn(arrived("first", agent="x"))
    scene.turn(arrived("old", agent="modest-0", priority=5))
    for number in range(200):
        scene.turn(arrived(f"flood-{number}", agent="greedy", priority=1))
    served = []
    for second in range(1, 100):
        scene.wait(STEP_NS // 5)
        scene.turn(arrived(f"new-{second}", agent=f"modest-{second}", priority=5))
        served.append(scene.end_one(output_tokens=10)[0])
    # Four steps of priority, a request each fifth of a step; then both get turns.
    assert served.index("modest-0") <= 22
    assert served.count("greedy") <= 22 + (len(served) - 22) // 2 + 1
