"""Cures among everything else: what they close, what they leave alone, what goes on beside them."""

from __future__ import annotations

from dataclasses import replace

from broker.core.breaker import BreakerPolicy
from broker.core.effects import (
    BackendGone,
    Effect,
    Finish,
    RestartBackend,
    TellAttemptFailed,
    TellBreaker,
)
from broker.core.errors import Cancelled
from broker.core.healing import Health
from broker.core.placement import BackendPolicy
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.stimuli import AttemptEnded, BackendSeen, FirstToken, PolicyChanged
from tests.unit.core.failover_scene import words_to
from tests.unit.core.healing_scene import learned, quiet, steps, streams, two_slots
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    serving,
    started,
    switches,
)

CLOSED = Cancelled("aborted")
MUTE = BackendSeen("b1", False, "no list of residents within 25 s", is_mute=True)
LONG_NS = 60 * MINUTE_NS


def crowded(count: int) -> Scene:
    """A stream that has fallen silent, and so many calls beside it that had no piece yet."""
    scene = serving(model("m", slots=count + 1))
    scene.wait(100 * SECOND_NS)
    learned(scene)
    streams(scene, "silent")
    for number in range(count):
        scene.turn(arrived(f"beside{number}", deadline_ns=LONG_NS))
    scene.wait(20 * SECOND_NS)
    assert steps(quiet(scene, "silent", 20 * SECOND_NS)) == ["frozen m on b1"]
    return scene


def close_all(scene: Scene) -> list[Effect]:
    effects = list[Effect]()
    for attempt in list(scene.engine.attempts):
        effects += scene.turn(AttemptEnded(attempt, CLOSED))
    return effects


def health(scene: Scene) -> Health:
    return scene.engine.backends["b1"].health


# What it closes


def test_of_all_calls_that_a_cure_closes_the_frozen_one_alone_is_lost() -> None:
    scene = crowded(8)
    effects = close_all(scene)
    (lost,) = of(effects, Finish)
    assert (lost.key[1], lost.outcome) == ("silent", Outcome.FAILED)
    waits_ns = [each.report.backoff_ns for each in of(effects, TellAttemptFailed)]
    assert waits_ns == [0] * 9
    scene.unloaded("m")
    assert len(started(scene.loaded("m"))) == 8


def test_of_all_calls_that_a_cure_closes_the_breaker_counts_one() -> None:
    scene = crowded(8)
    effects = close_all(scene)
    assert of(effects, TellBreaker) == []
    (view,) = scene.engine.breakers.views(scene.engine.backends["b1"])
    assert (view.failures, view.calls) == (1, 2)


def test_a_newcomer_waits_for_a_cure_though_the_breaker_is_open() -> None:
    scene = crowded(2)
    breaker = BreakerPolicy(failures=1)
    scene.turn(PolicyChanged(replace(scene.engine.policy, breaker=breaker)))
    assert of(close_all(scene), TellBreaker)
    effects = scene.turn(arrived("new", deadline_ns=LONG_NS))
    assert words_to(effects, "new") == ("HEALING", "m:latest to be cured on b1")
    scene.unloaded("m")  # which closes the breaker as well
    assert "new" in started(scene.loaded("m"))


# What others use


def waits(scene: Scene, name: str) -> list[Effect]:
    """A call that waits long for a slot in the backend. What came of its end."""
    scene.turn(arrived(name, deadline_ns=scene.now_ns + LONG_NS))
    scene.wait(5 * SECOND_NS)
    attempt = scene.attempt(name)
    scene.turn(FirstToken(attempt))
    return scene.turn(AttemptEnded(attempt, None, 10, 10, slot_wait_ns=4 * SECOND_NS))


def of_others(policy: BackendPolicy) -> Scene:
    """The backend holds m, which the broker has not loaded."""
    scene = Scene(policy)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    scene.wait(100 * SECOND_NS)
    return scene


def test_slots_that_others_may_use_are_not_lost() -> None:
    scene = of_others(BackendPolicy(name="b1"))
    for number in range(5):
        effects = waits(scene, f"r{number}")
        assert (steps(effects), switches(effects)) == ([], [])


def test_on_a_server_that_is_all_the_brokers_they_are() -> None:
    scene = of_others(BackendPolicy(name="b1", exclusive=True))
    waits(scene, "r1")
    assert switches(waits(scene, "r2")) == ["unload m on b1"]


# A list of residents that does not come meanwhile


def test_a_frozen_model_is_cured_though_the_list_does_not_come() -> None:
    scene = two_slots()
    streams(scene, "r")
    scene.wait(20 * SECOND_NS)
    scene.turn(MUTE)
    quiet(scene, "r", 10 * SECOND_NS)
    assert switches(scene.ends("r", CLOSED)) == ["unload m on b1"]


def test_a_list_that_a_cure_may_hold_up_is_no_sign() -> None:
    policy = BackendPolicy(name="b1", may_restart=True, resident_max=2)
    scene = Scene(policy)
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"), resident("n"))
    scene.wait(100 * SECOND_NS)
    learned(scene)
    streams(scene, "r")
    streams(scene, "well", model="n")
    scene.wait(20 * SECOND_NS)
    quiet(scene, "r", 10 * SECOND_NS)
    for _ in range(3):
        assert of(scene.turn(MUTE), RestartBackend) == []
    assert health(scene) is Health.WELL
    scene.ends("r", CLOSED)
    scene.unloaded("m")
    scene.turn(MUTE)  # nothing holds it up now
    assert health(scene) is Health.SUSPECT


def test_a_server_that_refuses_a_call_is_away_and_told_nothing() -> None:
    scene = two_slots()
    streams(scene, "r")
    scene.wait(20 * SECOND_NS)
    quiet(scene, "r", 10 * SECOND_NS)
    scene.turn(MUTE)
    scene.down("b1")
    assert switches(scene.ends("r", CLOSED)) == []
    assert switches(scene.up("b1")) == ["unload m on b1"]


# A backend that is taken out meanwhile


def taken_out() -> tuple[Scene, PolicyChanged]:
    """Its model is being cured, and one call is not closed yet; and what takes it back."""
    scene = two_slots()
    back = PolicyChanged(scene.engine.policy)
    streams(scene, "r")
    scene.wait(20 * SECOND_NS)
    quiet(scene, "r", 10 * SECOND_NS)
    policies = (BackendPolicy(name="b9"),)
    scene.turn(PolicyChanged(replace(scene.engine.policy, backends=policies)))
    return scene, back


def test_a_cure_goes_on_where_its_backend_is_taken_back() -> None:
    scene, back = taken_out()
    scene.turn(back)
    scene.ends("r", CLOSED)
    scene.open("b1", model("m", slots=2), model("n"))
    assert scene.state("m") is ResidencyState.UNLOADING
    assert started(scene.turn(arrived("new", deadline_ns=scene.now_ns + LONG_NS))) == []
    assert steps(scene.unloaded("m")) == ["cured m on b1"]


def test_a_list_that_comes_while_its_models_are_forgotten_ends_no_cure() -> None:
    scene, back = taken_out()
    scene.open("b9", model("x"))
    scene.seen("b9")
    assert scene.engine.backends["b1"].models == {}
    told = scene.seen("b1", resident("m"))
    told += scene.turn(back)
    told += scene.seen("b1", resident("m"))
    told += scene.ends("r", CLOSED)
    told += scene.seen("b1", resident("m"))
    assert steps(told) == []
    scene.open("b1", model("m", slots=2), model("n"))
    scene.seen("b1", resident("m"))
    assert scene.state("m") is ResidencyState.UNLOADING
    assert steps(scene.unloaded("m")) == ["cured m on b1"]


def test_a_backend_that_leaves_does_not_wait_for_a_cure() -> None:
    scene, _ = taken_out()
    effects = scene.ends("r", CLOSED)
    assert (switches(effects), of(effects, BackendGone)) == ([], [BackendGone("b1")])
