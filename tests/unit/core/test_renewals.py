"""A renewal that reaches a server which has just lost the model loads it again: whose is it?"""

from __future__ import annotations

import pytest

from broker.core.effects import Renew
from broker.core.placement import PlacementPolicy
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    serving,
    switches,
)

KEEP_ALIVE = PlacementPolicy(keep_alive_ns=10 * MINUTE_NS)


def lost(*, renewed: bool) -> Scene:
    """m was resident and listed; it is not listed any more, and a renewal lay between or not."""
    scene = serving(model("m"), model("n"), placement=KEEP_ALIVE)
    scene.wait(5 * MINUTE_NS - SECOND_NS)
    scene.seen("b1", resident("m"))
    assert bool(of(scene.wait((2 if renewed else 0) * SECOND_NS), Renew)) is renewed
    scene.seen("b1")
    return scene


def test_what_a_renewal_brought_back_is_the_brokers_to_unload() -> None:
    scene = lost(renewed=True)
    scene.seen("b1", resident("m"))
    assert switches(scene.turn(arrived("r1", model="n"))) == ["unload m on b1"]


def test_what_it_brought_back_is_renewed_again() -> None:
    scene = lost(renewed=True)
    scene.seen("b1", resident("m"))
    assert len(of(scene.wait(5 * MINUTE_NS), Renew)) == 1


@pytest.mark.parametrize(("renewed", "later_ns"), [(False, 0), (True, 10 * MINUTE_NS)])
def test_what_no_renewal_can_have_brought_is_a_strangers(renewed: bool, later_ns: int) -> None:
    scene = lost(renewed=renewed)
    scene.wait(later_ns)
    scene.seen("b1", resident("m"))
    assert switches(scene.turn(arrived("r1", model="n"))) == []


def test_it_is_expected_back_once() -> None:
    scene = lost(renewed=True)
    scene.seen("b1", resident("m"))
    scene.seen("b1")
    scene.seen("b1", resident("m"))
    assert switches(scene.turn(arrived("r1", model="n"))) == []
