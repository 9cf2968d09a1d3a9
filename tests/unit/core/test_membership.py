"""Backends that come, leave and are drained, while requests wait and run."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import BackendGone, Effect, Own, Renew, WaitReason
from broker.core.errors import BackendFailed, LoadFailed, ModelUnknown, NoBackend
from broker.core.healing import Health
from broker.core.membership import left_on
from broker.core.placement import BackendPolicy
from broker.core.requests import Outcome
from broker.core.snapshot import BackendView, take_snapshot
from broker.core.stimuli import (
    BackendDrainAsked,
    BackendSeen,
    LoadDue,
    LoadEnded,
    ModelsListed,
    OwnedBefore,
    PolicyChanged,
    ResidentsSeen,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    Scene,
    arrived,
    finished,
    model,
    of,
    resident,
    started,
    switches,
)

B1, B2, B3 = (BackendPolicy(name=name) for name in ("b1", "b2", "b3"))


def two() -> Scene:
    """b1 and b2, which both have m, and hold nothing."""
    scene = Scene(B1, B2)
    for name in ("b1", "b2"):
        scene.open(name, model("m"))
        scene.seen(name)
    return scene


def configured(scene: Scene, *policies: BackendPolicy) -> list[Effect]:
    return scene.turn(PolicyChanged(replace(scene.engine.policy, backends=policies)))


def view(scene: Scene, name: str) -> BackendView:
    backends = take_snapshot(scene.engine, scene.now_ns).backends
    return next(each for each in backends if each.name == name)


def drained(scene: Scene, name: str, *, ends: bool = False) -> list[Effect]:
    return scene.turn(BackendDrainAsked(name, not ends))


def test_the_load_is_judged_on_after_a_backend_has_gone() -> None:
    scene = two()
    for name in ("b1", "b2"):
        scene.seen(name, resident("m"))
    assert not scene.turn(LoadDue())
    assert of(configured(scene, B2), BackendGone) == [BackendGone("b1")]
    assert not scene.turn(LoadDue())


def test_no_alarm_is_left_of_what_a_backend_held_that_has_gone() -> None:
    scene = two()
    before = len(scene.engine.timers)
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.ends("r1")
    at_rest = len(scene.engine.timers)
    assert at_rest > before  # its keep_alive is to be renewed
    assert of(configured(scene, B2), BackendGone) == [BackendGone("b1")]
    assert len(scene.engine.timers) == at_rest - 1


# Drained by an operator


def test_a_drained_backend_keeps_what_runs_and_another_one_loads_for_what_comes() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.turn(arrived("r2"))
    assert switches(drained(scene, "b1")) == ["load m on b2"]
    assert view(scene, "b1").is_draining
    assert started(scene.loaded("m", "b2")) == ["r2"]
    assert finished(scene.ends("r1")) == [("r1", Outcome.COMPLETED)]
    assert started(scene.turn(arrived("r3"))) == []


def test_what_waits_for_what_only_a_drained_backend_has_goes_when_it_is_resumed() -> None:
    scene = Scene(B1)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2"))
    drained(scene, "b1")
    assert started(scene.ends("r1")) == []
    (waits,) = take_snapshot(scene.engine, scene.now_ns, requests_max=1).requests
    assert waits.wait_reason is WaitReason.BACKEND_DRAINS
    refused = scene.turn(arrived("r3"))
    assert isinstance(getattr(refused[0], "error", None), NoBackend)
    assert started(drained(scene, "b1", ends=True)) == ["r2"]
    assert not view(scene, "b1").is_draining


def test_a_drained_backend_is_not_told_to_keep_its_models() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.ends("r1")
    drained(scene, "b1")
    assert of(scene.wait(30 * MINUTE_NS), Renew) == []
    drained(scene, "b1", ends=True)
    assert len(of(scene.wait(6 * MINUTE_NS), Renew)) == 1


def test_what_is_left_on_a_backend_is_what_runs_and_what_no_other_has() -> None:
    scene = two()
    scene.open("b2", model("m"), model("n"))
    scene.turn(arrived("r1"))
    scene.loaded("m")
    for name, wanted in (("r2", "m"), ("r3", "n"), ("r4", "n")):
        scene.turn(arrived(name, model=wanted))
    engine = scene.engine

    def left(name: str) -> tuple[int, int]:
        backends = engine.backends
        return left_on(backends[name], backends, engine.attempts, engine.backlog)

    assert (left("b1"), left("b2")) == ((0, 1), (2, 0))


def test_a_drain_of_one_that_has_left_changes_nothing() -> None:
    scene = two()
    assert drained(scene, "nobody") == []


# In and out of the configuration


def test_a_new_backend_gets_work_as_soon_as_it_has_told_what_it_has() -> None:
    scene = Scene(B1)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2"))
    assert configured(scene, B2, B1) == []
    assert list(scene.engine.backends) == ["b2", "b1"]
    scene.open("b2", model("m"))
    assert started(scene.seen("b2", resident("m"))) == ["r2"]


def test_one_that_is_taken_out_is_gone_when_what_runs_there_has_ended() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.turn(arrived("r2"))
    effects = configured(scene, B2)
    assert (switches(effects), of(effects, BackendGone)) == (["load m on b2"], [])
    assert view(scene, "b1").is_draining
    effects = scene.ends("r1")
    assert finished(effects) == [("r1", Outcome.COMPLETED)]
    assert of(effects, BackendGone) == [BackendGone("b1")]
    assert list(scene.engine.backends) == ["b2"]
    assert started(scene.loaded("m", "b2")) == ["r2"]


def test_one_where_nothing_runs_is_gone_at_once() -> None:
    scene = two()
    assert of(configured(scene, B1), BackendGone) == [BackendGone("b2")]


def test_a_load_under_way_is_waited_for() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    assert of(configured(scene, B2), BackendGone) == []
    effects = scene.turn(LoadEnded("b1", "blob-m"))
    assert of(effects, BackendGone) == [BackendGone("b1")]


def test_what_waits_for_what_nobody_has_any_more_is_told_so() -> None:
    scene = two()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("r1", model="n"))
    scene.loaded("n")
    scene.turn(arrived("r2", model="n"))
    effects = configured(scene, B2)
    assert finished(effects) == [("r2", Outcome.FAILED)]
    assert of(scene.ends("r1"), BackendGone) == [BackendGone("b1")]
    refused = scene.turn(arrived("r3", model="n"))
    assert isinstance(getattr(refused[0], "error", None), ModelUnknown)


def test_what_waits_is_kept_for_a_backend_that_takes_the_place_and_has_told_nothing_yet() -> None:
    """The same server under another name."""
    scene = Scene(B1)
    scene.open("b1", model("m"))
    scene.seen("b1")
    scene.turn(arrived("r1"))
    effects = configured(scene, B3)
    assert (finished(effects), of(effects, BackendGone)) == ([], [])
    effects = scene.turn(LoadEnded("b1", "blob-m"))
    assert (finished(effects), started(effects), of(effects, BackendGone)) == ([], [], [])
    effects = scene.turn(ModelsListed("b3", (model("m"),)))
    effects += scene.seen("b3", resident("m"))
    effects += scene.up("b3")
    assert of(effects, BackendGone) == [BackendGone("b1")]
    assert started(effects) == ["r1"]


def test_what_waits_to_be_tried_again_is_kept_for_it_as_well() -> None:
    scene = Scene(B1)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    scene.turn(arrived("r1"))
    scene.ends("r1", BackendFailed("garbage"))
    assert of(configured(scene, B3), BackendGone) == []
    assert finished(scene.wait(MINUTE_NS)) == []
    scene.turn(ModelsListed("b3", (model("m"),)))
    scene.seen("b3", resident("m"))
    assert started(scene.up("b3")) == ["r1"]
    assert list(scene.engine.backends) == ["b3"]


def test_one_that_is_taken_back_before_it_is_gone_is_asked_anew() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    configured(scene, B2)
    configured(scene, B1, B2)
    assert not view(scene, "b1").is_draining
    assert not view(scene, "b1").up
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    assert of(scene.ends("r1"), BackendGone) == []
    assert started(scene.turn(arrived("r2"))) == ["r2"]


def test_an_answer_of_one_that_is_gone_is_no_news() -> None:
    scene = two()
    configured(scene, B1)
    assert scene.turn(ModelsListed("b2", (model("m"),))) == []
    assert scene.turn(ResidentsSeen("b2", (resident("m"),), scene.now_ns)) == []
    assert scene.turn(BackendSeen("b2", up=True)) == []
    assert scene.turn(OwnedBefore("b2", ("blob-m",))) == []


def test_more_slots_count_at_once_and_fewer_when_what_runs_has_ended() -> None:
    scene = Scene(B1)
    scene.open("b1", model("m", slots=1))
    scene.seen("b1", resident("m"))
    for name in ("r1", "r2", "r3"):
        scene.turn(arrived(name))
    configured(scene, B1)
    assert started(scene.turn(ModelsListed("b1", (model("m", slots=2),)))) == ["r2"]
    scene.turn(ModelsListed("b1", (model("m", slots=1),)))
    assert started(scene.ends("r1")) == []
    assert started(scene.ends("r2")) == ["r3"]


# What was ours before


def owns(effects: list[Effect]) -> list[tuple[str, ...]]:
    return [each.runners for each in of(effects, Own)]


def test_what_is_ours_is_told_whenever_it_changes() -> None:
    scene = Scene(B1)
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1")
    scene.turn(arrived("r1"))
    assert owns(scene.loaded("m")) == [("blob-m",)]
    scene.ends("r1")
    assert owns(scene.seen("b1", resident("m"))) == []
    scene.turn(arrived("r2", model="n"))
    assert owns(scene.unloaded("m")) == [()]
    assert owns(scene.loaded("n")) == [("blob-n",)]


def test_what_the_broker_before_had_loaded_is_found_used_and_may_leave() -> None:
    scene = Scene(B1)
    scene.turn(OwnedBefore("b1", ("blob-m", "blob-x")))
    scene.open("b1", model("m"), model("n"))
    effects = scene.seen("b1", resident("m", num_ctx=4096))
    assert owns(effects) == [("blob-m",)]
    assert of(effects, Renew) == [Renew("b1", "m:latest", 4096)]
    effects = scene.turn(arrived("r1"))
    assert (started(effects), switches(effects)) == (["r1"], [])
    scene.ends("r1")
    assert len(of(scene.wait(6 * MINUTE_NS), Renew)) == 1
    assert switches(scene.turn(arrived("r2", model="n"))) == ["unload m on b1"]


def test_what_it_had_not_loaded_stays_a_strangers() -> None:
    scene = Scene(B1)
    scene.turn(OwnedBefore("b1", ("blob-n",)))
    scene.open("b1", model("m"), model("n"))
    assert owns(scene.seen("b1", resident("m"))) == [()]
    assert switches(scene.turn(arrived("r2", model="n"))) == []


def test_only_the_first_look_counts_and_only_for_a_keep_alive() -> None:
    scene = Scene(B1, B2)
    for name in ("b1", "b2"):
        scene.turn(OwnedBefore(name, ("blob-m",)))
        scene.turn(ModelsListed(name, (model("m"),)))
    scene.seen("b1")
    scene.seen("b1", resident("m"))
    scene.wait(11 * MINUTE_NS)
    scene.seen("b2", resident("m"))
    assert not scene.residency("m", "b1").managed
    assert not scene.residency("m", "b2").managed


# What is shown of it


def test_a_view_tells_what_the_operator_said_and_what_runs() -> None:
    policy = BackendPolicy(name="b1", weight=2.5, tags=frozenset({"z", "a"}))
    scene = Scene(policy)
    scene.open("b1", model("m", slots=2))
    scene.seen("b1", resident("m"))
    scene.turn(arrived("r1"))
    scene.engine.backends["b1"].restarts_made = 3
    seen = view(scene, "b1")
    assert (seen.weight, seen.tags, seen.running, seen.restarts) == (2.5, ("a", "z"), 1, 3)
    assert (seen.is_draining, seen.health, seen.breakers, seen.sick) == (False, Health.WELL, (), ())


def test_a_view_tells_what_could_not_be_loaded_and_when_it_is_tried_again() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m", error=LoadFailed("no file"))
    (sick,) = view(scene, "b1").sick
    assert (sick.model, sick.why) == ("m:latest", "no file")
    assert sick.retry_ns > scene.now_ns
