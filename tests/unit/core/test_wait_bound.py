"""The bound on a request's wait, as it is stated when it comes, and when it cannot be."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy
from broker.core.estimates import SAMPLES_MIN
from broker.core.placement import BackendPolicy
from broker.core.record import Bound
from broker.core.stimuli import PauseAsked, Scope
from broker.core.story import explain
from broker.core.wait_bound import LOOK_NS, UNLOAD_NS
from broker.core.work_seen import BURST_NS_MIN, LOAD_UNSEEN, LOAD_WINDOW_NS
from broker.core.worth import IDLE_SHARE_MIN, PATIENCE_CYCLES
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model

LOAD_NS = 5 * SECOND_NS
DAY_NS = 24 * 60 * MINUTE_NS
LEFT = 1 - LOAD_UNSEEN  # of the slots, where a load of 0.9 is taken for granted


def scene_of(*names: str, slots: int = 1, agents: AgentsPolicy | None = None) -> Scene:
    """One backend for one model at a time. Each was loaded once, in 5 s, the last one is there; and
    enough requests of 1 s were served."""
    scene = Scene(agents=agents) if agents else Scene()
    scene.open("b1", *(model(name, slots=slots) for name in names))
    for number, name in enumerate(names):
        scene.turn(arrived(f"first-{name}", model=name, deadline_ns=DAY_NS))
        if number:
            scene.unloaded(names[number - 1])
        scene.wait(LOAD_NS)
        scene.loaded(name)
        scene.wait(SECOND_NS)
        scene.ends(f"first-{name}")
    scene.measured(model=names[-1])
    scene.wait(LOOK_NS)
    return scene


def come(scene: Scene, name: str, model_name: str = "m") -> Bound | None:
    scene.turn(arrived(name, model=model_name, deadline_ns=scene.now_ns + DAY_NS))
    return scene.engine.records["a", name].bound


def bound_s(scene: Scene, name: str, model_name: str = "m") -> float:
    bound = come(scene, name, model_name)
    assert bound is not None
    assert bound.ns is not None, bound.why
    return bound.ns / SECOND_NS


def why(scene: Scene, name: str, model_name: str = "m") -> str:
    bound = come(scene, name, model_name)
    assert bound is not None
    assert bound.ns is None
    return bound.why


def test_where_no_model_takes_turns_it_is_what_waits_and_a_burst_over_what_is_left() -> None:
    scene = scene_of("m")
    burst_s = BURST_NS_MIN / SECOND_NS
    assert bound_s(scene, "r1") == pytest.approx(1 + (1 + burst_s) / LEFT)
    assert bound_s(scene, "r2") == pytest.approx(1 + (1 + burst_s) / LEFT)
    assert bound_s(scene, "r3") == pytest.approx(1 + (2 + burst_s) / LEFT)


def test_more_slots_work_off_more() -> None:
    scene = scene_of("m", slots=4)
    for number in range(8):
        come(scene, f"r{number}")
    expected_s = 1 + (5 / 4 + BURST_NS_MIN / SECOND_NS) / LEFT
    assert bound_s(scene, "last") == pytest.approx(expected_s)


def test_where_models_take_turns_it_is_until_its_model_is_there_as_well() -> None:
    scene = scene_of("other", "m")
    patience_s = PATIENCE_CYCLES * 2 * LOAD_NS / SECOND_NS / IDLE_SHARE_MIN
    turn_s = 2 * (1 + 2 * LOAD_NS / SECOND_NS + UNLOAD_NS / SECOND_NS)
    burst_s = BURST_NS_MIN / SECOND_NS
    # Half of what is left works off what waits: overdue models may take the other for their loads.
    worked_off_s = (1 + burst_s) / (LEFT / 2)
    found_s = bound_s(scene, "r1", "other")
    assert found_s == pytest.approx(1 + patience_s + turn_s + worked_off_s)


def pair_of(*backends: BackendPolicy) -> Scene:
    """Backends that both have three models: `m` is on the first and `other` on the last. As much as
    in `scene_of` was measured."""
    scene = Scene(*backends)
    for backend in backends:
        scene.open(backend.name, model("m"), model("other"), model("third"))
    for name, backend in (("m", backends[0]), ("other", backends[-1])):
        scene.turn(arrived(f"first-{name}", model=name, deadline_ns=DAY_NS))
        scene.wait(LOAD_NS)
        scene.loaded(name, backend.name)
        scene.wait(SECOND_NS)
        scene.ends(f"first-{name}")
    scene.measured()
    scene.wait(LOOK_NS)
    return scene


def test_models_that_fit_together_take_no_turns() -> None:
    scene = pair_of(BackendPolicy(name="b1", resident_max=2))
    assert bound_s(scene, "r1") == pytest.approx(1 + (1 + BURST_NS_MIN / SECOND_NS) / LEFT)


def test_models_on_two_servers_share_the_slots_of_both() -> None:
    scene = pair_of(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
    assert bound_s(scene, "r1") == pytest.approx(1 + (1 / 2 + BURST_NS_MIN / SECOND_NS) / LEFT)


def test_that_a_server_was_away_is_forgotten_when_nobody_asked_for_so_long() -> None:
    """While it is away the work is that of other servers; known are both for as long."""
    found_s = list[float]()
    for is_away in (False, True):
        scene = pair_of(BackendPolicy(name="b1"), BackendPolicy(name="b2"))
        scene.wait(5 * LOAD_WINDOW_NS)
        if is_away:
            scene.down("b2")
        for name in ("r1", "r2"):
            bound_s(scene, name)
            scene.ends(name)
            scene.up("b2")
            scene.wait(LOOK_NS)
        scene.wait(5 * LOAD_WINDOW_NS)
        come(scene, "r3", "third")  # for which one of the others has to leave
        found_s.append(bound_s(scene, "r4"))
    assert found_s[1] == pytest.approx(found_s[0], rel=0.01)


def test_what_the_memory_may_not_hold_together_takes_turns() -> None:
    tight = BackendPolicy(name="b1", resident_max=2, memory_bytes=2_500)
    scene = pair_of(tight)
    before_s = bound_s(scene, "r1")
    scene.ends("r1")
    scene.engine.backends["b1"].memory_seen["blob-m"] = 1_400  # with its 1,200 the other fits not
    scene.wait(LOOK_NS)
    assert bound_s(scene, "r2") > 2 * before_s


def test_it_is_tighter_where_little_has_come_for_long() -> None:
    scene = scene_of("m")
    before_s = bound_s(scene, "r1")
    scene.ends("r1")
    scene.wait(10 * LOAD_WINDOW_NS)
    assert bound_s(scene, "r2") < before_s / 4


def test_the_story_tells_it() -> None:
    scene = scene_of("m")
    told = come(scene, "r1")
    assert told is not None
    story = explain(scene.engine, ("a", "r1"), scene.now_ns)
    assert (story.bound_ns, story.bound_why) == told


def test_who_started_with_one_is_counted() -> None:
    scene = scene_of("m")
    kept = scene.engine.tally.bounds.kept
    for name in ("r1", "r2", "r3"):
        come(scene, name)
    scene.wait(SECOND_NS)
    scene.order()
    tally = scene.engine.tally.bounds
    assert (tally.kept - kept, tally.broken) == (3, 0)
    assert 0 < tally.worst < 1


# Where none can be stated


def test_nothing_is_stated_before_it_is_known_how_long_requests_run() -> None:
    scene = Scene()
    scene.open("b1", model("m"))
    assert why(scene, "r1") == "too few requests were served to tell how long they run"
    scene.wait(LOAD_NS)
    scene.loaded("m")
    scene.ends("r1")
    scene.measured(samples=SAMPLES_MIN - 2)
    assert why(scene, "r2") == "too few requests were served to tell how long they run"


def test_nothing_is_stated_for_a_model_whose_load_was_never_seen() -> None:
    scene = scene_of("m")
    scene.open("b1", model("m"), model("new"))
    assert why(scene, "r1", "new") == "the load of its model was never measured"


def test_nothing_is_stated_where_more_comes_than_slots_can_do() -> None:
    scene = scene_of("m")
    for number in range(600):
        come(scene, f"r{number}")
        scene.wait(SECOND_NS // 4)
    assert why(scene, "late") == "as much work comes as all slots can do"


def test_nothing_is_stated_for_a_model_that_takes_more_than_its_own_slots() -> None:
    scene = pair_of(BackendPolicy(name="b1", resident_max=2))
    for number in range(320):
        come(scene, f"r{number}")
        scene.wait(SECOND_NS // 4)
    assert why(scene, "late") == "as much work comes for its model as the slots of that can do"
    assert bound_s(scene, "beside", "other") > 0


def test_nothing_is_stated_for_who_is_paused() -> None:
    scene = scene_of("m")
    scene.turn(PauseAsked(scope=Scope()))
    assert why(scene, "r1") == "it waits for more than a slot or a load"


@pytest.mark.parametrize(("limit", "is_stated"), [(3, False), (4, True)])
def test_a_bulkhead_that_may_be_full_before_the_slots_are_leaves_no_bound(
    limit: int, *, is_stated: bool
) -> None:
    kinds = (AgentTypePolicy(name="all", match=("*",)),)
    narrow = AgentsPolicy(types=kinds, default_type="all", bulkheads={"all": limit})
    bound = come(scene_of("m", slots=4, agents=narrow), "r1")
    assert bound is not None
    assert (bound.ns is not None) is is_stated
    assert is_stated or bound.why == "its bulkhead lets fewer run than there are slots"
