"""Who asks: types by glob, ceilings and criticality, how many agents are remembered, and views."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.agents import OVERRIDES_MAX
from broker.core.effects import StartAttempt
from broker.core.errors import AgentNotFound, AgentUnknown, InvalidRequest
from broker.core.requests import Criticality
from broker.core.stimuli import BlockAsked, BoostAsked, PauseAsked, ResumeAsked, Scope
from broker.core.views import QuotaView
from tests.unit.core.gate_words import kind, refused
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    serving,
)

OPUS = kind("opus", "opus-*", per_minute=10, priority_best=2, weight=2)
BATCH = kind("batcher", "batch-*", priority_best=6, may_be_critical=False, compartment="batch")


def house(*types: AgentTypePolicy, default: str = "any", remembered_max: int = 10_000) -> Scene:
    policy = AgentsPolicy(
        types=(*types, kind("any", "any*")),
        default_type=default,
        remembered_max=remembered_max,
        bulkheads={"opus": 10, "critical": 5, "batch": 15},
    )
    return serving(model("m"), agents=policy, first_agent="any")


def quota(scene: Scene, agent: str) -> QuotaView:
    return scene.engine.agents.quota(agent, 7, scene.now_ns)


def start_of(scene: Scene, agent: str, priority: int, criticality: Criticality) -> StartAttempt:
    word = arrived("r", agent=agent, priority=priority, criticality=criticality)
    [start] = of(scene.turn(word), StartAttempt)
    return start


def compartment_of(scene: Scene, agent: str, criticality: Criticality) -> str:
    start_of(scene, agent, 9, criticality)
    return scene.engine.bulkheads.name(scene.engine.records[agent, "r"].compartment)


# Types


@pytest.mark.parametrize(
    ("agent", "type_name"),
    [
        ("opus-1", "opus"),
        ("opus-", "opus"),
        ("opus", "any"),
        ("OPUS-1", "any"),  # ids are told apart by case
        ("batch-x", "batcher"),
        ("xopus-1", "any"),
        ("opus-\n", "opus"),
    ],
)
def test_an_id_is_of_the_type_whose_glob_it_fits_else_of_the_default(
    agent: str, type_name: str
) -> None:
    scene = house(OPUS, BATCH)
    scene.turn(arrived("r", agent=agent))
    assert quota(scene, agent).agent_type == type_name


def test_of_several_types_that_fit_the_first_counts() -> None:
    scene = house(kind("first", "a*"), kind("second", "ab*"))
    assert quota(scene, "abc").agent_type == "first"


def test_without_a_default_an_unknown_id_is_refused_with_the_globs_there_are() -> None:
    scene = house(OPUS, default="")
    error = refused(scene.turn(arrived("r", agent="stranger")))
    assert isinstance(error, AgentUnknown)
    assert [each.field for each in error.problems] == ["agent_id"]
    assert "'stranger' is of no configured type (known: opus-*, any*)" in error.message
    assert scene.engine.agents.find("stranger") is None


# Ceilings


def test_a_priority_above_the_ceiling_is_lowered_and_the_reply_says_so() -> None:
    start = start_of(house(OPUS), "opus-1", 1, Criticality.NORMAL)
    assert start.changes == ("priority is 2 instead of 1, the best for this agent",)


@pytest.mark.parametrize("priority", [2, 10])
def test_a_priority_below_the_ceiling_stays_as_it_is(priority: int) -> None:
    scene = house(OPUS)
    assert start_of(scene, "opus-1", priority, Criticality.NORMAL).changes == ()
    assert scene.engine.records["opus-1", "r"].priority == priority


def test_a_lowered_priority_waits_at_the_lower_one() -> None:
    scene = house(BATCH)
    scene.turn(arrived("running", agent="any"))
    scene.turn(arrived("r1", agent="batch-1", priority=1))
    scene.turn(arrived("r2", agent="any", priority=5))
    assert scene.order() == "running r2 r1"


def test_who_may_not_be_critical_runs_in_its_own_compartment_and_hears_it() -> None:
    scene = house(BATCH)
    start = start_of(scene, "batch-1", 9, Criticality.CRITICAL)
    words = "criticality is normal: agents of type batcher may not be critical"
    assert start.changes == (words,)
    bit = scene.engine.records["batch-1", "r"].compartment
    assert scene.engine.bulkheads.name(bit) == "batch"


def test_both_changes_are_said_together() -> None:
    start = start_of(house(BATCH), "batch-1", 1, Criticality.CRITICAL)
    assert len(start.changes) == 2


@pytest.mark.parametrize(
    ("criticality", "compartment"),
    [
        (Criticality.NORMAL, "opus"),
        (Criticality.CRITICAL, "critical"),
        (Criticality.BATCH, "batch"),
    ],
)
def test_a_request_runs_in_the_compartment_it_names_else_in_that_of_its_type(
    criticality: Criticality, compartment: str
) -> None:
    assert compartment_of(house(OPUS), "opus-1", criticality) == compartment


def test_work_of_a_type_without_a_bulkhead_is_limited_by_none() -> None:
    assert compartment_of(house(OPUS), "any", Criticality.NORMAL) == ""


# Remembered


def meet(scene: Scene, agent: str) -> None:
    """A request of this agent comes, and is refused."""
    scene.engine.handle(arrived("r", agent=agent, deadline_ns=0), scene.now_ns)


def test_ten_thousand_agents_and_more_keep_the_table_at_its_size() -> None:
    scene = house(kind("each", "e*", per_minute=5), remembered_max=10_000)
    for number in range(10_100):
        meet(scene, f"e{number}")
    assert len(scene.engine.agents) == 10_000
    assert scene.engine.agents.find("e99") is None
    assert scene.engine.agents.find("e100") is not None


def test_who_was_not_seen_for_longest_is_forgotten_first() -> None:
    scene = house(remembered_max=3)  # of which one is "any"
    for agent in ("x", "y", "x", "z"):
        meet(scene, agent)
    assert [each.id for each in scene.engine.agents] == ["y", "x", "z"]
    meet(scene, "w")
    assert [each.id for each in scene.engine.agents] == ["x", "z", "w"]


def test_who_has_something_waiting_or_running_is_not_forgotten() -> None:
    scene = house(remembered_max=3)
    scene.turn(arrived("r", agent="running"))
    scene.turn(arrived("r", agent="waiting"))
    for number in range(9):
        meet(scene, f"x{number}")
    assert [each.id for each in scene.engine.agents] == ["running", "waiting", "x8"]


def test_where_all_have_work_more_are_remembered_than_should_be_until_they_are_done() -> None:
    scene = house(remembered_max=2)
    for number in range(5):
        scene.turn(arrived("r", agent=f"x{number}"))
    assert len(scene.engine.agents) == 5
    scene.order()
    meet(scene, "y")
    assert len(scene.engine.agents) == 2


def test_whose_cancelled_work_may_still_run_is_not_forgotten() -> None:
    scene = house(remembered_max=2)
    scene.turn(arrived("r", agent="x"))
    scene.turn(BlockAsked(scope=Scope(agent_id="x"), cancels_waiting=True))
    for number in range(3):
        meet(scene, f"y{number}")
    assert scene.engine.agents.find("x") is not None
    scene.ends("r", agent="x")


def test_who_is_forgotten_comes_again_as_new() -> None:
    scene = house(kind("each", "e*", per_minute=5), remembered_max=2)
    scene.turn(arrived("r", agent="e1"))
    scene.ends("r", agent="e1")
    for agent in ("e2", "e3"):
        meet(scene, agent)
    scene.turn(arrived("r", agent="e1"))
    [view] = [each for each in scene.engine.agents.views(0) if each.agent_id == "e1"]
    assert (view.arrived, view.ended, view.requests_left) == (1, 0, 4)


def test_an_override_outlives_that_its_agent_is_forgotten() -> None:
    scene = house(remembered_max=1)
    meet(scene, "x")
    scene.turn(BlockAsked(scope=Scope(agent_id="x")))
    meet(scene, "y")
    assert scene.engine.agents.find("x") is None
    assert refused(scene.turn(arrived("r", agent="x"))).reason == "AGENT_BLOCKED"
    meet(scene, "y")
    assert scene.engine.agents.concerned(Scope(agent_id="x")) == 0  # known to be changed: no error


# Scopes


def test_an_agent_that_sent_nothing_is_not_found_and_the_nearest_are_named() -> None:
    scene = house()
    for agent in ("opus-17", "opus-71", "sonnet-1", "system"):
        meet(scene, agent)
    with pytest.raises(AgentNotFound) as caught:
        scene.engine.agents.concerned(Scope(agent_id="opus-7"))
    assert set(caught.value.nearest[:2]) == {"opus-17", "opus-71"}
    assert len(caught.value.nearest) == 3
    assert "agent 'opus-7' has sent nothing lately; nearest: opus-" in caught.value.message


def test_the_nearest_are_found_among_thousands() -> None:
    scene = house(kind("each", "w*"))
    for number in range(3_000):
        meet(scene, f"worker-{number:05d}")
    meet(scene, "wroker-opus")
    with pytest.raises(AgentNotFound) as caught:
        scene.engine.agents.concerned(Scope(agent_id="worker-opus"))
    assert caught.value.nearest[0] == "wroker-opus"
    with pytest.raises(AgentNotFound) as caught:
        scene.engine.agents.concerned(Scope(agent_id="worker-1234"))
    assert "worker-01234" in caught.value.nearest


def test_a_scope_concerns_one_agent_those_of_a_type_or_everybody() -> None:
    scene = house(OPUS)
    for agent in ("opus-1", "opus-2", "x"):
        meet(scene, agent)
    agents = scene.engine.agents
    assert agents.concerned(Scope(agent_id="opus-1")) == 1
    assert agents.concerned(Scope(agent_type="opus")) == 2
    assert agents.concerned(Scope()) == 4
    assert agents.concerned(Scope(agent_type="no such type")) == 0


def test_only_so_many_scopes_may_be_changed_at_once() -> None:
    scene = house()
    for number in range(OVERRIDES_MAX):
        scene.engine.handle(PauseAsked(scope=Scope(agent_type=f"t{number}")), 0)
    meet(scene, "x")
    with pytest.raises(InvalidRequest) as caught:
        scene.engine.agents.concerned(Scope(agent_id="x"))
    assert "1000 agents and types are changed already" in caught.value.message
    assert scene.engine.agents.concerned(Scope(agent_type="t1")) == 0
    scene.turn(ResumeAsked(Scope(agent_type="t1")))
    assert scene.engine.agents.concerned(Scope(agent_id="x")) == 1


# Views


def test_a_quota_says_what_holds_what_is_left_and_when_more_comes() -> None:
    scene = house(OPUS)
    for number in range(10):
        scene.turn(arrived(f"r{number}", agent="opus-1"))
    view = quota(scene, "opus-1")
    assert (view.agent_type, view.weight, view.priority_best) == ("opus", 2, 2)
    assert (view.queued, view.queued_max, view.running) == (9, 7, 1)
    assert (view.compartment, view.compartment_running, view.compartment_max) == ("opus", 1, 10)
    [bucket] = view.buckets
    assert (bucket.name, bucket.per_minute, bucket.burst) == ("requests", 10, 10)
    assert (bucket.left, bucket.next_ns) == (0, 6 * SECOND_NS)


def test_a_quota_names_every_bucket_that_is_paid_into_in_their_order() -> None:
    rate = BucketPolicy(per_minute=7)
    each = kind("t", "t*", per_minute=7, tokens=rate, all_requests=rate, all_tokens=rate)
    policy = AgentsPolicy(types=(each,), requests=rate, tokens=rate)
    scene = serving(model("m"), agents=policy, first_agent="t1")
    names = ["requests", "type_requests", "all_requests", "tokens", "type_tokens", "all_tokens"]
    assert [bucket.name for bucket in quota(scene, "t1").buckets] == names
    assert [bucket.name for bucket in quota(scene, "t2").buckets] == names


def test_asking_for_a_quota_is_no_request_and_makes_nobody_known() -> None:
    scene = house(OPUS)
    view = quota(scene, "opus-9")
    assert (view.agent_type, view.weight, view.queued, view.running) == ("opus", 2, 0, 0)
    assert [bucket.left for bucket in view.buckets] == [10]
    assert scene.engine.agents.find("opus-9") is None


def test_the_quota_of_who_was_never_seen_tells_what_operators_changed_for_its_like() -> None:
    scene = house(OPUS)
    scene.turn(
        BoostAsked(scope=Scope(agent_type="opus"), weight_factor=3, rate_factor=2, priority_best=5)
    )
    scene.turn(PauseAsked(scope=Scope()))
    scene.turn(BlockAsked(scope=Scope(agent_id="opus-9")))
    view = quota(scene, "opus-9")
    assert (view.weight, view.priority_best) == (6, 5)
    assert (view.is_paused, view.is_blocked) == (True, True)
    assert [(bucket.per_minute, bucket.left) for bucket in view.buckets] == [(20, 20)]
    refused(scene.turn(arrived("r", agent="opus-9")))
    assert quota(scene, "opus-9") == view


def test_a_quota_of_an_id_of_no_type_is_refused() -> None:
    with pytest.raises(AgentUnknown):
        quota(house(default=""), "stranger")


def test_the_agents_are_listed_by_id_with_what_they_did() -> None:
    scene = house(OPUS)
    scene.turn(arrived("r", agent="opus-1"))
    scene.ends("r", agent="opus-1", prompt_tokens=5, output_tokens=10)
    scene.turn(arrived("r", agent="opus-1"))
    scene.turn(arrived("r", agent="opus-1", content=b"other"))
    scene.turn(arrived("r", agent="b"))
    views = scene.engine.agents.views(scene.now_ns)
    assert [each.agent_id for each in views] == ["any", "b", "opus-1"]
    assert (views[1].queued, views[1].running, views[1].arrived) == (1, 0, 1)
    opus = views[2]
    assert (opus.queued, opus.running, opus.arrived, opus.ended) == (0, 1, 2, 1)
    assert (opus.served_cost, opus.requests_left) == (5 + 2 * 10, 8)
    assert views[1].requests_left is None
