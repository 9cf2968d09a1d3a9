"""When a backend changes its models, and how: the rules, seen from outside through the engine."""

from __future__ import annotations

import pytest

from broker.core.effects import Finish, Load, Renew, StartAttempt, Unload
from broker.core.errors import BackendUnreachable, LoadFailed, ModelUnknown
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.stimuli import CancelAsked, CancelCause, ModelsListed
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

BROKEN = LoadFailed("out of memory")


def cancel(request_id: str, agent: str = "a") -> CancelAsked:
    return CancelAsked((agent, request_id), CancelCause.BY_AGENT)


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


def test_a_resident_model_is_exhausted_before_it_is_left_however_long_others_wait() -> None:
    scene = serving(model("m"), model("n"))
    for number in range(4):
        scene.turn(arrived(f"m{number}"))
    assert switches(scene.turn(arrived("n1", model="n"))) == []
    for number in range(3):
        effects = scene.wait(2 * MINUTE_NS) + scene.ends(f"m{number}")
        assert switches(effects) == []
        assert started(effects) == [f"m{number + 1}"]
    assert scene.state("m") is ResidencyState.DRAINING  # its last one runs, nobody waits for it
    assert switches(scene.ends("m3")) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_the_next_model_is_the_one_with_the_longest_total_wait() -> None:
    scene = serving(model("m"), model("few"), model("many"), model("none"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("old", model="few"))
    scene.wait(10 * SECOND_NS)
    for number in range(3):
        scene.turn(arrived(f"young{number}", model="many"))
    scene.wait(SECOND_NS)
    scene.ends("m1")
    assert switches(scene.unloaded("m")) == ["load few on b1"]  # 11 s against three times 1 s


def test_many_short_waits_outweigh_one_long_one() -> None:
    scene = serving(model("m"), model("few"), model("many"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("old", model="few"))
    scene.wait(SECOND_NS)
    for number in range(3):
        scene.turn(arrived(f"young{number}", model="many"))
    scene.wait(SECOND_NS)
    scene.ends("m1")
    assert switches(scene.unloaded("m")) == ["load many on b1"]


def test_one_load_at_a_time_even_where_there_is_room_for_more() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=3))
    scene.open("b1", model("m"), model("n"))
    assert switches(scene.turn(arrived("r1"))) == ["load m on b1"]
    assert switches(scene.turn(arrived("r2", model="n"))) == []
    effects = scene.loaded("m")
    assert (started(effects), switches(effects)) == (["r1"], ["load n on b1"])


# How


def test_the_victim_is_gated_drained_unloaded_and_proven_gone_before_the_load() -> None:
    scene = serving(model("m", slots=2), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("m2"))
    effects = scene.turn(arrived("n1", model="n"))
    assert (switches(effects), scene.state("m")) == ([], ResidencyState.DRAINING)
    assert started(scene.turn(arrived("m3"))) == []  # gated: nothing new although a slot comes free
    effects = scene.ends("m1")
    assert (started(effects), switches(effects)) == ([], [])
    effects = scene.ends("m2")
    assert of(effects, Unload) == [Unload("b1", "blob-m", "m:latest")]
    assert switches(scene.wait(MINUTE_NS)) == []  # unproven: nothing beside it
    assert switches(scene.unloaded("m")) == ["load n on b1"]
    effects = scene.loaded("n")
    assert started(effects) == ["n1"]
    assert switches(scene.ends("n1")) == ["unload n on b1"]  # m3's turn


def test_a_slot_in_its_grace_is_drained_too() -> None:
    scene = serving(model("m"), model("n"), placement=PlacementPolicy(slot_grace_ns=SECOND_NS))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    scene.turn(cancel("m1"))
    assert switches(scene.ends("m1", BROKEN)) == []
    assert switches(scene.wait(SECOND_NS)) == ["unload m on b1"]


def test_what_was_gated_for_another_serves_on_when_nobody_waits_for_that_any_more() -> None:
    scene = serving(model("m", slots=2), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    scene.turn(arrived("m2"))
    assert scene.state("m") is ResidencyState.DRAINING
    effects = scene.turn(cancel("n1"))
    assert started(effects) == ["m2"]
    assert scene.state("m") is ResidencyState.RESIDENT


def test_another_model_has_its_turn_though_the_victims_requests_pile_up() -> None:
    """Else a busy model would be unloaded and loaded again, and the others would wait for ever."""
    scene = serving(model("m", slots=2), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    scene.wait(MINUTE_NS)
    for number in range(9):
        scene.turn(arrived(f"late{number}"))
    scene.wait(MINUTE_NS)
    assert switches(scene.ends("m1")) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load n on b1"]


def test_a_victim_comes_back_if_nobody_else_waits_when_it_has_left() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    scene.turn(arrived("m2"))
    assert switches(scene.ends("m1")) == ["unload m on b1"]
    scene.turn(cancel("n1"))
    assert switches(scene.unloaded("m")) == ["load m on b1"]


def test_a_restart_for_a_larger_context_does_not_lose_its_place() -> None:
    """It is gated for its own sake, not for another's."""
    scene = serving(model("m", num_ctx_max=16384), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("large", num_ctx_needed=8192))
    scene.wait(SECOND_NS)
    scene.turn(arrived("n1", model="n"))
    assert switches(scene.ends("m1")) == ["unload m on b1"]
    assert switches(scene.unloaded("m")) == ["load m on b1"]


def test_of_several_that_may_leave_the_one_idle_longest_does() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", model("m"), model("n"), model("o"))
    for name in ("m", "n"):
        scene.turn(arrived(f"{name}1", model=name))
        scene.loaded(name)
        scene.wait(SECOND_NS)
        scene.ends(f"{name}1")
    scene.turn(arrived("m2"))
    scene.wait(SECOND_NS)
    scene.ends("m2")
    assert switches(scene.turn(arrived("o1", model="o"))) == ["unload n on b1"]


def test_an_unload_that_is_not_proven_leaves_a_stranger_that_is_not_touched_again() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("n1", model="n"))
    assert switches(scene.unloaded("m", error=LoadFailed("still there"))) == []
    assert (scene.state("m"), scene.residency("m").managed) == (ResidencyState.RESIDENT, False)
    effects = scene.wait(9 * MINUTE_NS)
    assert (switches(effects), of(effects, Renew)) == ([], [])
    assert switches(scene.seen("b1")) == ["load n on b1"]  # it has left by itself


def test_an_unload_that_found_no_server_does_not_make_a_stranger() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("n1", model="n"))
    assert switches(scene.unloaded("m", error=BackendUnreachable("refused"))) == []
    assert switches(scene.up("b1")) == ["unload m on b1"]


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


def test_count_alone_decides_among_our_own_where_no_bytes_are_known() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", *(model(name, size_bytes=10**12) for name in "mno"))
    scene.turn(arrived("m1"))
    scene.loaded("m")
    assert switches(scene.turn(arrived("n1", model="n"))) == ["load n on b1"]
    scene.loaded("n")
    scene.turn(arrived("o1", model="o"))
    assert switches(scene.ends("m1")) == ["unload m on b1"]


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


def test_the_backend_with_most_free_slots_gets_the_work() -> None:
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m", slots=2))
    scene.open("b2", model("m", slots=3))
    scene.seen("b1", resident("m"))
    scene.seen("b2", resident("m"))
    effects = [each for number in range(5) for each in scene.turn(arrived(f"r{number}"))]
    assert [each.backend for each in of(effects, StartAttempt)] == ["b2", "b1", "b2", "b1", "b2"]


def test_a_backend_that_is_down_gets_no_work_and_no_load() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    scene.loaded("m")
    scene.ends("r1")
    scene.down("b1")
    effects = scene.turn(arrived("r2"))
    assert (started(effects), switches(effects)) == ([], ["load m on b2"])


# Loads that fail


def test_a_failed_load_ends_those_who_wait_and_is_not_tried_again_for_a_while() -> None:
    scene = Scene(placement=PlacementPolicy(failed_load_hold_ns=MINUTE_NS))
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", agent="b"))
    effects = scene.loaded("m", error=BROKEN)
    assert finished(effects) == [("r1", Outcome.FAILED), ("r2", Outcome.FAILED)]
    assert {each.error for each in of(effects, Finish)} == {BROKEN}
    scene.wait(MINUTE_NS - 1)
    refusal = scene.turn(arrived("r3"))
    assert switches(refusal) == []
    scene.wait(1)
    assert switches(scene.turn(arrived("r4"))) == ["load m on b1"]


def test_a_failed_load_leaves_its_waiters_to_another_backend() -> None:
    scene = two()
    scene.turn(arrived("r1"))
    effects = scene.loaded("m", error=BROKEN)
    assert (finished(effects), switches(effects)) == ([], ["load m on b2"])
    effects = scene.loaded("m", "b2", error=BROKEN)
    assert finished(effects) == [("r1", Outcome.FAILED)]


def test_other_models_are_loaded_while_one_is_held_off() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("r1"))
    scene.turn(arrived("r2", model="n"))
    assert switches(scene.loaded("m", error=BROKEN)) == ["load n on b1"]


def test_a_load_that_found_no_server_is_tried_again_as_soon_as_it_is_back() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.turn(arrived("r1"))
    effects = scene.loaded("m", error=BackendUnreachable("refused"))
    assert (finished(effects), switches(effects)) == ([], [])
    assert switches(scene.up("b1")) == ["load m on b1"]


# Context sizes


def test_a_large_context_restarts_the_runner_once_when_its_queue_is_exhausted() -> None:
    scene = serving(model("m", num_ctx=4096, num_ctx_max=16384))
    scene.turn(arrived("small1"))
    scene.turn(arrived("small2"))
    scene.turn(arrived("large", num_ctx_needed=5000))
    assert started(scene.ends("small1")) == ["small2"]
    assert switches(scene.ends("small2")) == ["unload m on b1"]
    effects = scene.unloaded("m")
    assert of(effects, Load) == [Load("b1", "blob-m", "m:latest", 8192)]
    [order] = of(scene.loaded("m"), StartAttempt)
    assert (order.key[1], order.num_ctx) == ("large", 8192)
    assert order.changes == ("num_ctx is 8192 instead of 5000",)
    scene.ends("large")
    assert started(scene.turn(arrived("small3"))) == ["small3"]  # the usual size fits as well


def test_a_larger_context_than_the_backend_gave_is_not_asked_for_again_and_again() -> None:
    scene = serving(model("m", num_ctx=4096, num_ctx_max=16384))
    scene.turn(arrived("large", num_ctx_needed=8192))
    scene.unloaded("m")
    scene.seen("b1", resident("m", num_ctx=6000))  # clamped
    effects = scene.loaded("m")
    assert (started(effects), switches(effects)) == (["large"], [])


def test_an_old_list_does_not_make_a_new_context_small_again() -> None:
    scene = serving(model("m", num_ctx_max=16384))
    scene.now_ns = SECOND_NS
    scene.turn(arrived("large", num_ctx_needed=8192))
    scene.unloaded("m")
    scene.seen("b1", resident("m", num_ctx=4096), asked_ns=SECOND_NS - 1)
    assert scene.residency("m").num_ctx == 8192


def test_a_raised_context_is_let_down_when_it_was_not_needed_for_a_while() -> None:
    scene = serving(
        model("m", num_ctx_max=16384), placement=PlacementPolicy(num_ctx_hold_ns=MINUTE_NS)
    )
    scene.turn(arrived("large", num_ctx_needed=8192))
    scene.unloaded("m")
    scene.loaded("m")
    scene.wait(2 * MINUTE_NS)
    assert switches(scene.ends("large")) == []  # it was needed until now
    scene.wait(MINUTE_NS - 1)
    assert switches(scene.seen("b1", resident("m", num_ctx=8192))) == ["unload m on b1"]
    scene.unloaded("m")
    [load] = of(scene.turn(arrived("small")), Load)
    assert load.num_ctx is None


def test_a_usual_context_is_never_let_down() -> None:
    scene = serving(model("m"), placement=PlacementPolicy(num_ctx_hold_ns=MINUTE_NS))
    scene.wait(3 * MINUTE_NS)
    assert switches(scene.seen("b1", resident("m"))) == []


# Keeping


def test_a_keep_alive_is_renewed_at_half_of_it_while_the_model_is_resident() -> None:
    scene = serving(
        model("m", num_ctx=4096), placement=PlacementPolicy(keep_alive_ns=10 * MINUTE_NS)
    )
    assert of(scene.wait(5 * MINUTE_NS - 1), Renew) == []
    assert of(scene.wait(1), Renew) == [Renew("b1", "m:latest", 4096)]
    assert len(of(scene.wait(10 * MINUTE_NS), Renew)) == 2


def test_nothing_is_renewed_that_is_to_leave_has_left_or_cannot_be_reached() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1", deadline_ns=60 * MINUTE_NS))
    scene.turn(arrived("n1", model="n", deadline_ns=60 * MINUTE_NS))
    assert scene.state("m") is ResidencyState.DRAINING
    assert of(scene.wait(6 * MINUTE_NS), Renew) == []
    scene.ends("m1")
    scene.unloaded("m")
    assert of(scene.wait(6 * MINUTE_NS), Renew) == []
    scene.loaded("n")
    scene.down("b1")
    assert of(scene.wait(6 * MINUTE_NS), Renew) == []
    scene.up("b1")
    assert len(of(scene.wait(6 * MINUTE_NS), Renew)) == 1


def test_a_stranger_is_not_kept() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.seen("b1", resident("m"))
    assert of(scene.wait(20 * MINUTE_NS), Renew) == []


# News and old news


def test_a_model_that_vanished_is_loaded_again_when_it_is_wanted() -> None:
    scene = serving(model("m"))
    scene.seen("b1")
    assert scene.state("m") is ResidencyState.ABSENT
    assert switches(scene.turn(arrived("r2"))) == ["load m on b1"]


def test_a_list_that_was_asked_for_before_the_load_ended_says_nothing_of_it() -> None:
    scene = serving(model("m"))
    changed_ns = scene.residency("m").changed_ns
    scene.seen("b1", asked_ns=changed_ns)
    assert scene.state("m") is ResidencyState.RESIDENT


def test_a_list_that_was_asked_for_before_an_unload_was_proven_brings_nothing_back() -> None:
    scene = serving(model("m"), model("n"))
    scene.now_ns = asked_ns = SECOND_NS
    scene.turn(arrived("n1", model="n"))
    scene.now_ns = 2 * SECOND_NS
    assert switches(scene.unloaded("m")) == ["load n on b1"]
    scene.seen("b1", resident("m"), asked_ns=asked_ns)
    assert scene.state("m") is ResidencyState.ABSENT
    scene.seen("b1", resident("m"))
    assert scene.residency("m").managed is False  # news: somebody else has loaded it


def test_one_list_may_tell_of_one_that_vanished_and_of_one_that_appeared() -> None:
    scene = serving(model("m"), model("n"))
    scene.seen("b1", resident("n"))
    states = (scene.state("m"), scene.state("n"))
    assert states == (ResidencyState.ABSENT, ResidencyState.RESIDENT)


def test_a_resident_that_no_list_of_models_names_is_a_stranger_by_its_digest() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    scene.seen("b1", resident("unknown"))
    assert list(scene.engine.backends["b1"].residents) == ["unlisted:manifest-unknown"]


def test_two_names_of_one_blob_are_one_runner() -> None:
    scene = Scene()
    scene.open("b1", model("m"), model("alias", runner="blob-m"))
    assert switches(scene.turn(arrived("r1", model="alias"))) == ["load alias on b1"]
    scene.turn(arrived("r2", model="m"))
    effects = scene.loaded("m") + scene.ends("r1")
    assert [each.model for each in of(effects, StartAttempt)] == ["alias:latest", "m:latest"]


# Models that come and go


def test_those_who_wait_for_a_model_that_was_deleted_hear_so() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    effects = scene.turn(ModelsListed("b1", (model("m"), model("nn"))))
    [end] = of(effects, Finish)
    assert (end.key[1], end.outcome) == ("n1", Outcome.FAILED)
    assert isinstance(end.error, ModelUnknown)
    assert end.error.nearest[0] == "nn:latest"
    assert scene.state("m") is ResidencyState.RESIDENT  # nobody waits for its place any more


def test_those_who_wait_for_a_model_that_was_pulled_anew_wait_for_the_new_one() -> None:
    scene = serving(model("m"), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    scene.turn(arrived("n2", model="n"))
    effects = scene.turn(ModelsListed("b1", (model("m"), model("n", runner="blob-n2"))))
    assert finished(effects) == []
    scene.ends("m1")
    [load] = of(scene.unloaded("m"), Load)
    assert load.runner == "blob-n2"
    assert started(scene.loaded("n") + scene.ends("n1")) == ["n1", "n2"]


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
