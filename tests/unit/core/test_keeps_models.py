"""A backend that keeps its models: nothing is ever loaded, renewed or unloaded there."""

from __future__ import annotations

from broker.core.effects import Effect, Load, Renew, Unload
from broker.core.placement import BackendPolicy
from broker.core.requests import Outcome
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

KEEPS = BackendPolicy(name="b1", exclusive=True, keeps_models=True)


def asks_for_a_model(effects: list[Effect]) -> bool:
    return bool(of(effects, Load) or of(effects, Unload) or of(effects, Renew))


def test_what_it_lists_serves_at_once_however_much_there_is() -> None:
    scene = Scene(KEEPS)
    scene.open("b1", model("m", slots=2), model("n", slots=2))
    effects = scene.seen("b1", resident("m"), resident("n"))
    for number in range(3):
        effects += scene.turn(arrived(f"m{number}"))
        effects += scene.turn(arrived(f"n{number}", model="n"))
    assert started(effects) == ["m0", "n0", "m1", "n1"]
    effects += scene.ends("m0")
    effects += scene.ends("n0")
    assert started(effects)[4:] == ["m2", "n2"]
    effects += scene.wait(60 * MINUTE_NS)
    assert not asks_for_a_model(effects), "nothing is ours to load, to keep or to let go"


def test_what_is_exclusive_is_not_managed_all_the_same() -> None:
    scene = Scene(KEEPS)
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    assert not scene.residency("m").managed


def test_what_it_does_not_hold_is_not_loaded() -> None:
    """Listed, and not yet seen: the next look brings it."""
    scene = Scene(KEEPS)
    scene.open("b1", model("m"))
    effects = scene.seen("b1")
    effects += scene.turn(arrived("r"))
    effects += scene.wait(MINUTE_NS)
    assert not asks_for_a_model(effects)
    assert started(effects) == []
    effects = scene.seen("b1", resident("m"))
    assert started(effects) == ["r"]


def test_what_it_no_longer_lists_vanishes() -> None:
    scene = Scene(KEEPS)
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"), resident("n"))
    scene.open("b1", model("n"))
    scene.seen("b1", resident("n"))
    assert "blob-m" not in scene.engine.backends["b1"].residents
    effects = scene.turn(arrived("r", model="n"))
    assert started(effects) == ["r"]
    assert finished(scene.ends("r")) == [("r", Outcome.COMPLETED)]


def test_another_backend_loads_what_it_cannot() -> None:
    scene = Scene(KEEPS, BackendPolicy(name="b2"))
    scene.open("b1", model("m"))
    scene.open("b2", model("m"), model("n"))
    effects = scene.seen("b1", resident("m"))
    effects += scene.seen("b2")
    effects += scene.turn(arrived("n0", model="n"))
    assert switches(effects) == ["load n on b2"]
    assert started(scene.turn(arrived("m0"))) == ["m0"]
