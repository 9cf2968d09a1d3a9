"""Who came later and started earlier, by the name of the rule that let it."""

from __future__ import annotations

import pytest

from broker.core import journal
from broker.core.agents import PAUSES_MAX
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import Criticality
from broker.core.stimuli import (
    BoostAsked,
    CancelAsked,
    CancelCause,
    PauseAsked,
    ResumeAsked,
    Scope,
)
from broker.core.story import EXAMPLES_MAX, Rule
from tests.unit.core.scene import MINUTE_NS, Scene
from tests.unit.core.story_scene import comes, house, story

STEP_NS = QueuePolicy().handicap_ns_per_priority


def overtaken(scene: Scene, name: str, agent: str = "a") -> dict[str, list[str]]:
    """The requests that passed this one, by rule."""
    views = story(scene, name, agent).overtaken
    assert all(each.count >= len(each.examples) for each in views)
    return {each.rule: [key[1] for key in each.examples] for each in views}


def test_who_was_overtaken_by_nobody_hears_that() -> None:
    scene = house()
    comes(scene, "a1")
    scene.order()
    assert overtaken(scene, "a1") == {}
    assert story(scene, "a1").is_complete


def test_a_better_priority_passes_by_that_rule() -> None:
    scene = house()
    comes(scene, "a1", priority=6)
    comes(scene, "b1", "b", priority=5)
    scene.order()
    assert overtaken(scene, "a1") == {Rule.PRIORITY: ["b1"]}
    assert overtaken(scene, "b1", "b") == {}


def test_a_worse_priority_passes_by_its_age() -> None:
    scene = house()
    comes(scene, "a1")
    comes(scene, "a2")
    comes(scene, "b1", "b", priority=6)
    scene.wait(2 * STEP_NS)
    for _ in range(3):
        scene.end_one()
    scene.order()
    assert overtaken(scene, "a2") == {Rule.AGEING: ["b1"]}


def test_an_agent_that_was_served_less_passes_by_its_share() -> None:
    scene = house()
    for name in ("a1", "a2", "a3"):
        comes(scene, name)
    comes(scene, "b1", "b")
    scene.order()
    assert overtaken(scene, "a3") == {Rule.FAIR_SHARE: ["b1"]}


def test_a_boosted_agent_passes_by_the_operators_word() -> None:
    scene = house()
    comes(scene, "a1")
    comes(scene, "a2")
    comes(scene, "b1", "b")
    scene.turn(BoostAsked(scope=Scope(agent_id="b"), weight_factor=9))
    scene.order()
    assert overtaken(scene, "a2") == {Rule.BOOST: ["b1"]}


def test_an_agent_that_an_operator_slowed_down_passes_by_its_share_all_the_same() -> None:
    scene = house()
    comes(scene, "a1")
    comes(scene, "a2")
    comes(scene, "b1", "b")
    scene.turn(BoostAsked(scope=Scope(agent_id="b"), weight_factor=0.5))
    scene.order()
    assert overtaken(scene, "a2") == {Rule.FAIR_SHARE: ["b1"]}


def test_who_was_paused_is_passed_by_that_rule_also_when_it_is_over() -> None:
    scene = house()
    comes(scene, "a1")
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    comes(scene, "b1", "b")
    scene.wait(1)
    scene.end_one()
    assert overtaken(scene, "a1") == {Rule.PAUSE: ["b1"]}
    scene.wait(1)
    scene.turn(ResumeAsked(Scope(agent_id="a")))
    scene.order()
    assert overtaken(scene, "a1") == {Rule.PAUSE: ["b1"]}


@pytest.mark.parametrize(("pauses", "known"), [(2, 2), (8, 8), (10, PAUSES_MAX)])
def test_of_several_pauses_the_last_eight_are_remembered(pauses: int, known: int) -> None:
    scene = house()
    comes(scene, "a1")
    for number in range(pauses):
        scene.turn(PauseAsked(scope=Scope(agent_id="a")))
        comes(scene, f"b{number}", "b")
        scene.wait(1)
        scene.end_one()
        scene.wait(1)
        scene.turn(ResumeAsked(Scope(agent_id="a")))
        scene.wait(1)
    views = story(scene, "a1").overtaken
    assert sum(each.count for each in views) == pauses
    assert {each.rule: each.count for each in views}[Rule.PAUSE] == known


def test_who_waits_for_a_full_compartment_is_passed_by_that_rule() -> None:
    scene = house(slots=2)
    comes(scene, "a1", criticality=Criticality.BATCH)
    comes(scene, "a2", criticality=Criticality.BATCH)
    scene.ends("running", agent="x")
    comes(scene, "b1", "b")
    assert overtaken(scene, "a2") == {Rule.BULKHEAD: ["b1"]}


def test_another_model_passes_by_placement() -> None:
    scene = house()
    comes(scene, "a1")  # so that m is not left
    comes(scene, "n1", of_model="n")
    comes(scene, "a2")
    scene.order()
    assert overtaken(scene, "n1") == {Rule.PLACEMENT: ["a2"]}


def test_a_smaller_context_passes_by_placement_too() -> None:
    scene = house()
    comes(scene, "a1")
    comes(scene, "large", num_ctx_needed=10_000)
    comes(scene, "b1", "b")
    scene.order()
    assert overtaken(scene, "large") == {Rule.CONTEXT: ["b1"]}


def test_an_agents_own_more_urgent_one_passes_by_its_own_order() -> None:
    scene = house(queue=QueuePolicy(agent_order=AgentOrder.DEADLINE))
    comes(scene, "a1", deadline_ns=50 * MINUTE_NS)
    comes(scene, "a2", deadline_ns=20 * MINUTE_NS)
    scene.order()
    assert overtaken(scene, "a1") == {Rule.OWN_ORDER: ["a2"]}


def test_who_passed_after_it_had_started_or_ended_is_not_counted() -> None:
    scene = house()
    comes(scene, "a1", priority=6)
    comes(scene, "a2", priority=6)
    scene.turn(CancelAsked(("a", "a2"), CancelCause.BY_AGENT))
    scene.end_one()
    comes(scene, "b1", "b", priority=1)
    scene.order()
    assert overtaken(scene, "a1") == overtaken(scene, "a2") == {}


def test_many_that_passed_are_counted_and_the_last_few_named() -> None:
    scene = house()
    comes(scene, "a1", priority=9)
    for number in range(9):
        comes(scene, f"b{number}", "b")
    scene.order()
    [view] = story(scene, "a1").overtaken
    assert (view.rule, view.count) == (Rule.PRIORITY, 9)
    assert [key[1] for key in view.examples] == ["b6", "b7", "b8"]
    assert len(view.examples) == EXAMPLES_MAX


def test_who_waited_through_more_starts_than_are_remembered_hears_that_some_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "STARTS_MAX", 5)
    scene = house()
    comes(scene, "a1", priority=9)
    for number in range(7):
        comes(scene, f"b{number}", "b")
        scene.end_one()
        assert story(scene, "a1").is_complete is (number < 5)
    [view] = story(scene, "a1").overtaken
    assert (view.rule, view.count) == (Rule.PRIORITY, 5)
