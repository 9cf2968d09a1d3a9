"""Which of several backends gets a request: by load and weight, then where its session was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core import routing
from broker.core.effects import StartAttempt
from broker.core.errors import BackendFailed
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestSpec
from broker.core.stimuli import Arrived
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    request,
    resident,
    switches,
)


def pool(*slots: int, weights: tuple[float, ...] = ()) -> Scene:
    """Backends b0, b1 and so on that hold m."""
    all_weights = (*weights, *[1.0] * len(slots))
    policies = [
        BackendPolicy(name=f"b{number}", weight=all_weights[number])
        for number, _ in enumerate(slots)
    ]
    scene = Scene(*policies)
    for number, count in enumerate(slots):
        scene.open(f"b{number}", model("m", slots=count))
        scene.seen(f"b{number}", resident("m"))
    return scene


def sends(
    scene: Scene,
    name: str,
    *,
    agent: str = "a",
    session: str = "",
    prefixes: tuple[int, ...] = (),
) -> str:
    """The backend that gets it at once, or "" where none does."""
    spec = replace(request(name, agent=agent), session_id=session, prefixes=prefixes)
    started = of(scene.turn(Arrived(spec)), StartAttempt)
    return started[0].backend if started else ""


def test_equals_get_work_in_the_order_of_the_configuration() -> None:
    scene = pool(2, 2)
    assert [sends(scene, f"r{n}", agent=f"a{n}") for n in range(5)] == ["b0", "b1", "b0", "b1", ""]


def test_a_weight_is_a_part_of_the_work() -> None:
    """Of one that counts for three times as much."""
    scene = pool(8, 8, weights=(1.0, 3.0))
    got = [sends(scene, f"r{n}", agent=f"a{n}") for n in range(8)]
    assert (got.count("b0"), got.count("b1")) == (2, 6)


def test_a_session_goes_where_it_was_though_that_is_busier_by_two() -> None:
    scene = pool(4, 4)
    got = [sends(scene, f"r{n}", session="s") for n in range(5)]
    assert got == ["b0", "b0", "b0", "b1", "b1"]  # by three: no longer


def test_who_begins_alike_goes_where_that_was_read() -> None:
    scene = pool(4, 4)
    assert sends(scene, "r1", agent="a", prefixes=(1, 2)) == "b0"
    assert sends(scene, "r2", agent="b", prefixes=(5, 6)) == "b1"
    assert sends(scene, "r3", agent="c") == "b0"
    assert sends(scene, "r4", agent="d", prefixes=(5,)) == "b1"
    assert sends(scene, "r5", agent="e", prefixes=(1, 3)) == "b0"  # shorter is better than nothing


def test_the_longest_beginning_counts_and_of_equals_where_it_was_read_last() -> None:
    scene = pool(9, 9)
    assert sends(scene, "r1", agent="a", prefixes=(1, 2)) == "b0"
    assert sends(scene, "r2", agent="b") == "b1"
    assert sends(scene, "r3", agent="b") == "b1"
    assert sends(scene, "r4", agent="c", prefixes=(7,)) == "b0"
    assert sends(scene, "r5", agent="d", session="s", prefixes=(7,)) == "b0"
    for n in range(3):
        scene.ends(f"r{(1, 4, 5)[n]}", agent="acd"[n])
    assert sends(scene, "r6", agent="e", prefixes=(1, 8)) == "b0"
    assert sends(scene, "r7", agent="f", prefixes=(9, 8)) == "b0"  # where that was read last


def test_a_server_that_is_busier_by_three_is_left_alone_whatever_it_has_read() -> None:
    scene = pool(4, 4)
    got = [sends(scene, f"r{n}", agent=f"a{n}", prefixes=(1,)) for n in range(5)]
    assert got == ["b0", "b0", "b0", "b1", "b1"]


def test_what_was_read_before_a_load_is_forgotten() -> None:
    scene = pool(4, 4)
    assert sends(scene, "r1", agent="a", prefixes=(1,)) == "b0"
    assert sends(scene, "r2", agent="b") == "b1"
    scene.ends("r1", agent="a")
    assert scene.engine._prefixes.known_bytes("blob-m", spec_of((1,)), "b0") == 1_024
    scene.engine.backends["b0"].residents["blob-m"].loaded_ns += 1  # another load since
    assert scene.engine._prefixes.known_bytes("blob-m", spec_of((1,)), "b0") == 0


def spec_of(prefixes: tuple[int, ...]) -> RequestSpec:
    return replace(request("r"), prefixes=prefixes)


def test_a_session_is_one_of_its_agent() -> None:
    scene = pool(4, 4)
    assert sends(scene, "r1", agent="a", session="s") == "b0"
    assert sends(scene, "r1", agent="b", session="s") == "b1"
    assert sends(scene, "r2", agent="b", session="s") == "b1"


def test_without_a_session_an_agent_goes_where_it_was_among_equals_only() -> None:
    scene = pool(2, 2)
    assert sends(scene, "r1", agent="a") == "b0"
    assert sends(scene, "r1", agent="b") == "b1"
    assert sends(scene, "r2", agent="b") == "b1"
    scene.ends("r2", agent="b")
    scene.ends("r1", agent="a")
    assert sends(scene, "r3", agent="b") == "b0"


def test_what_a_backend_failed_goes_elsewhere_though_its_session_was_there() -> None:
    scene = pool(8, 8)
    others = [sends(scene, f"x{n}", agent=f"x{n}") for n in range(5)]
    assert others.count("b0") == 3
    assert sends(scene, "r1", session="s") == "b1"
    failed = scene.ends("r1", BackendFailed("broken"))
    started = of([*failed, *scene.wait(MINUTE_NS)], StartAttempt)
    assert [each.backend for each in started] == ["b0"]


def test_what_a_backend_failed_goes_there_again_where_no_other_has_a_slot() -> None:
    scene = pool(1, 1)
    assert sends(scene, "r1") == "b0"
    assert sends(scene, "r2", agent="b") == "b1"
    failed = scene.ends("r1", BackendFailed("broken"))
    started = of([*failed, *scene.wait(MINUTE_NS)], StartAttempt)
    assert [each.backend for each in started] == ["b0"]


def test_a_session_whose_backend_has_no_slot_waits_for_none() -> None:
    scene = pool(1, 1)
    assert sends(scene, "r1", session="s") == "b0"
    assert sends(scene, "r2", session="s") == "b1"


def test_a_session_leaves_a_backend_without_the_context_that_it_needs() -> None:
    scene = pool(2, 2)
    scene.open("b0", model("m", slots=2, num_ctx_max=16_384))
    scene.open("b1", model("m", slots=2, num_ctx_max=16_384))
    scene.engine.backends["b1"].residents["blob-m"].num_ctx = 16_384
    assert sends(scene, "r1", session="s") == "b0"
    spec = replace(request("r2", num_ctx_needed=9_000), session_id="s")
    (started,) = of(scene.turn(Arrived(spec)), StartAttempt)
    assert started.backend == "b1"


def test_the_longest_unused_session_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "AFFINITIES_MAX", 2)
    scene = pool(9, 9)
    assert sends(scene, "r1", agent="x") == "b0"
    assert [sends(scene, f"r{n}", agent=f"a{n}") for n in range(4)] == ["b1", "b0", "b1", "b0"]
    assert len(scene.engine._routing) == 2


def test_one_backend_remembers_nothing() -> None:
    scene = pool(2)
    assert sends(scene, "r1", session="s") == "b0"
    assert len(scene.engine._routing) == 0


# Which of them loads


def idle(*weights: float) -> Scene:
    """Backends b0, b1 and so on that could load m and n, and hold nothing."""
    scene = Scene(*(BackendPolicy(name=f"b{n}", weight=each) for n, each in enumerate(weights)))
    for number, _ in enumerate(weights):
        scene.open(f"b{number}", model("m"), model("n"))
        scene.seen(f"b{number}")
    return scene


def loads_it(scene: Scene, load_ns: int, name: str, backend: str) -> None:
    """The load of a model that is under way takes so long, and its request ends."""
    scene.wait(load_ns)
    scene.loaded(name, backend)
    scene.end_one()
    scene.wait(SECOND_NS)
    scene.seen(backend)  # it has left again


def test_what_two_could_load_is_loaded_by_the_first_and_then_by_the_faster() -> None:
    scene = idle(1.0, 1.0)
    assert switches(scene.turn(arrived("r1"))) == ["load m on b0"]
    loads_it(scene, 9 * SECOND_NS, "m", "b0")
    scene.down("b0")
    assert switches(scene.turn(arrived("r2"))) == ["load m on b1"]
    loads_it(scene, 2 * SECOND_NS, "m", "b1")
    scene.up("b0")
    assert switches(scene.turn(arrived("r3"))) == ["load m on b1"]


def test_the_larger_weight_loads_where_nothing_was_measured() -> None:
    assert switches(idle(1.0, 2.0).turn(arrived("r1"))) == ["load m on b1"]


def test_the_busier_loads_last() -> None:
    policies = (BackendPolicy(name="b0", resident_max=2), BackendPolicy(name="b1", resident_max=2))
    scene = Scene(*policies)
    for name in ("b0", "b1"):
        scene.open(name, model("m"), model("n"))
        scene.seen(name)
    scene.turn(arrived("r1"))
    scene.loaded("m", "b0")
    assert switches(scene.turn(arrived("r2", model="n"))) == ["load n on b1"]
