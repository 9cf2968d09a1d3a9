"""What operators do while the broker runs: boost, block, pause, resume; one, a type, everybody."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy
from broker.core.effects import TellPriority, TellQueued
from broker.core.errors import AgentBlocked, Cancelled
from broker.core.requests import Outcome
from broker.core.stimuli import (
    BlockAsked,
    BoostAsked,
    PauseAsked,
    ResumeAsked,
    Scope,
    Stimulus,
)
from broker.core.views import AgentView
from tests.unit.core.gate_words import ended_with, is_let_in, kind, refused
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    nothing_remains,
    of,
    serving,
    started,
    switches,
    told,
)

ONE, TYPE, ALL = Scope(agent_id="opus-1"), Scope(agent_type="opus"), Scope()
SCOPES = pytest.mark.parametrize("scope", [ONE, TYPE, ALL], ids=["one", "type", "everybody"])

TYPES = (
    kind("opus", "opus-*", per_minute=10, priority_best=3, weight=2),
    kind("any", "*"),
)


def house(*, slots: int = 1) -> Scene:
    agents = AgentsPolicy(types=TYPES)
    return serving(model("m", slots=slots), model("n"), agents=agents, first_agent="x")


def later(scene: Scene) -> int:
    return scene.now_ns + 60 * MINUTE_NS


def comes(scene: Scene, name: str, agent: str = "opus-1", priority: int = 5) -> bool:
    word = arrived(name, agent=agent, priority=priority, deadline_ns=later(scene))
    return is_let_in(scene.turn(word))


def view(scene: Scene, agent: str = "opus-1") -> AgentView:
    [found] = [each for each in scene.engine.agents.views(scene.now_ns) if each.agent_id == agent]
    return found


# Pause


@SCOPES
def test_what_is_paused_may_come_and_waits(scope: Scope) -> None:
    scene = house(slots=9)
    scene.turn(PauseAsked(scope=scope))
    [word] = of(scene.turn(arrived("r", agent="opus-1")), TellQueued)
    assert word.reason.value == "PAUSED"
    assert word.eta_ns is None
    assert view(scene).is_paused
    others = started(scene.turn(arrived("r", agent="x")))
    assert others == ([] if scope == ALL else ["r"])


@SCOPES
def test_resuming_starts_what_waits_at_once(scope: Scope) -> None:
    scene = house(slots=2)
    scene.turn(PauseAsked(scope=scope))
    for name in ("r1", "r2", "r3"):
        comes(scene, name)
    assert started(scene.turn(ResumeAsked(scope))) == ["r1", "r2"]
    assert scene.order() == "r1 r2 r3"
    assert nothing_remains(scene)


@SCOPES
def test_a_pause_ends_by_itself_at_its_end(scope: Scope) -> None:
    scene = house()
    scene.turn(PauseAsked(scope=scope, until_ns=MINUTE_NS))
    comes(scene, "r")
    assert started(scene.wait(MINUTE_NS - 1)) == []
    assert started(scene.wait(1)) == ["r"]
    assert not view(scene).is_paused


@pytest.mark.parametrize("scope", [TYPE, ALL], ids=["type", "everybody"])
def test_agents_that_come_later_are_paused_too(scope: Scope) -> None:
    scene = house()
    scene.turn(PauseAsked(scope=scope))
    assert started(scene.turn(arrived("r", agent="opus-new"))) == []
    assert started(scene.turn(ResumeAsked(scope))) == ["r"]


def test_what_runs_goes_on_while_its_agent_is_paused() -> None:
    scene = house()
    comes(scene, "r")
    scene.turn(PauseAsked(scope=ONE))
    assert finished(scene.ends("r", agent="opus-1")) == [("r", Outcome.COMPLETED)]


def test_everybody_who_waits_hears_of_the_pause_and_of_its_end() -> None:
    scene = house()
    for name in ("r1", "r2", "r3"):
        comes(scene, name)
    words = told(scene.turn(PauseAsked(scope=ONE)))
    assert {(name, reason) for name, _, reason in words} == {("r2", "PAUSED"), ("r3", "PAUSED")}
    words = told(scene.turn(ResumeAsked(ONE)))
    assert {(name, reason) for name, _, reason in words} == {("r2", "SLOT"), ("r3", "SLOT")}


def test_who_waits_hears_nothing_of_changes_that_do_not_hold_it_back() -> None:
    scene = house()
    for name in ("r1", "r2"):
        comes(scene, name)
    scene.wait(2 * SECOND_NS)
    scene.turn(BoostAsked(scope=ALL, weight_factor=2, until_ns=MINUTE_NS))
    scene.turn(BlockAsked(scope=ALL, until_ns=MINUTE_NS))
    assert told(scene.wait(2 * MINUTE_NS)) == []
    scene.turn(PauseAsked(scope=ONE))
    assert told(scene.turn(PauseAsked(scope=ONE, until_ns=30 * MINUTE_NS))) == []


def test_others_pass_who_is_paused() -> None:
    scene = house()
    comes(scene, "running", agent="x")
    comes(scene, "r1")
    comes(scene, "r2", agent="x")
    scene.turn(PauseAsked(scope=ONE))
    assert scene.order() == "running r2"
    assert started(scene.turn(ResumeAsked(ONE))) == ["r1"]


def test_the_paused_may_expire_and_be_cancelled_like_everybody() -> None:
    scene = house()
    scene.turn(PauseAsked(scope=ONE))
    scene.turn(arrived("r", agent="opus-1", deadline_ns=SECOND_NS))
    assert finished(scene.wait(SECOND_NS)) == [("r", Outcome.EXPIRED)]
    assert nothing_remains(scene)


def test_no_model_is_loaded_for_who_is_paused() -> None:
    scene = house()
    scene.turn(PauseAsked(scope=ONE))
    assert switches(scene.turn(arrived("r", agent="opus-1", model="n"))) == []
    assert switches(scene.turn(ResumeAsked(ONE))) == ["unload m on b1"]


def test_two_pauses_of_one_agent_must_both_end() -> None:
    scene = house()
    scene.turn(PauseAsked(scope=ONE))
    scene.turn(PauseAsked(scope=TYPE, until_ns=MINUTE_NS))
    comes(scene, "r")
    assert started(scene.turn(ResumeAsked(ONE))) == []
    assert started(scene.wait(MINUTE_NS)) == ["r"]


@pytest.mark.parametrize(("second_ns", "ends_at_ns"), [(3 * MINUTE_NS, 3), (MINUTE_NS, 1)])
def test_the_last_word_on_when_a_pause_ends_counts(second_ns: int, ends_at_ns: int) -> None:
    scene = house()
    scene.turn(PauseAsked(scope=ONE, until_ns=2 * MINUTE_NS))
    scene.turn(PauseAsked(scope=ONE, until_ns=second_ns))
    comes(scene, "r")
    assert started(scene.wait(ends_at_ns * MINUTE_NS - 1)) == []
    assert started(scene.wait(1)) == ["r"]


def test_a_pause_without_an_end_outlives_one_with_an_end_before_it() -> None:
    scene = house()
    scene.turn(PauseAsked(scope=ONE, until_ns=MINUTE_NS))
    scene.turn(PauseAsked(scope=ONE))
    comes(scene, "r")
    assert started(scene.wait(30 * MINUTE_NS)) == []


def test_who_returns_from_a_pause_has_no_claim_on_the_time_it_did_not_use() -> None:
    scene = house()
    scene.measured(agent="x", output_tokens=10)
    for agent in ("a", "b"):
        for number in range(60):
            comes(scene, f"r{number}", agent=agent)
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    for _ in range(30):
        scene.end_one(output_tokens=10)
    scene.turn(ResumeAsked(Scope(agent_id="a")))
    shares = [scene.end_one(output_tokens=10)[0] for _ in range(20)]
    assert abs(shares.count("a") - shares.count("b")) <= 2


# Block


@SCOPES
def test_new_requests_of_the_blocked_are_refused(scope: Scope) -> None:
    scene = house()
    scene.turn(BlockAsked(scope=scope))
    error = refused(scene.turn(arrived("r", agent="opus-1")))
    assert isinstance(error, AgentBlocked)
    whom = (scope.agent_type and f"agents of type {scope.agent_type}") or "everybody"
    assert error.message == f"an operator blocked {'agent opus-1' if scope.agent_id else whom}"
    assert not error.retryable
    assert view(scene).is_blocked
    assert view(scene).requests_left == 10
    assert comes(scene, "r", agent="x") == (scope != ALL)


@SCOPES
def test_a_block_ends_by_itself_or_when_resumed(scope: Scope) -> None:
    scene = house()
    scene.turn(BlockAsked(scope=scope, until_ns=MINUTE_NS))
    scene.wait(MINUTE_NS - 1)
    assert not comes(scene, "r1")
    scene.wait(1)
    assert comes(scene, "r1")
    scene.turn(BlockAsked(scope=scope))
    assert not comes(scene, "r2")
    scene.turn(ResumeAsked(scope))
    assert comes(scene, "r2")


def test_agents_of_a_blocked_type_that_come_later_are_refused_too() -> None:
    scene = house()
    scene.turn(BlockAsked(scope=TYPE))
    assert not comes(scene, "r", agent="opus-new")


def test_what_the_blocked_have_under_way_goes_on_unless_it_is_to_be_cancelled() -> None:
    scene = house()
    for name in ("r1", "r2", "r3"):
        comes(scene, name)
    assert [type(each) for each in scene.turn(BlockAsked(scope=ONE))] == [TellPriority]
    effects = scene.turn(BlockAsked(scope=ONE, cancels_waiting=True))
    assert finished(effects) == [("r2", Outcome.CANCELLED), ("r3", Outcome.CANCELLED)]
    error = ended_with(effects, "r2")[1]
    assert isinstance(error, Cancelled)
    assert error.message == "an operator blocked its agent"
    assert finished(scene.ends("r1", agent="opus-1")) == [("r1", Outcome.COMPLETED)]
    assert nothing_remains(scene)


def test_blocking_a_type_cancels_what_waits_of_it_and_of_no_other() -> None:
    scene = house()
    comes(scene, "running", agent="x")
    for agent in ("opus-1", "opus-2", "x"):
        comes(scene, f"of {agent}", agent=agent)
    scene.turn(BlockAsked(scope=TYPE, cancels_waiting=True))
    assert scene.order() == "running of x"


def test_the_blocked_may_take_over_what_is_under_way() -> None:
    """Its client lost the connection; what was let in goes on."""
    scene = house()
    comes(scene, "r")
    scene.turn(BlockAsked(scope=ONE))
    assert is_let_in(scene.turn(arrived("r", agent="opus-1")))


# Boost


@SCOPES
def test_a_boost_multiplies_weight_and_rates_and_lifts_the_ceiling_until_it_ends(
    scope: Scope,
) -> None:
    scene = house()
    comes(scene, "r1")
    boost = BoostAsked(
        scope=scope, weight_factor=3, rate_factor=2, priority_best=1, until_ns=MINUTE_NS
    )
    scene.turn(boost)
    seen = view(scene)
    assert (seen.weight, seen.priority_best, seen.is_boosted) == (6, 1, True)
    assert seen.requests_left == 9  # what comes from now on comes faster
    scene.wait(15 * SECOND_NS)
    assert view(scene).requests_left == 9 + 5
    comes(scene, "r2", priority=1)
    assert scene.engine.records["opus-1", "r2"].priority == 1
    scene.wait(45 * SECOND_NS)
    seen = view(scene)
    assert (seen.weight, seen.priority_best, seen.is_boosted) == (2, 3, False)
    assert seen.requests_left == 10
    comes(scene, "r3", priority=1)
    assert scene.engine.records["opus-1", "r3"].priority == 3


def test_boosts_of_several_scopes_multiply_and_the_narrowest_ceiling_counts() -> None:
    scene = house()
    scene.turn(BoostAsked(scope=ALL, weight_factor=2, priority_best=9))
    scene.turn(BoostAsked(scope=TYPE, weight_factor=3, priority_best=7))
    scene.turn(BoostAsked(scope=ONE, weight_factor=5))
    comes(scene, "r")
    assert (view(scene).weight, view(scene).priority_best) == (2 * 30, 7)


def test_a_boost_asked_again_takes_the_place_of_the_one_before() -> None:
    scene = house()
    comes(scene, "r")
    scene.turn(BoostAsked(scope=ONE, weight_factor=3, priority_best=1))
    scene.turn(BoostAsked(scope=ONE, rate_factor=2))
    assert (view(scene).weight, view(scene).priority_best) == (2, 3)


def test_a_boost_that_changes_nothing_is_no_boost() -> None:
    scene = house()
    comes(scene, "r")
    scene.turn(BoostAsked(scope=ONE, until_ns=MINUTE_NS))
    assert not view(scene).is_boosted
    scene.wait(2 * MINUTE_NS)
    assert not view(scene).is_boosted


def test_the_shares_of_what_waits_follow_a_boost_at_once() -> None:
    scene = house()
    scene.measured(agent="x", output_tokens=10)
    for agent in ("a", "b"):
        for number in range(60):
            comes(scene, f"r{number}", agent=agent)
    scene.turn(BoostAsked(scope=Scope(agent_id="a"), weight_factor=3))
    shares = [scene.end_one(output_tokens=10)[0] for _ in range(40)]
    assert shares.count("a") == pytest.approx(30, abs=2)


# Resume


def test_resuming_ends_what_was_asked_for_with_this_very_scope_and_nothing_else() -> None:
    scene = house()
    comes(scene, "r")
    asked: tuple[Stimulus, ...] = (
        BoostAsked(scope=ONE, weight_factor=9, until_ns=MINUTE_NS),
        BlockAsked(scope=ONE, until_ns=MINUTE_NS),
        PauseAsked(scope=ONE, until_ns=MINUTE_NS),
        BlockAsked(scope=TYPE),
    )
    for each in asked:
        scene.turn(each)
    scene.turn(ResumeAsked(ONE))
    seen = view(scene)
    assert (seen.is_boosted, seen.is_paused, seen.is_blocked) == (False, False, True)
    scene.turn(ResumeAsked(TYPE))
    assert not view(scene).is_blocked
    scene.wait(2 * MINUTE_NS)  # the ends that were planned do nothing any more
    assert not view(scene).is_blocked


def test_a_block_made_anew_after_a_resume_is_not_ended_by_the_old_end() -> None:
    scene = house()
    comes(scene, "r")
    scene.turn(BlockAsked(scope=ONE, until_ns=MINUTE_NS))
    scene.turn(ResumeAsked(ONE))
    scene.turn(BlockAsked(scope=ONE))
    scene.wait(2 * MINUTE_NS)
    assert view(scene).is_blocked


@SCOPES
def test_resuming_where_nothing_was_changed_does_nothing(scope: Scope) -> None:
    assert house().turn(ResumeAsked(scope)) == []


def test_what_operators_changed_outlives_a_reload() -> None:
    scene = house()
    comes(scene, "running", agent="x")
    scene.turn(PauseAsked(scope=TYPE))
    scene.turn(BoostAsked(scope=ONE, weight_factor=5))
    comes(scene, "r")
    scene.reload(agents=AgentsPolicy(types=(kind("opus", "opus-*", weight=3), TYPES[1])))
    assert (view(scene).weight, view(scene).is_paused) == (15, True)
    assert scene.order() == "running"
