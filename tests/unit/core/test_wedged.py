"""Servers that are wedged or being restarted: what becomes of those who need a load there."""

from __future__ import annotations

from itertools import pairwise

from broker.core.effects import Effect, Refuse, RestartBackend
from broker.core.errors import BackendFailed, LoadFailed, LoadHung
from broker.core.healing import Health
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.requests import Outcome
from broker.core.stimuli import BackendSeen, RestartEnded
from tests.unit.core.failover_scene import on_what, with_fallbacks, words_to
from tests.unit.core.healing_scene import steps
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    finished,
    model,
    of,
    resident,
    started,
    switches,
)

LONG_NS = 600 * MINUTE_NS
HUNG = LoadHung("not loaded within 600 s")


def open_scene(*, may_restart: bool = False) -> Scene:
    """b1 has m, n and o on disk and holds nothing; b2 holds x. Failed loads are tried again after
    1 s."""
    scene = Scene(
        BackendPolicy(name="b1", may_restart=may_restart),
        BackendPolicy(name="b2"),
        placement=PlacementPolicy(failed_load_hold_ns=SECOND_NS),
    )
    scene.open("b1", model("m"), model("n"), model("o"), model("p"))
    scene.open("b2", model("x"))
    scene.seen("b1")
    scene.seen("b2", resident("x"))
    return scene


def asked_for(scene: Scene, name: str) -> list[Effect]:
    return scene.turn(arrived(name, model=name, deadline_ns=scene.now_ns + LONG_NS))


def hang(scene: Scene, name: str) -> list[Effect]:
    return scene.loaded(name, error=HUNG)


def wedge(scene: Scene) -> list[Effect]:
    """Two loads hang, which were asked for by requests of the names of their models."""
    asked_for(scene, "n")
    effects = hang(scene, "n")
    asked_for(scene, "o")
    return effects + hang(scene, "o")


def health(scene: Scene) -> Health:
    return scene.engine.backends["b1"].health


def load_again(scene: Scene) -> str:
    """Waits for the next load: of which model."""
    for _ in range(100 * 60):
        loads = switches(scene.wait(SECOND_NS))
        if loads:
            return loads[0].split()[1]
    raise AssertionError("nothing is loaded any more")


def on_b1(scene: Scene) -> str:
    return next(iter(scene.engine.backends["b1"].residents)).removeprefix("blob-")


def serve_all(scene: Scene, name: str) -> None:
    """This load ends well, and all that follow it; each request is served."""
    while scene.engine.records:
        assert started(scene.loaded(name)) == [name]
        if switches(scene.ends(name)):
            (load,) = switches(scene.unloaded(name))
            name = load.split()[1]


def test_a_wedged_server_is_tried_again_by_one_load_after_pauses_that_grow() -> None:
    scene = open_scene()
    asked_for(scene, "n")
    for name in ("m", "o", "p"):
        asked_for(scene, name)
    hang(scene, "n")
    hang(scene, on_b1(scene))
    moments = [scene.now_ns]
    for _ in range(6):
        name = load_again(scene)
        moments.append(scene.now_ns)
        hang(scene, name)
        assert health(scene) is Health.WEDGED
    pauses = [round((after - before) / MINUTE_NS) for before, after in pairwise(moments)]
    assert pauses == [1, 2, 4, 8, 16, 16]


def test_a_load_that_ends_well_says_that_the_server_is_well_and_others_follow() -> None:
    scene = open_scene()
    wedge(scene)
    name = load_again(scene)
    assert started(scene.loaded(name)) == [name]
    assert health(scene) is Health.WELL
    other = "o" if name == "n" else "n"
    assert f"unload {name} on b1" in switches(scene.ends(name))
    assert switches(scene.unloaded(name)) == [f"load {other} on b1"]


def test_pauses_begin_anew_once_it_was_well() -> None:
    scene = open_scene()
    wedge(scene)
    hang(scene, load_again(scene))  # the next pause would be 2 minutes
    serve_all(scene, load_again(scene))
    scene.turn(arrived("again", model="m", deadline_ns=LONG_NS))
    scene.unloaded(on_b1(scene))
    hang(scene, "m")
    scene.wait(2 * SECOND_NS)
    hang(scene, "m")
    assert health(scene) is Health.WEDGED
    before_ns = scene.now_ns
    load_again(scene)
    assert round((scene.now_ns - before_ns) / MINUTE_NS) == 1


def test_who_waits_for_a_load_there_is_answered_by_its_fallback() -> None:
    scene = open_scene()
    asked_for(scene, "n")
    hang(scene, "n")
    scene.turn(with_fallbacks("r", "x"))  # waits for the next load on b1, of n or of m
    scene.wait(2 * SECOND_NS)
    effects = scene.loaded(on_b1(scene), error=HUNG)
    assert on_what(effects) == [("r", "x:latest", "b2")]


def test_a_newcomer_with_a_fallback_elsewhere_gets_that_at_once() -> None:
    scene = open_scene()
    wedge(scene)
    assert on_what(scene.turn(with_fallbacks("r", "x"))) == [("r", "x:latest", "b2")]


def test_a_newcomer_without_one_is_told_when_the_next_load_is_tried() -> None:
    scene = open_scene()
    wedge(scene)
    scene.wait(20 * SECOND_NS)
    (refusal,) = of(asked_for(scene, "m"), Refuse)
    assert isinstance(refusal.error, LoadFailed)
    assert refusal.error.retry_after_ns == 40 * SECOND_NS
    assert "loads nothing at the moment" in refusal.error.message


def test_who_has_the_time_waits_for_that_load_and_is_told_so() -> None:
    scene = open_scene()
    effects = wedge(scene)
    assert finished(effects) == []
    reason, words = words_to(scene.wait(10 * SECOND_NS), "n")
    assert (reason, words.split(":")[1]) == ("SICK", " b1, which has n")


def test_who_has_less_time_than_that_is_told_at_once() -> None:
    scene = open_scene()
    asked_for(scene, "n")
    hang(scene, "n")
    scene.turn(arrived("o", model="o", deadline_ns=scene.now_ns + 30 * SECOND_NS))
    scene.wait(SECOND_NS // 2)
    assert finished(hang(scene, "o")) == [("o", Outcome.FAILED)]


def test_while_one_load_is_let_through_others_go_on_to_their_fallbacks() -> None:
    scene = open_scene()
    wedge(scene)
    load_again(scene)
    assert on_what(scene.turn(with_fallbacks("r", "x"))) == [("r", "x:latest", "b2")]
    effects = asked_for(scene, "m")  # its outcome is a moment away
    reason, words = words_to(effects, "m")
    assert (reason, words) == (
        "SICK",
        "the outcome of a try: b1, which has m:latest, loads nothing",
    )


def test_of_those_with_fallbacks_one_asks_for_the_load_that_is_let_through() -> None:
    scene = open_scene()
    wedge(scene)
    scene.turn(cancel("n"))
    scene.turn(cancel("o"))
    scene.turn(arrived("busy", model="x", deadline_ns=LONG_NS))
    for name in ("r1", "r2"):
        scene.turn(with_fallbacks(name, "x"))
    assert switches(scene.wait(2 * MINUTE_NS)) == ["load m on b1"]
    assert sorted(each.model for each in scene.engine.records.values()) == [
        "m:latest",
        "x:latest",
        "x:latest",
    ]


def test_a_server_that_is_being_restarted_starts_nothing() -> None:
    scene = open_scene(may_restart=True)
    scene.open("b2", model("x"), model("m"))
    scene.seen("b2", resident("m"))
    assert "restarting  on b1" in steps(wedge(scene))
    scene.seen("b1", resident("m"))
    assert on_what(asked_for(scene, "m")) == [("m", "m:latest", "b2")]


def test_who_waits_for_it_waits_for_its_end_and_is_told_so() -> None:
    scene = open_scene(may_restart=True)
    assert finished(wedge(scene)) == []
    effects = asked_for(scene, "m")
    assert words_to(effects, "m") == ("HEALING", "b1, which has m:latest, to be restarted")
    scene.down("b1")
    scene.turn(RestartEnded("b1"))
    scene.up("b1")
    scene.seen("b1")
    scene.wait(10 * SECOND_NS)  # no load is held for longer than that
    serve_all(scene, on_b1(scene))
    assert not scene.engine.records


def test_a_command_that_fails_leaves_the_server_wedged_and_tried_again() -> None:
    scene = open_scene(may_restart=True)
    wedge(scene)
    scene.turn(RestartEnded("b1", BackendFailed("status 1")))
    assert health(scene) is Health.WEDGED
    effects = scene.wait(MINUTE_NS)
    assert of(effects, RestartBackend) == [RestartBackend("b1")]
    assert switches(effects) == []


def test_a_list_that_comes_again_lets_loads_pass_at_once() -> None:
    scene = open_scene()
    mute = BackendSeen("b1", False, "no list of residents within 25 s", True)
    scene.turn(mute)
    scene.turn(mute)
    assert health(scene) is Health.WEDGED
    scene.up("b1")
    assert switches(asked_for(scene, "m")) == ["load m on b1"]
