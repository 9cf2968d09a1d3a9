"""Models that were loaded before anybody asked for them, as metrics."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, Metric

from broker.core.preloads import PreloadsView


def preload_metrics(preloads: PreloadsView) -> Metric:
    """By what came of it. What was made and neither used nor wasted is still there."""
    counted = CounterMetricFamily(
        "broker_preloads",
        "Models that were loaded before anybody asked for them, by what came of it",
        labels=["outcome"],
    )
    counted.add_metric(["made"], preloads.made)
    counted.add_metric(["used"], preloads.used)
    counted.add_metric(["wasted"], preloads.wasted)
    counted.add_metric(["aborted"], preloads.aborted)
    counted.add_metric(["failed"], preloads.failed)
    return counted
