"""The frozen picture: what it shows, and that it stays as it was."""

from __future__ import annotations

from broker.core.effects import WaitReason
from broker.core.lifecycle import State
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.snapshot import RequestView, take_snapshot
from broker.core.stimuli import DrainAsked
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, resident, serving


def busy() -> Scene:
    """m runs one and has one waiting; n waits for its place."""
    scene = serving(model("m", num_ctx=4096), model("n"))
    scene.seen("b1", resident("m", memory_bytes=1234, num_ctx=4096))
    scene.now_ns = SECOND_NS
    scene.turn(arrived("r1", priority=2))
    scene.turn(arrived("r2", priority=7))
    scene.turn(arrived("n1", model="N", priority=7))
    return scene


def test_a_picture_counts_what_waits_runs_and_has_ended() -> None:
    picture = take_snapshot(busy().engine, 3 * SECOND_NS)
    assert (picture.at_ns, picture.queued, picture.running) == (3 * SECOND_NS, 2, 1)
    assert (picture.draining, picture.queued_max) == (False, 1000)
    assert picture.outcomes[Outcome.COMPLETED] == 1
    assert picture.outcomes[Outcome.FAILED] == 0
    assert {key: (row.queued, row.running) for key, row in picture.priorities.items()} == {
        2: (0, 1),
        5: (0, 0),
        7: (2, 0),
    }


def test_a_picture_shows_each_backend_and_what_it_holds() -> None:
    [backend] = take_snapshot(busy().engine, 0).backends
    assert (backend.name, backend.up, backend.loads, backend.loads_failed) == ("b1", True, 1, 0)
    [view] = backend.residents
    assert (view.model, view.runner, view.state) == (
        "m:latest",
        "blob-m",
        ResidencyState.RESIDENT,
    )
    assert (view.managed, view.slots, view.running, view.queued) == (True, 1, 1, 1)
    assert (view.num_ctx, view.memory_bytes, view.gpu_memory_bytes) == (4096, 1234, 1234)


def test_requests_are_shown_oldest_first_and_only_as_many_as_asked_for() -> None:
    scene = busy()
    assert take_snapshot(scene.engine, 0).requests == ()
    running, waiting = take_snapshot(scene.engine, 0, requests_max=2).requests
    assert running == RequestView(
        key=("a", "r1"),
        model="m",
        priority=2,
        compartment="",
        state=State.DISPATCHED,
        arrived_ns=SECOND_NS,
        started_ns=SECOND_NS,
        backend="b1",
        wait_reason=None,
        wait_detail="",
    )
    assert (waiting.key, waiting.state, waiting.started_ns) == (("a", "r2"), State.QUEUED, 0)
    assert (waiting.wait_reason, waiting.backend) == (WaitReason.SLOT, "")


def test_waits_are_added_up_per_priority() -> None:
    scene = busy()
    scene.wait(4 * SECOND_NS)
    scene.ends("r1")
    row = take_snapshot(scene.engine, 0).priorities[7]
    waits = (row.started, row.queue_wait_ns_sum, row.queue_wait_ns_max)
    assert waits == (1, 4 * SECOND_NS, 4 * SECOND_NS)


def test_a_picture_does_not_change_with_what_comes_after_it() -> None:
    scene = busy()
    before = take_snapshot(scene.engine, 0, requests_max=9)
    known = repr(before)
    scene.turn(DrainAsked(MINUTE_NS))
    scene.ends("r1")
    scene.ends("r2")
    assert repr(before) == known
    assert take_snapshot(scene.engine, 0).draining


def test_looking_changes_nothing() -> None:
    scene = busy()
    first = take_snapshot(scene.engine, 5, requests_max=9)
    assert take_snapshot(scene.engine, 5, requests_max=9) == first
