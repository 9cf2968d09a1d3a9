"""What the metrics make of a picture of the engine."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.core.snapshot import BulkheadView, Snapshot, take_snapshot
from broker.observability.metrics import metrics_registry
from tests.unit.core.scene import model, serving


def samples(picture: Snapshot) -> dict[tuple[str, str], float]:
    """Every sample by its name and its labels' values, as a scrape finds them."""
    text = generate_latest(metrics_registry(lambda: picture)).decode()
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def idle() -> Snapshot:
    return take_snapshot(serving(model("m")).engine, 0)


def test_a_bulkhead_is_two_gauges_whose_ratio_is_its_saturation() -> None:
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


def test_no_label_names_an_agent() -> None:
    picture = replace(idle(), agents=1, paused=("agent opus-1",))
    assert not any("opus-1" in labels for _, labels in samples(picture))
