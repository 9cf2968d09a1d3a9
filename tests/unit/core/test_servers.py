"""Servers that answer and do not serve: when they count as wedged, and their restarts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from broker.core.effects import Effect, RestartBackend
from broker.core.errors import BackendFailed, LoadFailed, LoadHung
from broker.core.healing import HealingPolicy, Health
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.stimuli import BackendDrainAsked, BackendSeen, PolicyChanged, RestartEnded
from tests.unit.core.healing_scene import evidence, steps
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    of,
    resident,
    started,
    switches,
)

POLICY = HealingPolicy()
LONG_NS = 600 * MINUTE_NS
MAY_RESTART = BackendPolicy(name="b1", resident_max=2, may_restart=True)
HUNG = LoadHung("m was not loaded within 600 s")


def health(scene: Scene) -> Health:
    return scene.engine.backends["b1"].health


def asked_for(scene: Scene, name: str) -> None:
    scene.turn(arrived(f"{name}{scene.now_ns}", model=name, deadline_ns=scene.now_ns + LONG_NS))


def open_scene(policy: BackendPolicy = MAY_RESTART) -> Scene:
    """m is resident and serves; n and o are on disk. A failed load is tried again after 1 s."""
    scene = Scene(policy, placement=PlacementPolicy(failed_load_hold_ns=SECOND_NS))
    scene.open("b1", model("m"), model("n"), model("o"))
    scene.wait(SECOND_NS)
    asked_for(scene, "m")
    scene.loaded("m")
    scene.end_one()
    return scene


def hang(scene: Scene, name: str) -> list[Effect]:
    """A load that is asked for hangs."""
    asked_for(scene, name)
    return scene.loaded(name, error=HUNG)


def wedge(scene: Scene) -> list[Effect]:
    return hang(scene, "n") + hang(scene, "o")


def test_one_hung_load_makes_it_suspect_and_anything_served_well_again() -> None:
    scene = open_scene()
    assert "cure_failed n on b1" in steps(hang(scene, "n"))
    assert health(scene) is Health.SUSPECT
    asked_for(scene, "m")
    scene.end_one()
    assert (health(scene), scene.engine.backends["b1"].evidence) == (Health.WELL, "")
    hang(scene, "o")
    assert health(scene) is Health.SUSPECT


def test_a_load_that_failed_in_words_is_no_sign() -> None:
    scene = open_scene()
    for name in ("n", "o"):
        asked_for(scene, name)
        scene.loaded(name, error=LoadFailed("out of memory"))
    assert health(scene) is Health.WELL


def test_the_second_hung_load_says_that_it_is_wedged_and_the_command_is_run() -> None:
    scene = open_scene()
    effects = wedge(scene)
    assert steps(effects)[-2:] == ["wedged  on b1", "restarting  on b1"]
    assert of(effects, RestartBackend) == [RestartBackend("b1")]
    assert evidence(effects) == f"restart 1 of at most 5: {HUNG.message}"
    assert (health(scene), scene.engine.backends["b1"].restarts) == (Health.RESTARTING, 1)


def test_without_a_command_it_is_told_and_no_more() -> None:
    scene = open_scene(BackendPolicy(name="b1", resident_max=2))
    effects = wedge(scene)
    assert (steps(effects)[-1], of(effects, RestartBackend)) == ("wedged  on b1", [])
    assert evidence(effects) == HUNG.message


def test_nothing_is_loaded_on_a_wedged_server_but_what_is_resident_serves() -> None:
    scene = open_scene(BackendPolicy(name="b1", resident_max=2))
    wedge(scene)
    assert switches(scene.wait(MINUTE_NS - SECOND_NS)) == []
    effects = scene.turn(arrived("r", deadline_ns=LONG_NS))
    assert started(effects) == ["r"]
    effects = scene.ends("r")
    assert health(scene) is Health.WELL  # it serves: it is not wedged
    assert switches(effects) in (["load n on b1"], ["load o on b1"])


def test_a_list_of_residents_that_never_comes_twice_is_a_wedged_server() -> None:
    scene = open_scene()
    mute = BackendSeen("b1", False, "no list of residents within 25 s", True)
    scene.turn(mute)
    assert health(scene) is Health.SUSPECT
    assert steps(scene.turn(mute)) == ["wedged  on b1", "restarting  on b1"]


def test_a_list_that_does_not_come_while_a_model_is_loaded_is_no_sign() -> None:
    scene = open_scene()
    asked_for(scene, "n")
    for _ in range(3):
        scene.turn(BackendSeen("b1", False, "no list of residents within 25 s", True))
    assert health(scene) is Health.WELL


def test_a_server_that_is_only_away_is_not_wedged() -> None:
    scene = open_scene()
    for _ in range(9):
        scene.down("b1")
    assert health(scene) is Health.WELL


def test_a_server_that_came_back_while_the_command_ran_is_well_after_it() -> None:
    scene = open_scene()
    wedge(scene)
    scene.down("b1")
    scene.up("b1")
    assert health(scene) is Health.RESTARTING
    effects = scene.turn(RestartEnded("b1"))
    assert steps(effects)[0] == "restarted  on b1"
    assert (health(scene), evidence(effects)) == (Health.WELL, "the command ended well")


def test_a_server_that_comes_back_after_the_command_is_well() -> None:
    scene = open_scene()
    wedge(scene)
    scene.turn(RestartEnded("b1"))
    assert health(scene) is Health.SUSPECT
    scene.down("b1")
    scene.up("b1")
    assert health(scene) is Health.WELL


def test_what_had_no_token_yet_survives_a_restart() -> None:
    scene = open_scene()
    wedge(scene)
    scene.down("b1")
    scene.turn(RestartEnded("b1"))
    scene.up("b1")
    scene.seen("b1")
    scene.wait(10 * SECOND_NS)
    loading = next(iter(scene.engine.backends["b1"].residents))
    name = loading.removeprefix("blob-")
    assert [key for key in scene.loaded(name) if started([key])]


def restart_again(scene: Scene, count: int) -> list[int]:
    """The command fails so often: the moments at which it is run again."""
    moments = list[int]()
    for _ in range(count):
        scene.turn(RestartEnded("b1", BackendFailed("status 1")))
        while health(scene) is not Health.RESTARTING:
            scene.wait(SECOND_NS)
        moments.append(scene.now_ns)
    return moments


def test_restarts_are_apart_ever_longer_and_there_is_a_ceiling() -> None:
    scene = open_scene()
    wedge(scene)
    first_ns = scene.now_ns
    moments = [first_ns, *restart_again(scene, POLICY.restarts_max - 1)]
    pauses = [round((after - before) / MINUTE_NS) for before, after in pairwise(moments)]
    assert pauses == [1, 2, 4, 8]
    effects = scene.turn(RestartEnded("b1", BackendFailed("status 1")))
    assert steps(effects) == ["restarted  on b1", "wedged  on b1", "given_up  on b1"]
    assert "restarted 5 times, as often as may be" in evidence(effects)
    assert of(scene.wait(60 * MINUTE_NS), RestartBackend) == []


def test_restarts_are_forgotten_once_it_has_served_for_long() -> None:
    scene = open_scene()
    wedge(scene)
    scene.down("b1")
    scene.turn(RestartEnded("b1"))
    scene.up("b1")
    scene.seen("b1", resident("m"))
    state = scene.engine.backends["b1"]
    scene.turn(arrived("soon", deadline_ns=LONG_NS))
    scene.ends("soon")
    assert state.restarts == 1
    scene.wait(POLICY.restarts_forgotten_ns)
    scene.turn(arrived("late", deadline_ns=LONG_NS))
    scene.ends("late")
    assert state.restarts == 0


def test_a_restart_that_is_due_is_not_run_where_it_serves_again() -> None:
    scene = open_scene()
    wedge(scene)
    scene.turn(RestartEnded("b1", BackendFailed("status 1")))
    scene.turn(arrived("r", deadline_ns=LONG_NS))
    scene.ends("r")
    assert of(scene.wait(60 * MINUTE_NS), RestartBackend) == []


# Where nobody listens


AWAY = BackendSeen("b1", False, "Connection refused")


def away_scene(*, away_ns: int = MINUTE_NS, restarts_max: int = 5) -> Scene:
    """A server that is restarted once nobody has listened there for a minute."""
    scene = open_scene()
    healing = HealingPolicy(restart_away_ns=away_ns, restarts_max=restarts_max)
    scene.turn(
        PolicyChanged(replace(scene.engine.policy, backends=(MAY_RESTART,), healing=healing))
    )
    return scene


def away_for(scene: Scene, time_ns: int) -> list[Effect]:
    """It is looked at every second, and nobody is there."""
    effects = scene.turn(AWAY)
    for _ in range(time_ns // SECOND_NS):
        effects += [*scene.wait(SECOND_NS), *scene.turn(AWAY)]
    return effects


def test_a_server_that_is_down_is_left_alone_unless_its_operator_says_otherwise() -> None:
    scene = away_scene(away_ns=0)
    assert of(away_for(scene, 10 * MINUTE_NS), RestartBackend) == []
    assert health(scene) is Health.WELL


def test_a_server_that_is_down_for_long_is_restarted_and_every_step_is_told() -> None:
    scene = away_scene()
    early = away_for(scene, MINUTE_NS - 2 * SECOND_NS)
    assert of(early, RestartBackend) == []
    assert health(scene) is Health.WELL
    effects = away_for(scene, 2 * SECOND_NS)
    assert steps(effects) == ["wedged  on b1", "restarting  on b1"]
    assert "nobody has answered there for 60 s: Connection refused" in evidence(effects)
    assert of(effects, RestartBackend) == [RestartBackend("b1")]
    assert steps(scene.turn(RestartEnded("b1"))) == ["restarted  on b1"]
    scene.up("b1")
    scene.seen("b1", resident("m"))
    assert health(scene) is Health.WELL
    assert of(scene.wait(60 * MINUTE_NS), RestartBackend) == []


def test_one_that_stays_down_is_restarted_ever_more_seldom_and_only_so_often() -> None:
    scene = away_scene(restarts_max=3)
    moments = list[int]()
    told = list[str]()
    for _ in range(60 * 60):
        effects = away_for(scene, SECOND_NS)
        told += steps(effects)
        if of(effects, RestartBackend):
            moments.append(scene.now_ns)
            told += steps(scene.turn(RestartEnded("b1")))
    pauses = [round((after - before) / MINUTE_NS) for before, after in pairwise(moments)]
    assert pauses == [1, 2]  # each needs its minute to start, and the second its pause
    again = ["wedged  on b1", "restarting  on b1", "restarted  on b1"]
    assert told == [*again * 3, "wedged  on b1", "given_up  on b1"]


def test_a_server_that_comes_back_by_itself_is_not_restarted() -> None:
    scene = away_scene()
    for _ in range(5):
        assert of(away_for(scene, MINUTE_NS - 2 * SECOND_NS), RestartBackend) == []
        scene.up("b1")
    assert health(scene) is Health.WELL


def test_a_server_that_is_down_and_drained_is_not_restarted() -> None:
    scene = away_scene()
    scene.turn(BackendDrainAsked("b1", True))
    assert of(away_for(scene, 5 * MINUTE_NS), RestartBackend) == []


def test_a_command_that_fails_on_a_server_that_is_down_is_run_again_later() -> None:
    scene = away_scene()
    away_for(scene, MINUTE_NS)
    assert health(scene) is Health.RESTARTING
    effects = scene.turn(RestartEnded("b1", BackendFailed("status 1")))
    assert steps(effects) == ["restarted  on b1", "wedged  on b1"]
    assert of(away_for(scene, 2 * MINUTE_NS), RestartBackend) == [RestartBackend("b1")]


# What the operator changes


def changed(
    scene: Scene, backend: BackendPolicy = MAY_RESTART, *, restarts_max: int = 5
) -> list[Effect]:
    healing = HealingPolicy(restarts_max=restarts_max)
    policy = replace(scene.engine.policy, backends=(backend,), healing=healing)
    return scene.turn(PolicyChanged(policy))


def failed_once() -> Scene:
    """The command has failed, and is due again in a minute."""
    scene = open_scene()
    wedge(scene)
    scene.turn(RestartEnded("b1", BackendFailed("status 1")))
    return scene


def test_a_command_that_is_due_is_not_run_once_it_was_taken_away() -> None:
    scene = failed_once()
    changed(scene, replace(MAY_RESTART, may_restart=False))
    assert of(scene.wait(10 * MINUTE_NS), RestartBackend) == []


def test_a_server_that_an_operator_drains_is_not_restarted_until_that_is_over() -> None:
    scene = failed_once()
    scene.turn(BackendDrainAsked("b1", True))
    assert of(scene.wait(10 * MINUTE_NS), RestartBackend) == []
    mute = BackendSeen("b1", False, "no list of residents within 25 s", True)
    assert of(scene.turn(mute), RestartBackend) == []
    scene.turn(BackendDrainAsked("b1", False))
    assert of(scene.turn(mute), RestartBackend) == [RestartBackend("b1")]


def test_a_ceiling_that_is_raised_and_a_command_that_is_given_count_at_once() -> None:
    scene = open_scene()
    changed(scene, restarts_max=0)
    assert steps(wedge(scene))[-1] == "given_up  on b1"
    assert of(changed(scene), RestartBackend) == [RestartBackend("b1")]
    scene = open_scene(BackendPolicy(name="b1", resident_max=2))
    wedge(scene)
    assert of(changed(scene), RestartBackend) == [RestartBackend("b1")]


def test_that_it_was_given_up_is_told_once() -> None:
    scene = open_scene()
    changed(scene, restarts_max=0)
    told = wedge(scene)
    mute = BackendSeen("b1", False, "no list of residents within 25 s", True)
    told += scene.turn(mute) + changed(scene, restarts_max=0)
    assert [each for each in steps(told) if each.startswith("given_up")] == ["given_up  on b1"]
