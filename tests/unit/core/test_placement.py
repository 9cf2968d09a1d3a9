"""When a backend changes its models and which: the rules, seen from outside."""

from __future__ import annotations

import pytest

from broker.core.effects import Load, StartAttempt
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.residency import ResidencyState
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    model,
    of,
    resident,
    serving,
    started,
    switches,
)

# When


def test_an_empty_backend_loads_what_is_asked_for_and_then_serves_it() -> None:
    scene = Scene()
    scene.open("b1", model("m", num_ctx=8192))
    effects = scene.turn(arrived("r1"))
    assert of(effects, Load) == [Load("b1", "blob-m", "m:latest", 8192)]
    assert started(effects) == []
    effects = scene.loaded("m")
    assert [(each.model, each.num_ctx) for each in of(effects, StartAttempt)] == [
        ("m:latest", 8192)
    ]


def test_nothing_is_loaded_while_nobody_waits() -> None:
    scene = Scene()
    assert switches(scene.open("b1", model("m"))) == []
    assert switches(scene.wait(MINUTE_NS)) == []


def test_a_resident_model_is_exhausted_before_it_is_left() -> None:
    """For as little, and within its patience (test_worth.py)."""
    scene = serving(model("m"), model("n"))
    for number in range(4):
        scene.turn(arrived(f"m{number}"))
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    for number in range(3):
        effects = scene.wait(SECOND_NS) + scene.ends(f"m{number}")
        assert switches(effects) == []
        assert started(effects) == [f"m{number + 1}"]
    assert scene.state("m") is ResidencyState.DRAINING  # its last one runs, nobody waits for it
    assert switches(scene.ends("m3")) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_one_load_at_a_time_even_where_there_is_room_for_more() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3))
    scene.open("b1", model("m"), model("n"))
    assert switches(scene.turn(arrived("r1"))) == ["load m on b1"]
    assert switches(scene.turn(arrived("r2", model="n"))) == []
    effects = scene.loaded("m")
    assert (started(effects), switches(effects)) == (["r1"], ["load n on b1"])


# Whose


@pytest.mark.parametrize("resident_max", [1, 3])
def test_what_the_broker_does_not_manage_is_served_but_never_told_to_leave(
    resident_max: int,
) -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=resident_max))
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m", num_ctx=2048))
    effects = scene.turn(arrived("m1"))
    assert [each.num_ctx for each in of(effects, StartAttempt)] == [2048]  # what it has already
    scene.ends("m1")
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    assert switches(scene.wait(5 * MINUTE_NS)) == []
    assert switches(scene.seen("b1")) == ["load n on b1"]


def test_a_server_that_is_the_brokers_alone_is_managed_whole() -> None:
    scene = Scene(BackendPolicy(name="b1", exclusive=True))
    scene.open("b1", model("m"), model("n"))
    scene.seen("b1", resident("m"))
    assert switches(scene.turn(arrived("n1", model="n"))) == ["unload m on b1"]


def test_a_stranger_with_too_small_a_context_is_not_restarted() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3))
    scene.open("b1", model("m", num_ctx_max=8192))
    scene.seen("b1", resident("m", num_ctx=4096))
    assert switches(scene.turn(arrived("r1", num_ctx_needed=8192))) == []
    assert started(scene.turn(arrived("r2"))) == ["r2"]


# Memory


def test_bytes_decide_beside_a_stranger() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=3000))
    scene.open("b1", model("s"), model("big", size_bytes=2000), model("small", size_bytes=1000))
    scene.seen("b1", resident("s", memory_bytes=1000))
    assert switches(scene.turn(arrived("r1", model="big"))) == []  # 1000 + 1.2 * 2000 > 3000
    assert switches(scene.turn(arrived("r2", model="small"))) == ["load small on b1"]


def test_what_can_never_fit_beside_a_stranger_stands_in_nobodys_way() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=3000))
    scene.open("b1", model("s"), model("big", size_bytes=2000), model("small", size_bytes=1000))
    scene.seen("b1", resident("s", memory_bytes=1000))
    scene.turn(arrived("r0", model="small"))
    scene.loaded("small")
    scene.ends("r0")
    effects = scene.turn(arrived("r1", model="big")) + scene.wait(MINUTE_NS)
    assert switches(effects) == []  # nothing is unloaded for it in vain
    assert started(scene.turn(arrived("r2", model="small"))) == ["r2"]


def test_what_can_never_fit_does_not_keep_a_gate_shut() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=3000))
    scene.open("b1", model("s"), model("m"), model("n"), model("big", size_bytes=2000))
    scene.seen("b1", resident("s", memory_bytes=1000))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.turn(arrived("big1", model="big"))
    scene.turn(arrived("n1", model="n"))
    assert scene.state("m") is ResidencyState.DRAINING
    scene.turn(cancel("n1"))
    assert scene.state("m") is ResidencyState.RESIDENT


def test_count_alone_decides_among_our_own_where_no_bytes_are_known() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", *(model(name, size_bytes=10**12) for name in "mno"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    assert switches(scene.turn(arrived("n1", model="n"))) == ["load n on b1"]
    scene.loaded("n")
    scene.turn(arrived("o1", model="o"))
    assert switches(scene.ends("m1")) == ["unload m on b1"]


def test_the_same_weights_with_something_else_laid_on_them_take_each_others_place() -> None:
    """A server holds one of them at a time, whatever room it has (OLLAMA.md §3.5)."""
    policy = BackendPolicy(name="b1", resident_max=3, loaded_max=3, memory_bytes=10**9)
    scene = Scene(policy)
    scene.open("b1", model("m", runner="w"), model("n", runner="w+a"), model("o", runner="v"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    assert switches(scene.turn(arrived("o1", model="o"))) == ["load o on b1"]
    scene.loaded("o")
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    assert switches(scene.ends("m1")) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_measured_bytes_count_more_than_those_estimated_from_the_file() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=3000))
    scene.open("b1", model("m", size_bytes=1000), model("n", size_bytes=1000))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.seen("b1", resident("m", memory_bytes=2000))  # 2000 + 1200 > 3000
    scene.ends("m1")
    assert switches(scene.turn(arrived("n1", model="n"))) == ["unload m on b1"]


def test_bytes_that_nobody_knows_prove_no_room() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=10**9))
    scene.open("b1", model("m"))
    scene.seen("b1", resident("somebody-elses", memory_bytes=0))
    assert switches(scene.turn(arrived("m1"))) == []


def test_as_many_leave_as_the_newcomer_needs_one_after_the_other() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=3000))
    scene.open("b1", model("m"), model("n"), model("big", size_bytes=2400))
    for name in ("m", "n"):
        scene.turn(arrived(f"{name}1", model=name))
        scene.loaded(name)
        scene.ends(f"{name}1")
        scene.now_ns += 1
    assert switches(scene.turn(arrived("big1", model="big"))) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["unload n on b1"]
    assert switches(scene.unloaded("n")) == ["load big on b1"]


def test_nothing_leaves_for_a_model_that_still_would_not_fit() -> None:
    """n has a queue and stays; without n's place big does not fit, so m may as well stay."""
    scene = Scene(BackendPolicy(name="b1", resident_max=3, memory_bytes=3000))
    scene.open("b1", model("m"), model("n"), model("big", size_bytes=2400))
    for name in ("m", "n"):
        scene.turn(arrived(f"{name}1", model=name))
        scene.loaded(name)
    scene.ends("m1")
    scene.turn(arrived("n2", model="n"))
    assert switches(scene.turn(arrived("big1", model="big"))) == []
    assert switches(scene.ends("n1")) == ["unload m on b1"]


# Several backends


def two() -> Scene:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m"), model("n"))
    scene.open("b2", model("m"), model("n"))
    return scene


def test_a_model_is_loaded_on_one_backend_as_long_as_its_slots_suffice() -> None:
    scene = two()
    assert switches(scene.turn(arrived("r1"))) == ["load m on b1"]
    assert switches(scene.loaded("m")) == []
    assert switches(scene.turn(arrived("r2"))) == []  # one waits, one slot


def test_a_backlog_beyond_the_slots_spills_to_a_second_backend() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.turn(arrived("r2"))
    assert switches(scene.turn(arrived("r3"))) == ["load m on b2"]
    assert started(scene.loaded("m", "b2")) == ["r2"]


def test_what_nobody_serves_goes_before_a_spill() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.down("b2")
    for number in range(5):
        scene.turn(arrived(f"more{number}"))
    scene.wait(MINUTE_NS)
    scene.turn(arrived("n1", model="n"))
    assert switches(scene.up("b2")) == ["load n on b2"]


def test_room_on_one_backend_is_used_before_anything_leaves_another() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.ends("r1")
    assert switches(scene.turn(arrived("n1", model="n"))) == ["load n on b2"]
    assert scene.state("m") is ResidencyState.RESIDENT


def test_only_one_backend_makes_room_for_a_model() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    for backend, name in (("b1", "m"), ("b2", "o")):
        scene.open(backend, model("m"), model("n"), model("o"))
        scene.turn(arrived(f"{name}1", model=name))
        scene.loaded(name, backend)
    effects = scene.turn(arrived("n1", model="n"))
    gated = [scene.state("m"), scene.state("o", "b2")]
    assert (switches(effects), gated) == ([], [ResidencyState.DRAINING, ResidencyState.RESIDENT])
    assert switches(scene.ends("o1")) == []  # b1 has promised it


def test_a_promise_of_one_backend_does_not_keep_the_room_of_another_empty() -> None:
    scene = two()
    scene.down("b2")
    scene.turn(arrived("m1"))
    scene.loaded("m")
    scene.turn(arrived("n1", model="n"))
    assert scene.state("m") is ResidencyState.DRAINING
    assert switches(scene.up("b2")) == ["load n on b2"]
    assert scene.state("m") is ResidencyState.RESIDENT


def test_the_backend_with_the_least_part_of_its_slots_taken_gets_the_work() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m", slots=2))
    scene.open("b2", model("m", slots=3))
    scene.seen("b1", resident("m"))
    scene.seen("b2", resident("m"))
    effects = [each for number in range(5) for each in scene.turn(arrived(f"r{number}"))]
    assert [each.backend for each in of(effects, StartAttempt)] == ["b1", "b2", "b2", "b1", "b2"]


def test_a_backend_that_is_down_gets_no_work_and_no_load() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.ends("r1")
    scene.down("b1")
    effects = scene.turn(arrived("r2"))
    assert (started(effects), switches(effects)) == ([], ["load m on b2"])


# Policies


@pytest.mark.parametrize(
    ("keep_alive_ns", "hold_ns", "num_ctx_hold_ns", "grace_ns"),
    [(1, 1, 1, 0), (2, 0, 1, 0), (2, 1, 0, 0), (2, 1, 1, -1)],
)
def test_a_policy_without_sense_is_refused(
    keep_alive_ns: int, hold_ns: int, num_ctx_hold_ns: int, grace_ns: int
) -> None:
    with pytest.raises(ValueError):
        PlacementPolicy(
            keep_alive_ns=keep_alive_ns,
            failed_load_hold_ns=hold_ns,
            num_ctx_hold_ns=num_ctx_hold_ns,
            slot_grace_ns=grace_ns,
        )
    with pytest.raises(ValueError):
        BackendPolicy(name="b1", resident_max=0)
