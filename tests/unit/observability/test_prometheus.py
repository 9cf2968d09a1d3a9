"""What the metrics make of a picture of the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.core.breaker import BreakerState
from broker.core.events import BusCounts
from broker.core.healing import Health
from broker.core.level import Level
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.sensing import GpuSample, HostSample, SensorState
from broker.core.snapshot import (
    BackendView,
    BulkheadView,
    ResidencyView,
    SickView,
    Snapshot,
    take_snapshot,
)
from broker.core.tally import BoundTally
from broker.core.views import (
    AlertView,
    BreakerView,
    EstimatesView,
    LevelView,
    LoadPart,
    PreemptionView,
    SensorView,
)
from broker.observability.exposition import pieces
from broker.observability.prometheus import Picture, metrics_registry, picture_metrics
from tests.unit.core.scene import model, serving

NORMAL = LevelView(
    level=Level.NORMAL,
    before=None,
    is_automatic=True,
    since_ns=0,
    until_ns=None,
    why="",
    load=None,
    parts=(),
    sensors=(),
    host=None,
    gpus=(),
)
QUIET = BusCounts(subscribers=0, subscribers_max=2_000, published={}, missed=0)
Samples = dict[tuple[str, str], float]


RESIDENT: Final = ResidencyView(
    model="m",
    runner="blob",
    state=ResidencyState.RESIDENT,
    managed=True,
    slots=1,
    running=0,
    queued=0,
    num_ctx=4096,
    memory_bytes=1200,
    gpu_memory_bytes=1000,
)


def samples(
    picture: Snapshot,
    level: LevelView = NORMAL,
    firing: tuple[AlertView, ...] = (),
    bus: BusCounts = QUIET,
) -> Samples:
    """Every sample by its name and its labels' values, as a scrape finds them."""
    shown = Picture(snapshot=picture, level=level, firing=firing, bus=bus)
    text = b"".join(pieces(picture_metrics(shown))).decode()
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def idle() -> Snapshot:
    return take_snapshot(serving(model("m")).engine, 0)


def test_a_bulkhead_tells_what_runs_what_may_and_how_full_it_is() -> None:
    opus = BulkheadView(name="opus", running=3, running_max=10)
    batch = BulkheadView(name="batch", running=0, running_max=15)
    found = samples(replace(idle(), bulkheads=(opus, batch)))
    assert (found["broker_bulkhead_running", "opus"], found["broker_bulkhead_limit", "opus"]) == (
        3,
        10,
    )
    assert (found["broker_bulkhead_running", "batch"], found["broker_bulkhead_limit", "batch"]) == (
        0,
        15,
    )
    assert found["broker_bulkhead_saturation_ratio", "opus"] == 0.3
    assert found["broker_bulkhead_saturation_ratio", "batch"] == 0


def test_refusals_are_counted_by_reason() -> None:
    found = samples(replace(idle(), refusals={"RATE_LIMITED": 4, "QUEUE_FULL": 1}))
    assert found["broker_refusals_total", "RATE_LIMITED"] == 4
    assert found["broker_refusals_total", "QUEUE_FULL"] == 1


def test_the_waiting_room_the_agents_and_the_pauses() -> None:
    paused = ("agent opus-1", "everybody")
    found = samples(replace(idle(), standing=7, standing_max=100, agents=12, paused=paused))
    assert found["broker_waiting_room_depth", ""] == 7
    assert found["broker_waiting_room_limit", ""] == 100
    assert found["broker_agents_remembered", ""] == 12
    assert found["broker_pauses", ""] == 2


def test_estimates_are_counted_by_what_became_of_them_and_their_share_is_of_late() -> None:
    told = EstimatesView(
        judged=50, inside=41, inside_ever=800, outside_ever=200, left_before_ever=30
    )
    found = samples(replace(idle(), estimates=told))
    assert found["broker_wait_estimates_total", "inside"] == 800
    assert found["broker_wait_estimates_total", "outside"] == 200
    assert found["broker_wait_estimates_total", "left_before"] == 30
    assert found["broker_wait_estimates_inside_ratio", ""] == 0.82


def test_what_was_set_aside_for_urgent_work_is_counted_with_its_cost() -> None:
    told = PreemptionView(count=3, wasted_ns=2_500_000_000, left_ns=7e9)
    found = samples(replace(idle(), preemptions=told))
    assert found["broker_preemptions_total", ""] == 3
    assert found["broker_preempted_slot_seconds_total", ""] == 2.5
    assert found["broker_preemption_slot_seconds_left", ""] == 7


def test_what_came_of_loading_ahead_of_need_is_counted() -> None:
    told = replace(idle().preloads, made=9, used=6, wasted=2, aborted=1)
    found = samples(replace(idle(), preloads=told))
    kinds = ("made", "used", "wasted", "aborted", "failed")
    assert [found["broker_preloads_total", each] for each in kinds] == [9, 6, 2, 1, 0]


def test_before_anything_was_judged_no_share_is_told() -> None:
    assert ("broker_wait_estimates_inside_ratio", "") not in samples(idle())


def test_bounds_are_counted_by_whether_they_were_kept() -> None:
    tally = BoundTally()
    for wait_ns in (0, 50, 100, 150):
        tally.started(wait_ns, 100)
    found = samples(replace(idle(), bounds=tally))
    assert found["broker_wait_bounds_total", "kept"] == 3
    assert found["broker_wait_bounds_total", "broken"] == 1
    assert found["broker_wait_over_bound_max_ratio", ""] == 1.5


def test_no_label_names_an_agent() -> None:
    picture = replace(idle(), agents=1, paused=("agent opus-1",))
    assert not any("opus-1" in labels for _, labels in samples(picture))


def test_backpressure_is_what_was_told_refused_for_room_or_displaced() -> None:
    outcomes = {**idle().outcomes, Outcome.DISPLACED: 2}
    refusals = {"QUEUE_FULL": 3, "AGENT_QUEUE_FULL": 4, "RATE_LIMITED": 9}
    found = samples(replace(idle(), outcomes=outcomes, refusals=refusals, slow_downs=5))
    kinds = {kind: value for (name, kind), value in found.items() if "backpressure" in name}
    assert kinds == {"slow_down": 5, "queue_full": 3, "agent_queue_full": 4, "displaced": 2}


def test_soft_deadlines_by_whether_they_were_met() -> None:
    found = samples(replace(idle(), soft_deadlines={True: 3, False: 2}))
    assert found["broker_soft_deadlines_total", "met"] == 3
    assert found["broker_soft_deadlines_total", "missed"] == 2


def test_switches_are_counted_with_what_went_otherwise_and_who_else_is_there() -> None:
    backend = BackendView(
        name="b",
        up=True,
        problem="",
        residents=(replace(RESIDENT, managed=False), RESIDENT),
        loads=3,
        loads_failed=0,
        load_ns_sum=0,
        loads_ahead=2,
        drains_given_up=1,
        memory_held=4,
        vanished=5,
    )
    found = samples(replace(idle(), backends=(backend,)))
    assert found["broker_model_loads_ahead_total", "b"] == 2
    assert found["broker_model_drains_given_up_total", "b"] == 1
    assert found["broker_model_memory_held_total", "b"] == 4
    assert found["broker_models_vanished_total", "b"] == 5
    assert found["broker_models_foreign", "b"] == 1


def test_loads_their_cost_and_what_they_take() -> None:
    loading = replace(RESIDENT, model="n", state=ResidencyState.LOADING)
    backend = BackendView(
        name="b",
        up=True,
        problem="",
        residents=(RESIDENT, loading),
        loads=7,
        loads_failed=2,
        load_ns_sum=9_500_000_000,
    )
    found = samples(replace(idle(), backends=(backend,)))
    assert found["broker_model_loads_total", "b"] == 7
    assert found["broker_model_loads_failed_total", "b"] == 2
    assert found["broker_model_load_seconds_total", "b"] == 9.5
    assert found["broker_model_resident", "b m"] == 1
    assert found["broker_model_resident", "b n"] == 0
    assert found["broker_model_memory_bytes", "b m"] == 1200
    assert found["broker_model_gpu_memory_bytes", "b m"] == 1000


def test_a_name_that_occupies_a_backend_twice_is_one_series() -> None:
    # A model that was pulled again, while what was loaded before is still there.
    old = ResidencyView(
        model="m",
        runner="blob-1",
        state=ResidencyState.RESIDENT,
        managed=True,
        slots=1,
        running=1,
        queued=0,
        num_ctx=4096,
        memory_bytes=1200,
        gpu_memory_bytes=1000,
    )
    new = replace(old, runner="blob-2", state=ResidencyState.LOADING, memory_bytes=300)
    here, there = replace(idle().backends[0], name="b"), replace(idle().backends[0], name="c")
    backends = (replace(here, residents=(old, new)), replace(there, residents=(new,)))
    shown = Picture(snapshot=replace(idle(), backends=backends), level=NORMAL, firing=(), bus=QUIET)
    series = [
        (sample.name, *sample.labels.values(), sample.value)
        for family in picture_metrics(shown)
        for sample in family.samples
        if sample.labels.get("model")
    ]
    assert series == [
        ("broker_model_resident", "b", "m", 1),
        ("broker_model_resident", "c", "m", 0),
        ("broker_model_memory_bytes", "b", "m", 1500),
        ("broker_model_memory_bytes", "c", "m", 300),
        ("broker_model_gpu_memory_bytes", "b", "m", 2000),
        ("broker_model_gpu_memory_bytes", "c", "m", 1000),
    ]


def test_a_part_that_is_not_known_is_absent_and_not_nothing() -> None:
    parts = (LoadPart(name="queue", share=0.4), LoadPart(name="cpu", share=None, detail="?"))
    view = replace(NORMAL, level=Level.LEVEL_2, is_automatic=False, load=0.4, parts=parts)
    found = samples(idle(), view)
    assert found["broker_level", ""] == 2
    assert found["broker_level_automatic", ""] == 0
    assert found["broker_load_ratio", ""] == 0.4
    assert found["broker_load_part_ratio", "queue"] == 0.4
    assert ("broker_load_part_ratio", "cpu") not in found
    assert ("broker_load_ratio", "") not in samples(idle())


def test_a_sensor_is_up_down_or_not_there() -> None:
    def sensor(name: str, state: SensorState, *, is_stale: bool = False) -> SensorView:
        return SensorView(name=name, state=state, is_stale=is_stale, detail="", at_ns=0)

    sensors = (
        sensor("well", SensorState.OK),
        sensor("stale", SensorState.OK, is_stale=True),
        sensor("failing", SensorState.FAILING),
        sensor("absent", SensorState.ABSENT, is_stale=True),
    )
    found = samples(idle(), replace(NORMAL, sensors=sensors))
    up = {label: value for (name, label), value in found.items() if name == "broker_sensor_up"}
    assert up == {"well": 1, "stale": 0, "failing": 0}


def test_the_host_and_each_gpu_as_far_as_they_tell() -> None:
    host = HostSample(
        at_ns=0,
        cpu_count=8,
        cpu_share=0.5,
        models_cpu_share=None,
        memory_total_bytes=100,
        memory_available_bytes=40,
        models_memory_bytes=30,
    )
    whole = GpuSample(
        index=0,
        uuid="GPU-a",
        name="card",
        memory_total_bytes=80,
        memory_used_bytes=20,
        utilization=0.9,
        throttle_reasons=("hot",),
    )
    mute = replace(whole, index=1, uuid="GPU-b", utilization=None, throttle_reasons=())
    found = samples(idle(), replace(NORMAL, host=host, gpus=(whole, mute)))
    assert found["broker_host_cpu_ratio", ""] == 0.5
    assert found["broker_host_memory_available_bytes", ""] == 40
    assert ("broker_host_models_cpu_ratio", "") not in found
    assert found["broker_gpu_memory_used_bytes", "0 GPU-a"] == 20
    assert found["broker_gpu_utilization_ratio", "0 GPU-a"] == 0.9
    assert ("broker_gpu_utilization_ratio", "1 GPU-b") not in found
    assert found["broker_gpu_throttled", "0 GPU-a"] == 1
    assert found["broker_gpu_throttled", "1 GPU-b"] == 0


def test_the_bus_tells_who_listens_and_what_was_lost() -> None:
    bus = BusCounts(subscribers=3, subscribers_max=50, published={"level": 4, "": 7}, missed=2)
    found = samples(idle(), bus=bus)
    assert found["broker_subscribers", ""] == 3
    assert found["broker_subscribers_limit", ""] == 50
    assert found["broker_events_published_total", "level"] == 4
    assert found["broker_events_published_total", "other"] == 7
    assert found["broker_events_missed_total", ""] == 2


def test_every_rule_shows_whether_it_fires() -> None:
    alert = AlertView(name="NoBackend", severity="critical", summary="", runbook="", since_ns=0)
    found = samples(idle(), firing=(alert,))
    firing = {each for (name, each), value in found.items() if "alert" in name and value}
    assert firing == {"NoBackend"}
    assert found["broker_alert_firing", "QueueSaturation"] == 0


def test_the_process_shows_what_it_uses() -> None:
    assert b"process_resident_memory_bytes" in generate_latest(metrics_registry())


def test_health_breakers_retries_and_sick_models_are_shown_by_backend() -> None:
    picture = idle()
    breakers = tuple(
        BreakerView(model=state.value, state=state, failures=1, calls=2, until_ns=None, why="")
        for state in BreakerState
    )
    backend = replace(
        picture.backends[0],
        health=Health.WEDGED,
        is_draining=True,
        retries=7,
        retries_left=1.5,
        restarts=2,
        sick=(SickView(model="m", retry_ns=3_000_000_000, why="no memory"),),
        breakers=breakers,
    )
    shown = samples(replace(picture, at_ns=1_000_000_000, backends=(backend,)))
    name = backend.name
    assert shown["broker_backend_health", name] == 2
    assert shown["broker_backend_draining", name] == 1
    assert shown["broker_retries_total", name] == 7
    assert shown["broker_retry_budget", name] == 1.5
    assert shown["broker_backend_restarts_total", name] == 2
    assert shown["broker_model_sick", f"{name} m"] == 2.0
    states = {
        each.value: shown["broker_circuit_breaker_state", f"{name} {each.value}"]
        for each in BreakerState
    }
    assert states == {"closed": 0, "half_open": 1, "open": 2}
