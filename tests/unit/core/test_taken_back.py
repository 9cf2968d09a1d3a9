"""Backends that go away and come back, or leave the configuration and return to it: what is still
held against them, and what is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.breaker import BreakerPolicy, BreakerState
from broker.core.effects import BackendGone, Effect, Refuse, TellBreaker
from broker.core.errors import BackendUnreachable, LoadFailed
from broker.core.placement import BackendPolicy
from broker.core.requests import Outcome
from broker.core.stimuli import (
    AttemptEnded,
    BackendSeen,
    FirstToken,
    ModelsListed,
    PolicyChanged,
    UnloadEnded,
)
from tests.unit.core.failover_scene import BROKE, OPEN_NS, fails, ready
from tests.unit.core.retry_scene import come, scene_of
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    finished,
    model,
    of,
    resident,
    serving,
    started,
    switches,
)

B1, B2 = BackendPolicy(name="b1"), BackendPolicy(name="b2")
REFUSED = BackendUnreachable("connection refused")


def configured(scene: Scene, *policies: BackendPolicy) -> list[Effect]:
    return scene.turn(PolicyChanged(replace(scene.engine.policy, backends=policies)))


def tripped() -> Scene:
    """The breaker of m on b1, its only backend, is open for 10 s."""
    scene = ready(Scene(B1))
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    fails(scene, "x1", "x2")
    return scene


# What is taken out


@pytest.mark.parametrize("age_ns", [0, OPEN_NS + SECOND_NS])
def test_a_breaker_does_not_outlive_its_backend(age_ns: int) -> None:
    """Open, or half-open."""
    scene = tripped()
    scene.wait(age_ns)
    effects = configured(scene, B2)  # which never answers
    assert of(effects, BackendGone) == [BackendGone("b1")]
    assert [each.after for each in of(effects, TellBreaker)] == [BreakerState.CLOSED]
    assert len(scene.engine.breakers) == 0
    configured(scene, B1)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    assert of(fails(scene, "y1", "y2"), TellBreaker)  # it counts from the start
    assert of(scene.turn(arrived("y3")), Refuse)
    scene.wait(OPEN_NS)
    scene.turn(arrived("probe"))
    scene.ends("probe")
    assert started(scene.turn(arrived("after"))) == ["after"]


def test_what_waits_is_kept_for_one_that_is_taken_back_when_the_other_leaves() -> None:
    scene = scene_of(backends=2)
    for name in ("r1", "r2", "r3"):
        come(scene, name)
    both = scene.engine.policy.backends
    configured(scene, both[1])  # b1 lists no models any more, but a call runs there
    effects = configured(scene, both[0])
    assert finished(effects) == []
    effects = scene.ends("r1")
    scene.turn(ModelsListed("b1", (model("m"),)))
    scene.seen("b1", resident("m"))
    assert (finished(effects), started(scene.up("b1"))) == ([("r1", Outcome.COMPLETED)], ["r3"])


def test_what_was_loaded_there_is_still_the_brokers() -> None:
    scene = serving(model("m", slots=2))
    scene.turn(arrived("r1"))
    before = scene.engine.policy.backends
    configured(scene, B2)
    scene.open("b2", model("x"))
    scene.seen("b2")
    scene.seen("b1", resident("m"))
    configured(scene, *before)
    scene.open("b1", model("m", slots=2))
    scene.seen("b1", resident("m"))
    assert scene.residency("m").managed


def test_of_backends_that_come_and_go_nothing_remains() -> None:
    scene = Scene(B1)
    for number in range(5):
        name = f"x{number}"
        configured(scene, BackendPolicy(name=name))
        scene.open(name, model("m"))
        for _ in range(3):
            scene.turn(BackendSeen(name, False, "no list within 25 s", is_mute=True))
        scene.up(name)
    assert list(scene.engine.backends) == ["x4"]
    assert len(scene.engine._healer.servers) == 1
    assert len(scene.engine.timers) == 0


def test_of_models_that_come_and_go_nothing_remains() -> None:
    scene = Scene(BackendPolicy(name="b1", exclusive=True))
    for number in range(5):
        spec = replace(model("m"), runner=f"blob-{number}")
        scene.turn(ModelsListed("b1", (spec,)))
        scene.turn(BackendSeen("b1", True))
        scene.seen("b1", resident("m"))
        scene.wait(100 * SECOND_NS)
        for call in ("one", "two"):
            loses_slot(scene, f"{call}{number}")
        scene.turn(UnloadEnded("b1", spec.runner))
    assert len(scene.engine._healer) == 1


def loses_slot(scene: Scene, name: str) -> None:
    scene.turn(arrived(name, deadline_ns=scene.now_ns + 9 * MINUTE_NS))
    scene.wait(5 * SECOND_NS)
    attempt = scene.attempt(name)
    scene.turn(FirstToken(attempt))
    scene.turn(AttemptEnded(attempt, None, 10, 10, slot_wait_ns=4 * SECOND_NS))


# What goes away


def test_a_call_that_is_refused_between_failures_hides_none_of_them() -> None:
    """A server that answers each look was not away, whatever a call found."""
    scene = ready(Scene(B1))
    policy = replace(scene.engine.policy, breaker=BreakerPolicy(failures=3))
    scene.turn(PolicyChanged(policy))
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    for number in range(2):
        scene.turn(arrived(f"r{number}"))
        scene.ends(f"r{number}", BROKE)
        scene.turn(arrived(f"refused{number}"))
        assert of(scene.ends(f"refused{number}", REFUSED) + scene.up("b1"), TellBreaker) == []
    scene.turn(arrived("last"))
    told = of(scene.ends("last", BROKE), TellBreaker)
    assert [each.after for each in told] == [BreakerState.OPEN]


def test_one_that_a_look_found_away_begins_with_clean_breakers_and_loads() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("r", model="n"))
    scene.unloaded("m")
    scene.loaded("n", error=LoadFailed("out of memory"))
    assert switches(scene.wait(SECOND_NS)) == []
    scene.down("b1")
    scene.seen("b1")
    assert switches(scene.up("b1")) == ["load n on b1"]  # another process may have the memory
    effects = scene.loaded("n", error=LoadFailed("out of memory"))
    assert finished(effects) == []
    assert switches(scene.wait(15 * SECOND_NS)) == ["load n on b1"]  # it is the first in a row


def test_breakers_of_one_that_comes_back_are_reset_in_the_order_in_which_they_were_made() -> None:
    names = [f"m{number}" for number in range(6)]
    scene = ready(Scene(BackendPolicy(name="b1", resident_max=6, exclusive=True)))
    scene.open("b1", *(model(name) for name in names))
    scene.seen("b1", *(resident(name) for name in names))
    for name in names:
        fails(scene, f"{name}-1", f"{name}-2", model=name)
    scene.down("b1")
    told = [each.model for each in of(scene.up("b1"), TellBreaker)]
    assert told == [f"{name}:latest" for name in names]


def test_where_many_calls_find_a_server_away_what_waits_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = scene_of(slots=4)
    for number in range(4):
        come(scene, f"r{number}")
    looks = list[int]()
    monkeypatch.setattr(scene.engine.residencies, "_on_change", looks.append)
    for number in range(4):
        scene.ends(f"r{number}", REFUSED)
    assert looks == [scene.now_ns]
