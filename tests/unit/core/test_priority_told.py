"""Whoever listens is told what operators have changed for whom, and when that is over."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy
from broker.core.effects import Effect, TellPriority
from broker.core.stimuli import BlockAsked, BoostAsked, PauseAsked, ResumeAsked, Scope
from tests.unit.core.gate_words import kind
from tests.unit.core.scene import MINUTE_NS, Scene, model, of, serving

ONE, TYPE, ALL = Scope(agent_id="a"), Scope(agent_type="any"), Scope()
SCOPES = pytest.mark.parametrize("scope", [ONE, TYPE, ALL], ids=["one", "type", "everybody"])


def told(effects: list[Effect]) -> list[TellPriority]:
    return of(effects, TellPriority)


def plain(scope: Scope) -> TellPriority:
    """Nothing is changed for these."""
    return TellPriority(
        scope=scope,
        weight_factor=1.0,
        rate_factor=1.0,
        priority_best=0,
        is_blocked=False,
        is_paused=False,
    )


def house() -> Scene:
    return serving(model("m"))


@SCOPES
def test_a_boost_is_told_with_its_factors_and_when_it_runs_out(scope: Scope) -> None:
    scene = house()
    until_ns = scene.now_ns + MINUTE_NS
    asked = BoostAsked(
        scope=scope, weight_factor=3.0, rate_factor=2.0, priority_best=1, until_ns=until_ns
    )
    [boost] = told(scene.turn(asked))
    assert (boost.scope, boost.weight_factor, boost.rate_factor) == (scope, 3.0, 2.0)
    assert (boost.priority_best, boost.is_blocked, boost.is_paused) == (1, False, False)
    assert told(scene.wait(MINUTE_NS - 1)) == []
    assert told(scene.wait(1)) == [plain(scope)]


def test_what_still_holds_when_one_change_runs_out_is_told_with_it() -> None:
    scene = house()
    scene.turn(BlockAsked(scope=ONE))
    [paused] = told(scene.turn(PauseAsked(scope=ONE, until_ns=scene.now_ns + MINUTE_NS)))
    assert (paused.is_blocked, paused.is_paused) == (True, True)
    [later] = told(scene.wait(MINUTE_NS))
    assert (later.is_blocked, later.is_paused) == (True, False)


@SCOPES
def test_a_resume_is_told_once_and_only_where_something_was_changed(scope: Scope) -> None:
    scene = house()
    assert told(scene.turn(ResumeAsked(scope))) == []
    scene.turn(PauseAsked(scope=scope))
    assert told(scene.turn(ResumeAsked(scope))) == [plain(scope)]
    assert told(scene.turn(ResumeAsked(scope))) == []


def test_telling_leaves_nothing_behind_for_scopes_that_are_as_usual() -> None:
    scene = house()
    scene.turn(BoostAsked(scope=ONE, weight_factor=1.0))
    assert scene.engine.agents.changed(ONE).is_void
    assert scene.engine.agents.concerned(ALL) == len(scene.engine.agents)


def test_a_reload_that_takes_a_type_away_tells_that_nothing_is_changed_for_it() -> None:
    """Its ends are over as well: the clock has no more to say of it."""
    kinds = (kind("t", "t*"), kind("any", "any*"))
    agents = AgentsPolicy(types=kinds, default_type="any")
    scene = serving(model("m"), agents=agents, first_agent="any")
    gone, stays = Scope(agent_type="t"), Scope(agent_type="any")
    scene.turn(BoostAsked(scope=gone, weight_factor=2.0, until_ns=scene.now_ns + MINUTE_NS))
    scene.turn(BlockAsked(scope=stays))
    effects = scene.reload(agents=AgentsPolicy(types=kinds[1:], default_type="any"))
    assert told(effects) == [plain(gone)]
    assert told(scene.wait(2 * MINUTE_NS)) == []
    assert scene.engine.agents.changed(stays).is_blocked
