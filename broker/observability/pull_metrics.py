"""Downloads of models as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from broker.core.pull_entries import PullsState


def pull_metrics(state: PullsState) -> Iterator[Metric]:
    """How many there are, how they ended, and what came."""
    depth = GaugeMetricFamily(
        "broker_pulls", "Downloads of models that wait or run", labels=["state"]
    )
    depth.add_metric(["waiting"], state.waiting)
    depth.add_metric(["running"], state.running)
    yield depth
    ended = CounterMetricFamily(
        "broker_pulls_ended", "Downloads of models, by how they ended", labels=["end"]
    )
    ended.add_metric(["done"], state.done)
    ended.add_metric(["failed"], state.failed)
    ended.add_metric(["cancelled"], state.cancelled)
    yield ended
    came = CounterMetricFamily("broker_pulled_bytes", "Bytes of models that came")
    came.add_metric([], state.fetched_bytes)
    yield came
