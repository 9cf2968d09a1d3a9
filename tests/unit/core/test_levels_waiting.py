"""What a level does to those who wait: who goes first, who moves to another model and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy
from broker.core.effects import AbortAttempt, Answer, Effect, Finish, TellQueued
from broker.core.errors import BackendUnreachable
from broker.core.level import DegradationPolicy, Level
from broker.core.placement import BackendPolicy
from broker.core.requests import Criticality, Outcome, Substitution
from broker.core.stimuli import Arrived, DrainAsked, LevelAsked, ModelsListed, PauseAsked, Scope
from broker.core.story import Rule, explain
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    finished,
    model,
    of,
    request,
    started,
    switches,
)

POLICY = DegradationPolicy(
    small_model_bytes_max=2_000, small_models=("tinyllama",), has_default_answer=True
)
BIG = model("big", size_bytes=5_000)
SMALL = model("small", size_bytes=1_000)
TWO = BackendPolicy(name="b1", is_local=True, resident_max=2)


def come(scene: LevelScene, name: str, **changed: Any) -> list[Effect]:
    """A request for "small" by an agent of its own, but for what is changed."""
    spec = request(
        name,
        agent=changed.pop("agent", name),
        model=changed.pop("model", "small"),
        priority=changed.pop("priority", 5),
        deadline_ns=scene.now_ns + changed.pop("within_ns", 10 * MINUTE_NS),
    )
    return scene.turn(Arrived(replace(spec, **changed)))


def busy_with(*names: str, backend: BackendPolicy | None = None) -> LevelScene:
    """A scene in which these models are loaded, one slot each, and busy: with "small-0" and so
    on. Their servers have "big" and "small"."""
    backends = (backend,) if backend else ()
    scene = LevelScene(*backends, degradation=POLICY)
    scene.open("b1", BIG, SMALL)
    for name in names:
        come(scene, f"{name}-0", model=name)
        scene.loaded(name)
    return scene


def reason(scene: LevelScene, name: str) -> tuple[str, str]:
    told = explain(scene.engine, (name, name), scene.now_ns)
    return told.wait_reason, told.wait_detail


def ends(scene: LevelScene, name: str) -> list[str]:
    return started(scene.ends(name, agent=name))


# Who goes first


def test_at_the_critical_level_priority_3_and_better_goes_first() -> None:
    scene = busy_with("small")
    come(scene, "five")
    scene.wait(MINUTE_NS)  # its claim is the oldest by far
    come(scene, "three", priority=3)
    scene.ask(Level.CRITICAL)
    assert ends(scene, "small-0") == ["three"]
    assert reason(scene, "five") == (
        "LEVEL",
        "the level to fall: at critical priority 3 and better goes first",
    )
    assert ends(scene, "three") == ["five"]  # the slot would idle


def test_where_memory_is_the_cause_the_others_do_not_run_at_all() -> None:
    scene = busy_with("small")
    come(scene, "five")
    assert scene.memory(0.97) is Level.CRITICAL
    assert scene.memory_level is Level.CRITICAL
    assert ends(scene, "small-0") == []
    assert scene.engine.backlog.let_run() == 0
    come(scene, "one", priority=1)
    scene.ask(Level.NORMAL)
    assert ends(scene, "one") == ["five"]


def test_at_level_2_work_that_is_not_critical_waits_for_the_rest() -> None:
    scene = busy_with("small")
    come(scene, "nine", priority=9)
    come(scene, "batch", priority=1, criticality=Criticality.BATCH)
    come(scene, "seven", priority=7)
    scene.ask(Level.LEVEL_2)
    order = [ends(scene, name) for name in ("small-0", "seven", "batch", "nine")]
    assert order == [["seven"], ["batch"], ["nine"], []]


def test_who_is_held_is_told_so_and_stands_behind_the_others() -> None:
    scene = busy_with("small")
    come(scene, "five")
    come(scene, "two", priority=2)
    come(scene, "six", priority=6)
    scene.ask(Level.CRITICAL)
    told = {
        each.key[1]: (each.position, each.reason.value, each.eta_ns)
        for each in of(scene.wait(2 * SECOND_NS), TellQueued)
    }
    assert told["five"] == (2, "LEVEL", None)
    assert told["six"] == (3, "LEVEL", None)
    newest = of(come(scene, "four", priority=4), TellQueued)[-1]
    assert (newest.position, newest.reason.value) == (4, "LEVEL")


def test_who_overtook_it_by_the_level_is_explained() -> None:
    scene = busy_with("small")
    come(scene, "five")
    scene.ask(Level.CRITICAL)
    scene.wait(MINUTE_NS)
    come(scene, "two", priority=2)
    ends(scene, "small-0")
    [view] = explain(scene.engine, ("five", "five"), scene.now_ns).overtaken
    assert (view.rule, view.examples) == (Rule.LEVEL, (("two", "two"),))


def test_a_small_model_that_overtook_a_large_one_did_so_by_the_level() -> None:
    scene = busy_with("small", backend=TWO)
    come(scene, "b", model="big", substitution=Substitution.NEVER)
    scene.loaded("big")
    come(scene, "c", model="big", substitution=Substitution.NEVER)
    scene.memory(0.85)
    scene.wait(SECOND_NS)
    come(scene, "s")
    assert ends(scene, "small-0") == ["s"]
    [view] = explain(scene.engine, ("c", "c"), scene.now_ns).overtaken
    assert (view.rule, view.examples) == (Rule.LEVEL, (("s", "s"),))


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"priority": 2, "criticality": Criticality.BATCH}, 0.97, "what is not batch work goes"),
        ({"priority": 5}, 0.97, "priority 3 and better goes"),
        ({"priority": 9}, 0.85, "priority 7 and better goes"),
        ({"model": "big", "substitution": Substitution.NEVER}, 0.85, "small models go"),
    ],
)
def test_who_is_barred_or_held_is_told_by_what(
    changed: dict[str, Any], level: float, words: str
) -> None:
    scene = busy_with("small")
    come(scene, "x", **changed)
    scene.memory(level)
    told = reason(scene, "x")
    assert told[0] == "LEVEL"
    assert f"{words} alone" in told[1]
    assert told[1].endswith(", as memory is short")
    scene.ask(scene.level)
    assert f"{words} first" in reason(scene, "x")[1]
    assert "memory" not in reason(scene, "x")[1]


def test_a_full_bulkhead_and_a_pause_hold_at_every_level() -> None:
    scene = busy_with("small")
    types = (AgentTypePolicy(name="gold", match=("g*",)), AgentTypePolicy(name="t", match=("*",)))
    scene.reload(agents=AgentsPolicy(types=types, bulkheads={"gold": 1}))
    scene.ask(Level.CRITICAL)
    scene.turn(PauseAsked(scope=Scope(agent_id="paused")))
    come(scene, "paused", priority=1)
    scene.turn(PauseAsked(scope=Scope(agent_id="paused")))
    come(scene, "five")
    assert ends(scene, "small-0") == ["five"]
    assert reason(scene, "paused")[0] == "PAUSED"


def test_a_deadline_of_what_is_held_passes_and_says_what_it_waited_for() -> None:
    scene = busy_with("small")
    come(scene, "five", within_ns=5 * SECOND_NS)
    scene.memory(0.97)
    [end] = of(scene.wait(5 * SECOND_NS), Finish)
    assert (end.key[1], end.outcome) == ("five", Outcome.EXPIRED)
    assert end.error is not None
    assert "priority 3 and better goes alone, as memory is short" in end.error.message


def test_a_drain_ends_what_is_held_when_its_time_is_over() -> None:
    scene = busy_with("small")
    come(scene, "five")
    scene.memory(0.97)
    ends(scene, "small-0")
    scene.turn(DrainAsked(scene.now_ns + SECOND_NS))
    [end] = of(scene.wait(SECOND_NS), Finish)
    assert (end.key[1], end.outcome) == ("five", Outcome.CANCELLED)
    assert end.error is not None
    assert end.error.message == (
        "the broker stopped before this was complete; it waited for the level to fall: "
        "at critical priority 3 and better goes alone, as memory is short"
    )


def test_the_same_request_again_takes_over_what_is_held() -> None:
    scene = busy_with("small")
    come(scene, "nine", priority=9)
    scene.ask(Level.LEVEL_2)
    effects = come(scene, "nine", priority=9)
    assert [type(each).__name__ for each in effects][:2] == ["TakeOver", "TellQueued"]
    assert of(effects, TellQueued)[0].reason.value == "LEVEL"


@pytest.mark.parametrize("level", list(Level))
def test_what_runs_is_never_touched(level: Level) -> None:
    scene = busy_with("big")
    effects = scene.turn(Arrived(request("x", model="small", agent="x")))
    effects += scene.keep(scene.wait(0))
    scene.ask(level)
    assert not of(effects, AbortAttempt)
    assert "big-0" in {each.record.spec.key[1] for each in scene.engine.attempts.values()}


# Which model


def test_what_waits_for_a_large_model_moves_to_a_small_one_and_says_so() -> None:
    scene = busy_with("big", "small", backend=TWO)
    come(scene, "b", model="big")
    scene.ask(Level.LEVEL_2)
    assert scene.engine.records["b", "b"].line == ("blob-small", 0)
    assert "small:latest instead of big" in explain(scene.engine, ("b", "b"), 0).changes[0]
    assert ends(scene, "small-0") == ["b"]
    attempt = scene.engine.attempts[scene.attempt("b", "b")]
    assert attempt.record.substituted_for == "big"


def test_it_moves_back_when_the_level_falls_before_it_started() -> None:
    scene = busy_with("big", "small", backend=TWO)
    come(scene, "b", model="big")
    for level in (Level.LEVEL_2, Level.CRITICAL, Level.LEVEL_1):
        scene.ask(level)
    record = scene.engine.records["b", "b"]
    assert (record.line, record.substituted_for, record.is_for_level) == (
        ("blob-big", 0),
        "",
        False,
    )
    assert ends(scene, "big-0") == ["b"]


def test_a_newcomer_with_a_small_model_moves_to_what_it_asked_for_when_the_level_falls() -> None:
    scene = busy_with("big", "small", backend=TWO)
    scene.ask(Level.LEVEL_2)
    come(scene, "b", model="big")
    scene.ask(Level.LEVEL_1)
    assert ends(scene, "big-0") == ["b"]


def test_what_may_have_no_other_model_is_held_and_not_lost() -> None:
    scene = busy_with("big", "small", backend=TWO)
    come(scene, "b", model="big", substitution=Substitution.NEVER)
    come(scene, "s")
    scene.ask(Level.LEVEL_2)
    assert reason(scene, "b") == (
        "LEVEL",
        "the level to fall: at level 2 small models go first, not big:latest",
    )
    assert ends(scene, "big-0") == ["b"]  # no memory is short: a slot that would idle


def test_what_is_held_gets_no_model_where_memory_is_the_cause_and_keeps_none() -> None:
    scene = busy_with("big")
    come(scene, "b", model="big", substitution=Substitution.NEVER)
    come(scene, "s", priority=1)
    assert scene.memory(0.97) is Level.CRITICAL
    effects = scene.ends("big-0", agent="big-0")
    assert (started(effects), switches(effects)) == ([], ["unload big on b1"])
    assert switches(scene.unloaded("big")) == ["load small on b1"]
    assert started(scene.loaded("small")) == ["s"]
    effects = scene.ends("s", agent="s")
    assert (started(effects), switches(effects)) == ([], [])
    assert switches(scene.keep(scene.turn(LevelAsked(level=Level.NORMAL)))) == [
        "unload small on b1"
    ]


def test_held_work_loads_its_model_only_where_nothing_that_goes_first_wants_the_backend() -> None:
    scene = busy_with("small")
    come(scene, "s", priority=2)
    come(scene, "b", model="big", substitution=Substitution.NEVER, priority=1)
    scene.ask(Level.CRITICAL)
    assert ends(scene, "small-0") == ["s"]
    effects = scene.ends("s", agent="s")
    assert switches(effects) == ["unload small on b1"]  # nobody else wants it now


def test_held_work_does_not_keep_a_model_from_making_room_for_what_goes_first() -> None:
    scene = busy_with("small")
    other = model("other", size_bytes=1_000)
    scene.turn(ModelsListed("b1", (BIG, SMALL, other)))
    come(scene, "five")
    come(scene, "two", model="other", priority=2)
    scene.ask(Level.CRITICAL)
    effects = scene.ends("small-0", agent="small-0")
    assert (started(effects), switches(effects)) == ([], ["unload small on b1"])


def test_a_requeued_request_gets_what_the_level_of_now_offers() -> None:
    scene = busy_with("small", backend=TWO)
    come(scene, "b", model="big")
    scene.loaded("big")
    scene.ask(Level.LEVEL_2)
    scene.ends("b", BackendUnreachable("refused"), agent="b")
    scene.up("b1")
    assert scene.engine.records["b", "b"].line == ("blob-small", 0)


def test_a_small_model_that_is_deleted_leaves_its_requests_to_what_they_asked_for() -> None:
    scene = busy_with("big", "small", backend=TWO)
    come(scene, "b", model="big")
    scene.ask(Level.LEVEL_2)
    effects = scene.turn(ModelsListed("b1", (BIG,)))
    assert not of(effects, Finish)
    assert scene.engine.records["b", "b"].line == ("blob-big", 0)


def test_another_small_model_that_comes_takes_them() -> None:
    scene = busy_with("big", backend=TWO)
    scene.turn(ModelsListed("b1", (BIG,)))
    come(scene, "b", model="big")
    scene.ask(Level.LEVEL_2)
    assert scene.engine.records["b", "b"].line == ("blob-big", 0)
    scene.turn(ModelsListed("b1", (BIG, model("tinyllama", size_bytes=10))))
    assert scene.engine.records["b", "b"].line == ("blob-tinyllama", 0)


def test_what_counts_as_small_holds_from_a_reload_on() -> None:
    scene = busy_with("big", "small", backend=TWO)
    scene.ask(Level.LEVEL_2)
    come(scene, "s")
    scene.decide(replace(POLICY, small_model_bytes_max=10, small_models=("big",)))
    assert scene.engine.records["s", "s"].line == ("blob-big", 0)


# The default answer, and what the load counts


def test_those_who_wait_and_may_be_answered_are_when_the_level_becomes_critical() -> None:
    scene = busy_with("small")
    for name, priority in (("five", 5), ("three", 3)):
        come(scene, name, priority=priority, accepts_default=True)
    come(scene, "never")
    scene.wait(SECOND_NS)
    scene.memory(0.85)
    effects = scene.turn(LevelAsked(level=Level.CRITICAL))
    assert [each.key[1] for each in of(effects, Answer)] == ["five"]
    assert finished(effects) == [("five", Outcome.COMPLETED)]
    assert of(effects, Answer)[0].queue_wait_ns == SECOND_NS


def test_the_queue_counts_only_what_the_level_lets_run() -> None:
    scene = busy_with("small")
    for name, priority in (("a", 5), ("b", 9), ("c", 1)):
        come(scene, name, priority=priority)
    backlog = scene.engine.backlog
    assert backlog.let_run() == 3
    scene.ask(Level.CRITICAL)
    assert backlog.let_run() == 3  # a slot that would idle serves them
    scene.ask(None)
    scene.memory(0.97)
    assert (scene.level, backlog.let_run()) == (Level.CRITICAL, 1)
