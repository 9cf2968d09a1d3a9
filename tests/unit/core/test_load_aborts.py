"""Loads that nobody waits for any more: when they give way, and that nobody suffers from it."""

from __future__ import annotations

from broker.core.effects import AbortLoad
from broker.core.errors import LoadFailed
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    finished,
    model,
    of,
    switches,
)


def test_a_load_that_nobody_waits_for_is_aborted_where_another_is_wanted() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    assert of(scene.turn(arrived("n1", model="n")), AbortLoad) == []  # m1 waits for it
    assert of(scene.turn(cancel("m1")), AbortLoad) == [AbortLoad("b1", "blob-m")]
    assert of(scene.wait(SECOND_NS), AbortLoad) == []  # once is enough
    scene.turn(arrived("m2"))
    effects = scene.loaded("m", error=LoadFailed("interrupted"))
    assert (switches(effects), finished(effects)) == (["load n on b1"], [])
    scene.loaded("n")
    assert switches(scene.ends("n1")) == ["unload n on b1"]
    assert switches(scene.unloaded("n")) == ["load m on b1"]  # it was not put on hold


def test_a_load_that_nobody_waits_for_goes_on_where_no_other_is_wanted() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    assert of(scene.turn(cancel("m1")), AbortLoad) == []
    assert of(scene.turn(arrived("n1", model="n")), AbortLoad) == [AbortLoad("b1", "blob-m")]
    assert switches(scene.loaded("m")) == ["unload m on b1"]  # it was done before it was aborted


def test_a_load_that_has_lasted_no_longer_than_usual_is_not_aborted() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.wait(MINUTE_NS)
    scene.loaded("m")
    scene.ends("m1")
    scene.seen("b1")
    scene.turn(arrived("m2"))
    scene.turn(arrived("n1", model="n"))
    assert of(scene.turn(cancel("m2")), AbortLoad) == []
    scene.wait(MINUTE_NS)
    assert of(scene.seen("b1"), AbortLoad) == [AbortLoad("b1", "blob-m")]
