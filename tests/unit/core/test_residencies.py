"""How a backend changes its models: the switch protocol, and what is believed of a backend."""

from __future__ import annotations

from broker.core.effects import Finish, Load, Renew, StartAttempt, Unload
from broker.core.errors import BackendUnreachable, LoadFailed, ModelUnknown
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.stimuli import LoadEnded, ModelsListed
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
    serving,
    started,
    switches,
)

BROKEN = LoadFailed("out of memory")


# How


def test_the_victim_is_gated_drained_unloaded_and_proven_gone_before_the_load() -> None:
    scene = serving(model("m", slots=8), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("m2"))
    effects = scene.turn(arrived("n1", model="n"))
    assert (switches(effects), scene.state("m")) == ([], ResidencyState.DRAINING)
    assert started(scene.turn(arrived("m3"))) == []  # gated: nothing new although slots are free
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
    scene = serving(model("m", slots=4), model("n"))
    scene.turn(arrived("m1"))
    scene.turn(arrived("n1", model="n"))
    scene.turn(arrived("m2"))
    assert scene.state("m") is ResidencyState.DRAINING
    effects = scene.turn(cancel("n1"))
    assert started(effects) == ["m2"]
    assert scene.state("m") is ResidencyState.RESIDENT


def test_another_model_has_its_turn_though_the_victims_requests_pile_up() -> None:
    """Else a busy model would be unloaded and loaded again, and the others would wait for ever."""
    scene = serving(model("m", slots=4), model("n"))
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


def test_a_runner_that_is_listed_under_another_of_its_names_is_unloaded_by_that_one() -> None:
    scene = serving(model("m"), model("alias", runner="blob-m"), model("n"))
    scene.seen("b1", resident("alias"))
    [unload] = of(scene.turn(arrived("n1", model="n")), Unload)
    assert unload == Unload("b1", "blob-m", "alias:latest")


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


def test_a_model_that_was_deleted_while_loaded_gets_no_more_work_there() -> None:
    """Its backend would refuse the name; another that still has it serves those who wait."""
    scene = Scene(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    scene.open("b1", model("m"))
    scene.open("b2", model("m"))
    scene.turn(arrived("r1"))
    assert switches(scene.turn(ModelsListed("b1", ()))) == ["load m on b2"]
    assert started(scene.turn(LoadEnded("b1", "blob-m"))) == []
    assert started(scene.loaded("m", "b2")) == ["r1"]
