"""What is known of models as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from broker.core.model_list import ListState


def model_list_metrics(state: ListState) -> Iterator[Metric]:
    """How many models there are, and how old that is."""
    models = GaugeMetricFamily(
        "broker_models_known", "Models that are on a disk, or could be", labels=["availability"]
    )
    models.add_metric(["downloaded"], state.downloaded)
    models.add_metric(["downloadable"], state.downloadable)
    yield models
    age = GaugeMetricFamily(
        "broker_model_list_age_seconds",
        "Since the library told all that it has; without one, since the backend did that was "
        "asked longest ago",
    )
    if state.age_ms is not None:
        age.add_metric([], state.age_ms / 1000)
    yield age
    watchers = GaugeMetricFamily("broker_model_watchers", "Who watches the list of models now")
    watchers.add_metric([], state.watchers)
    yield watchers
    most = GaugeMetricFamily("broker_model_watchers_max", "How many may watch it at once")
    most.add_metric([], state.watchers_max)
    yield most
    asked = CounterMetricFamily(
        "broker_library_refreshes", "Questions to the library, by how they ended", labels=["end"]
    )
    asked.add_metric(["answered"], state.refreshed)
    asked.add_metric(["failed"], state.failed)
    yield asked
