"""Who is set aside for urgent work, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy
from broker.core.level import Level
from broker.core.preemption import PreemptionPolicy
from broker.core.preemptions import LOOK_NS
from broker.core.requests import OnInterruption
from broker.core.stimuli import (
    AttemptEnded,
    BackendDrainAsked,
    DrainAsked,
    LevelAsked,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
)
from tests.unit.core.preemption_scene import (
    GRACE_NS,
    POLICY,
    busy,
    closed,
    come,
    scene_of,
    set_aside,
    stream,
)
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, cancel, started, switches

LATER_NS = 1_500_000_000  # nothing else is due then
NO_SHARE = replace(POLICY, share_max=0.0)


# Who has others set aside


@pytest.mark.parametrize(("priority", "is_urgent"), [(1, True), (2, True), (3, False), (5, False)])
def test_only_urgent_work_has_others_set_aside(priority: int, is_urgent: bool) -> None:
    scene = busy()
    assert set_aside(scene, come(scene, "new", priority)) == (["low"] if is_urgent else [])


def test_what_is_urgent_is_configured() -> None:
    scene = busy(replace(POLICY, urgent_worst=4, victim_best=5))
    assert set_aside(scene, come(scene, "new", 4)) == ["low"]


def test_nobody_is_set_aside_while_a_slot_is_free_elsewhere() -> None:
    scene = scene_of(backends=2)
    come(scene, "low", 9)
    scene.wait(5 * SECOND_NS)
    effects = come(scene, "new", 1)
    assert started(effects) == ["new"]
    assert set_aside(scene, effects) == []


def test_as_many_are_set_aside_as_urgent_ones_wait_and_each_counts_once() -> None:
    scene = scene_of(slots=3)
    for number in range(3):
        come(scene, f"low{number}", 9)
    scene.wait(5 * SECOND_NS)
    assert len(set_aside(scene, come(scene, "u1", 1))) == 1
    assert set_aside(scene, scene.wait(SECOND_NS)) == [], "its slot is on the way"
    assert len(set_aside(scene, come(scene, "u2", 1))) == 1


def test_a_paused_agent_has_nobody_set_aside_until_it_is_resumed() -> None:
    scene = busy()
    scope = Scope(agent_id="b")
    scene.turn(PauseAsked(scope=scope))
    assert set_aside(scene, come(scene, "new", 1, agent="b")) == []
    scene.wait(LATER_NS)
    assert set_aside(scene, scene.turn(ResumeAsked(scope))) == ["low"]


def test_a_full_bulkhead_lets_as_many_be_set_aside_as_it_has_room_for() -> None:
    types = (
        AgentTypePolicy(name="few", match=("few*",)),
        AgentTypePolicy(name="rest", match=("*",)),
    )
    agents = AgentsPolicy(types=types, default_type="rest", bulkheads={"few": 1})
    scene = scene_of(slots=3, agents=agents)
    for number in range(3):
        come(scene, f"low{number}", 9)
    scene.wait(5 * SECOND_NS)
    assert len(set_aside(scene, come(scene, "u1", 1, agent="few1"))) == 1
    assert set_aside(scene, come(scene, "u2", 1, agent="few2")) == [], "one of them may run"
    assert len(set_aside(scene, come(scene, "u3", 1, agent="other"))) == 1


def test_what_the_level_holds_back_has_nobody_set_aside() -> None:
    scene, scope = busy(), Scope(agent_id="b")
    policy = scene.engine.policy
    only_tiny = replace(policy.degradation, small_model_bytes_max=1)
    scene.turn(PolicyChanged(replace(policy, degradation=only_tiny)))
    scene.turn(PauseAsked(scope=scope))
    come(scene, "new", 1, agent="b")
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    scene.wait(LATER_NS)
    assert set_aside(scene, scene.turn(ResumeAsked(scope))) == []
    scene.wait(LATER_NS)
    assert set_aside(scene, scene.turn(LevelAsked(level=Level.NORMAL))) == ["low"]


def test_while_the_broker_leaves_nobody_is_set_aside() -> None:
    scene, scope = busy(), Scope(agent_id="b")
    scene.turn(PauseAsked(scope=scope))
    come(scene, "new", 1, agent="b")
    scene.turn(DrainAsked(scene.now_ns + MINUTE_NS))
    scene.wait(LATER_NS)
    assert set_aside(scene, scene.turn(ResumeAsked(scope))) == []


def test_a_backend_that_gets_nothing_more_is_not_made_room_on() -> None:
    scene = busy()
    scene.turn(BackendDrainAsked("b1", is_draining=True))
    assert set_aside(scene, come(scene, "new", 1)) == []


# Who is set aside


def test_only_what_its_owner_marked_is_set_aside() -> None:
    scene = scene_of()
    come(scene, "low", 9, is_preemptible=False)
    scene.wait(5 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1)) == []


@pytest.mark.parametrize(("priority", "may_be"), [(2, False), (3, True), (5, True)])
def test_what_is_marked_is_set_aside_at_no_better_priority_than_may_be(
    priority: int, *, may_be: bool
) -> None:
    scene = scene_of()
    come(scene, "marked", priority, is_preemptible=True)
    scene.wait(5 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1)) == (["marked"] if may_be else [])


def test_of_the_worst_priority_what_has_run_least_is_set_aside_first() -> None:
    scene = scene_of(slots=4)
    for name, priority in (("old9", 9), ("new9", 9), ("old8", 8), ("new8", 8)):
        come(scene, name, priority)
        scene.wait(5 * SECOND_NS)
    order = [name for n in range(4) for name in set_aside(scene, come(scene, f"u{n}", 1))]
    assert order == ["new9", "old9", "new8", "old8"]


def test_what_goes_on_from_its_text_has_least_to_lose() -> None:
    scene = scene_of(slots=2)
    come(scene, "long", 9, on_interruption=OnInterruption.CONTINUE)
    scene.wait(SECOND_NS)
    stream(scene, "long")
    scene.wait(60 * SECOND_NS)
    come(scene, "short", 9)
    scene.wait(5 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1)) == ["long"]


def test_what_probably_ends_in_a_moment_is_waited_for() -> None:
    scene = scene_of()
    scene.measured(6 * SECOND_NS)
    come(scene, "low", 9)
    scene.wait(5_500_000_000)
    assert set_aside(scene, come(scene, "new", 1)) == []
    # It lasts longer than such work does, and now probably as long again as it is beyond that.
    assert set_aside(scene, scene.wait(3 * SECOND_NS)) == ["low"]


def test_what_has_the_better_part_behind_it_stays_where_a_slot_comes_soon() -> None:
    scene = scene_of(slots=2)
    scene.measured(10 * SECOND_NS)
    come(scene, "ends", 5)
    scene.wait(3_500_000_000)
    come(scene, "low", 9)
    scene.wait(6 * SECOND_NS)
    assert set_aside(scene, come(scene, "u1", 1)) == [], "one slot comes soon"
    assert set_aside(scene, come(scene, "u2", 1)) == ["low"], "but one slot only"


def test_what_has_hardly_begun_is_set_aside_though_a_slot_comes_soon() -> None:
    scene = scene_of(slots=2)
    scene.measured(10 * SECOND_NS)
    come(scene, "ends", 5)
    scene.wait(8 * SECOND_NS)
    come(scene, "low", 9)
    scene.wait(1_500_000_000)
    assert set_aside(scene, come(scene, "u1", 1)) == ["low"]


def test_a_slot_that_is_about_to_come_back_needs_nobody_to_be_set_aside() -> None:
    scene = scene_of(slots=2)
    come(scene, "gone", 5)
    come(scene, "low", 9)
    scene.wait(5 * SECOND_NS)
    scene.turn(cancel("gone"))
    assert set_aside(scene, come(scene, "new", 1)) == []


# How often, and at which cost


def test_nothing_is_set_aside_more_often_than_may_be() -> None:
    scene = busy(replace(POLICY, preemptions_max=2))
    for number in range(2):
        assert set_aside(scene, come(scene, f"u{number}", 1)) == ["low"]
        closed(scene, "low")
        assert started(scene.wait(GRACE_NS)) == [f"u{number}"]
        scene.wait(5 * SECOND_NS)
        assert started(scene.ends(f"u{number}")) == ["low"]
        scene.wait(5 * SECOND_NS)
    assert set_aside(scene, come(scene, "u2", 1)) == []
    assert set_aside(scene, scene.wait(MINUTE_NS)) == []


@pytest.mark.parametrize("policy", [replace(POLICY, preemptions_max=0), NO_SHARE])
def test_nothing_is_set_aside_where_the_operator_does_not_want_it(
    policy: PreemptionPolicy,
) -> None:
    scene = busy(policy)
    assert set_aside(scene, come(scene, "new", 1)) == []


def test_no_more_time_of_slots_is_wasted_than_the_share_gives() -> None:
    """10 s are saved up, which is what a tenth of a window of 100 s gives."""
    scene = busy(replace(POLICY, window_ns=100 * SECOND_NS), ran_ns=11 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1)) == []
    scene = busy(replace(POLICY, window_ns=100 * SECOND_NS), ran_ns=9 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1)) == ["low"]


def test_what_was_spent_is_earned_again_by_time() -> None:
    policy = replace(POLICY, window_ns=100 * SECOND_NS, preemptions_max=9)
    scene = busy(policy, ran_ns=6 * SECOND_NS)
    assert set_aside(scene, come(scene, "u1", 1)) == ["low"]
    closed(scene, "low")
    scene.wait(SECOND_NS)
    scene.ends("u1")
    scene.wait(6 * SECOND_NS)
    assert set_aside(scene, come(scene, "u2", 1)) == [], "4 s are left, and it has run for 6 s"
    scene.turn(cancel("u2"))
    scene.ends("low")
    scene.wait(100 * SECOND_NS)
    come(scene, "later", 9)
    scene.wait(6 * SECOND_NS)
    assert set_aside(scene, come(scene, "u3", 1)) == ["later"]


def test_what_came_to_an_end_of_its_own_meanwhile_was_not_wasted() -> None:
    policy = replace(POLICY, window_ns=100 * SECOND_NS)
    scene = busy(policy, ran_ns=9 * SECOND_NS)
    before = scene.engine.preemptions.left_ns(scene.now_ns)
    assert set_aside(scene, come(scene, "new", 1)) == ["low"]
    assert scene.engine.preemptions.left_ns(scene.now_ns) < before
    assert started(scene.turn(AttemptEnded(scene.attempt("low")))) == ["new"]
    assert scene.engine.preemptions.left_ns(scene.now_ns) == before
    assert (scene.engine.preemptions.count, scene.engine.preemptions.wasted_ns) == (0, 0)


def test_a_reload_changes_what_may_be_set_aside() -> None:
    scene = busy(replace(POLICY, preemptions_max=0))
    come(scene, "new", 1)
    changed = PolicyChanged(replace(scene.engine.policy, preemption=POLICY))
    assert set_aside(scene, scene.turn(changed)) == ["low"]


# A drain


def draining(*lows: tuple[str, int, bool], slots: int = 2) -> Scene:
    """Its model "m" drains for the sake of "n"; each of these has run for some seconds."""
    scene = scene_of(slots=slots)
    for name, priority, is_preemptible in lows:
        come(scene, name, priority, is_preemptible=is_preemptible)
    scene.wait(5 * SECOND_NS)
    come(scene, "other", 5, model="n")
    return scene


def test_a_drain_that_urgent_work_waits_for_is_cut_short() -> None:
    scene = draining(("low", 9, True), slots=8)
    assert set_aside(scene, come(scene, "new", 1, model="n")) == ["low"]
    closed(scene, "low")
    assert switches(scene.wait(GRACE_NS)) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_a_drain_that_nothing_urgent_waits_for_takes_its_time() -> None:
    scene = draining(("low", 9, True), slots=8)
    assert set_aside(scene, come(scene, "new", 3, model="n")) == []


def test_a_drain_is_not_cut_short_in_vain() -> None:
    """Beside what stays for as long, as far as is known, nothing is won."""
    scene = draining(("low", 9, True), ("stays", 5, False), slots=8)
    assert set_aside(scene, come(scene, "new", 1, model="n")) == []
    assert set_aside(scene, scene.ends("stays")) == ["low"]


def test_a_drain_is_cut_short_as_a_whole_or_not_at_all() -> None:
    short = replace(POLICY, window_ns=50 * SECOND_NS)
    scene = scene_of(short, slots=8)
    come(scene, "low1", 9)
    come(scene, "low2", 9)
    scene.wait(5 * SECOND_NS)
    paid = scene.engine.preemptions.left_ns(scene.now_ns)
    assert paid > 10 * SECOND_NS
    assert len(set_aside(scene, come(scene, "new", 1, model="n"))) == 2
    scene = scene_of(replace(short, window_ns=10 * SECOND_NS), slots=8)
    come(scene, "low1", 9)
    come(scene, "low2", 9)
    scene.wait(5 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1, model="n")) == [], "8 s are there of 10"


# The policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"preemptions_max": -1},
        {"share_max": 1.1},
        {"window_ns": 0},
        {"soon_ns": -1},
        {"urgent_worst": 3, "victim_best": 3},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        PreemptionPolicy(**wrong)


def test_where_nothing_is_waited_for_it_is_looked_again_in_a_while_and_not_at_once() -> None:
    """What is just about to end is so at this moment only: it is no reason to look for ever."""
    scene = scene_of(PreemptionPolicy(soon_ns=0))
    scene.measured(SECOND_NS)
    come(scene, "low", 9)
    [attempt] = scene.engine.attempts.values()
    scene.wait(attempt.record.service_ns)
    assert set_aside(scene, come(scene, "new", 1)) == []
    assert set_aside(scene, scene.wait(LOOK_NS)) == ["low"]
