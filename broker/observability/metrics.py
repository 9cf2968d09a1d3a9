"""The broker's counts as Prometheus metrics, read from a snapshot when somebody asks.

Nothing is counted twice and nothing on the way of a request: the engine keeps its tally anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from broker.core.residency import ResidencyState
from broker.core.snapshot import Snapshot


class SnapshotCollector(Collector):
    """Turns a snapshot into metric families."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """One pass over the present state."""
        snapshot = self._snapshot()
        yield GaugeMetricFamily(
            "broker_queue_limit", "Requests that may wait at once", value=snapshot.queued_max
        )
        yield GaugeMetricFamily(
            "broker_waiting_room_depth",
            "Requests that stand before the full queue",
            value=snapshot.standing,
        )
        yield GaugeMetricFamily(
            "broker_waiting_room_limit",
            "Requests that may stand before the full queue at once",
            value=snapshot.standing_max,
        )
        yield GaugeMetricFamily(
            "broker_agents_remembered", "Agents whose books are kept", value=snapshot.agents
        )
        yield GaugeMetricFamily(
            "broker_pauses", "Pauses of operators that hold now", value=len(snapshot.paused)
        )
        yield from self._priorities(snapshot)
        yield from self._bulkheads(snapshot)
        ended = CounterMetricFamily(
            "broker_requests_ended", "Requests by how they ended", labels=["outcome"]
        )
        for outcome, count in snapshot.outcomes.items():
            ended.add_metric([outcome.value], count)
        yield ended
        refused = CounterMetricFamily(
            "broker_refusals", "Requests refused, by the reason told", labels=["reason"]
        )
        for reason, count in snapshot.refusals.items():
            refused.add_metric([reason], count)
        yield refused
        yield from self._backends(snapshot)

    def _priorities(self, snapshot: Snapshot) -> Iterator[Metric]:
        queued = GaugeMetricFamily("broker_queue_depth", "Requests that wait", labels=["priority"])
        running = GaugeMetricFamily(
            "broker_requests_running", "Requests that a backend has", labels=["priority"]
        )
        waited = CounterMetricFamily(
            "broker_queue_wait_seconds", "Waits of started requests, summed", labels=["priority"]
        )
        started = CounterMetricFamily(
            "broker_requests_started", "Requests given to a backend", labels=["priority"]
        )
        for priority, tally in snapshot.priorities.items():
            labels = [str(priority)]
            queued.add_metric(labels, tally.queued)
            running.add_metric(labels, tally.running)
            waited.add_metric(labels, tally.queue_wait_ns_sum / 1e9)
            started.add_metric(labels, tally.started)
        yield from (queued, running, waited, started)

    def _bulkheads(self, snapshot: Snapshot) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "broker_bulkhead_running",
            "Requests of the compartment that run; its saturation is this over the limit",
            labels=["compartment"],
        )
        limit = GaugeMetricFamily(
            "broker_bulkhead_limit",
            "Requests of the compartment that may run at once",
            labels=["compartment"],
        )
        for each in snapshot.bulkheads:
            running.add_metric([each.name], each.running)
            limit.add_metric([each.name], each.running_max)
        yield from (running, limit)

    def _backends(self, snapshot: Snapshot) -> Iterator[Metric]:
        up = GaugeMetricFamily("broker_backend_up", "Does it answer", labels=["backend"])
        loads = CounterMetricFamily(
            "broker_model_loads", "Loads asked for by the broker", labels=["backend"]
        )
        failed = CounterMetricFamily(
            "broker_model_loads_failed", "Loads that failed", labels=["backend"]
        )
        resident = GaugeMetricFamily(
            "broker_model_resident", "Is the model ready there", labels=["backend", "model"]
        )
        for backend in snapshot.backends:
            up.add_metric([backend.name], float(backend.up))
            loads.add_metric([backend.name], backend.loads)
            failed.add_metric([backend.name], backend.loads_failed)
            for each in backend.residents:
                ready = each.state is ResidencyState.RESIDENT
                resident.add_metric([backend.name, each.model], float(ready))
        yield from (up, loads, failed, resident)


def metrics_registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """A registry of the broker's own, so that two brokers in one process do not meet."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    return registry
