"""The engine's state as Prometheus metrics, read from a snapshot when somebody asks.

Nothing is counted twice and nothing here on the way of a request: the engine keeps its tally
anyway. What it does not keep is counted by `recorder.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry

from broker.core.alert_rules import RULES
from broker.core.breaker import BreakerState
from broker.core.events import BusCounts
from broker.core.healing import Health
from broker.core.model_list import ListState
from broker.core.pull_entries import PullsState
from broker.core.requests import Outcome
from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView, Snapshot
from broker.core.tally import BoundTally
from broker.core.usage import UsageHealth
from broker.core.views import AlertView, EstimatesView, LevelView, PreemptionView
from broker.observability.bounded import OTHER
from broker.observability.machine_metrics import machine_metrics
from broker.observability.model_list_metrics import model_list_metrics
from broker.observability.preload_metrics import preload_metrics
from broker.observability.pull_metrics import pull_metrics

HEALTH_NUMBER: Final = {each: float(number) for number, each in enumerate(Health)}
BREAKER_NUMBER: Final = {
    BreakerState.CLOSED: 0.0,
    BreakerState.HALF_OPEN: 1.0,
    BreakerState.OPEN: 2.0,
}

# What operators know as backpressure, by how it was put: a word, a refusal, a place taken.
_QUEUE_FULL, _AGENT_QUEUE_FULL = "QUEUE_FULL", "AGENT_QUEUE_FULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is shown of one moment. Taken in the event loop, and then read anywhere."""

    snapshot: Snapshot
    level: LevelView
    firing: tuple[AlertView, ...]
    bus: BusCounts
    usage: UsageHealth | None = None  # None: none is kept
    model_list: ListState = field(default_factory=ListState)
    pulls: PullsState = field(default_factory=PullsState)


def picture_metrics(picture: Picture) -> Iterator[Metric]:
    """All metrics that are not counted as requests go by."""
    yield from _depths(picture.snapshot)
    yield from _priorities(picture.snapshot)
    yield from _bulkheads(picture.snapshot)
    yield from _estimates(picture.snapshot.estimates)
    yield from _bounds(picture.snapshot.bounds)
    yield from _preemptions(picture.snapshot.preemptions)
    yield preload_metrics(picture.snapshot.preloads)
    yield from _endings(picture.snapshot)
    yield from _backends(picture.snapshot)
    yield from machine_metrics(picture.level)
    yield _alerts(picture.firing)
    yield from _bus(picture.bus)
    if picture.usage is not None:
        yield from _usage(picture.usage)
    yield from model_list_metrics(picture.model_list)
    yield from pull_metrics(picture.pulls)


def _depths(snapshot: Snapshot) -> Iterator[Metric]:
    for name, words, value in (
        ("broker_queue_limit", "Requests that may wait at once", snapshot.queued_max),
        (
            "broker_waiting_room_depth",
            "Requests that stand before the full queue",
            snapshot.standing,
        ),
        (
            "broker_waiting_room_limit",
            "Requests that may stand before the full queue at once",
            snapshot.standing_max,
        ),
        ("broker_agents_remembered", "Agents whose books are kept", snapshot.agents),
        ("broker_pauses", "Pauses of operators that hold now", len(snapshot.paused)),
        ("broker_draining", "Is the broker leaving", snapshot.draining),
    ):
        yield GaugeMetricFamily(name, words, value=value)


def _estimates(estimates: EstimatesView) -> Iterator[Metric]:
    told = CounterMetricFamily(
        "broker_wait_estimates",
        "Requests by what became of the interval that they were told first",
        labels=["outcome"],
    )
    told.add_metric(["inside"], estimates.inside_ever)
    told.add_metric(["outside"], estimates.outside_ever)
    told.add_metric(["left_before"], estimates.left_before_ever)
    yield told
    share = GaugeMetricFamily(
        "broker_wait_estimates_inside_ratio",
        "Share of the last 1,000 judged that started within their interval; 0.8 is meant",
    )
    if estimates.judged:
        share.add_metric([], estimates.inside / estimates.judged)
    yield share


def _preemptions(preemptions: PreemptionView) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "broker_preemptions",
        "Calls that were set aside for urgent work",
        value=preemptions.count,
    )
    yield CounterMetricFamily(
        "broker_preempted_slot_seconds",
        "Time of slots that was wasted by that",
        value=preemptions.wasted_ns / 1e9,
    )
    yield GaugeMetricFamily(
        "broker_preemption_slot_seconds_left",
        "Time of slots that may still be wasted by that now",
        value=preemptions.left_ns / 1e9,
    )


def _bounds(bounds: BoundTally) -> Iterator[Metric]:
    stated = CounterMetricFamily(
        "broker_wait_bounds",
        "Requests that started and were told within which time at most, by whether they did",
        labels=["outcome"],
    )
    stated.add_metric(["kept"], bounds.kept)
    stated.add_metric(["broken"], bounds.broken)
    yield stated
    yield GaugeMetricFamily(
        "broker_wait_over_bound_max_ratio",
        "The largest wait since start, as a part of the bound that was stated on it",
        value=bounds.worst,
    )


def _endings(snapshot: Snapshot) -> Iterator[Metric]:
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
    pressure = CounterMetricFamily(
        "broker_backpressure_events",
        "Requests told to send less, refused for want of room, or displaced",
        labels=["kind"],
    )
    pressure.add_metric(["slow_down"], snapshot.slow_downs)
    pressure.add_metric(["queue_full"], snapshot.refusals.get(_QUEUE_FULL, 0))
    pressure.add_metric(["agent_queue_full"], snapshot.refusals.get(_AGENT_QUEUE_FULL, 0))
    pressure.add_metric(["displaced"], snapshot.outcomes.get(Outcome.DISPLACED, 0))
    yield pressure
    soft = CounterMetricFamily(
        "broker_soft_deadlines",
        "Requests with a soft deadline, by whether they were complete by then",
        labels=["outcome"],
    )
    soft.add_metric(["met"], snapshot.soft_deadlines[True])
    soft.add_metric(["missed"], snapshot.soft_deadlines[False])
    yield soft


def _alerts(firing: tuple[AlertView, ...]) -> Metric:
    names = {each.name for each in firing}
    family = GaugeMetricFamily("broker_alert_firing", "Does the alert fire", labels=["alert"])
    for rule in RULES:
        family.add_metric([rule.name], float(rule.name in names))
    return family


def _usage(usage: UsageHealth) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "broker_usage_rows", "Rows of use that are kept, as last counted", value=usage.rows
    )
    yield GaugeMetricFamily(
        "broker_usage_rows_waiting", "Rows of use that are not kept yet", value=usage.waiting
    )
    yield CounterMetricFamily(
        "broker_usage_failures", "Times that use could not be kept", value=usage.failures
    )


def _bus(bus: BusCounts) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "broker_subscribers", "Subscribers that listen to events", value=bus.subscribers
    )
    yield GaugeMetricFamily(
        "broker_subscribers_limit",
        "Subscribers that may listen at once",
        value=bus.subscribers_max,
    )
    published = CounterMetricFamily(
        "broker_events_published", "Events told to the bus", labels=["topic"]
    )
    for topic, count in bus.published.items():
        published.add_metric([topic or OTHER], count)
    yield published
    yield CounterMetricFamily(
        "broker_events_missed",
        "Events that subscribers lost because they read too slowly",
        value=bus.missed,
    )


def _priorities(snapshot: Snapshot) -> Iterator[Metric]:
    queued = GaugeMetricFamily("broker_queue_depth", "Requests that wait", labels=["priority"])
    running = GaugeMetricFamily(
        "broker_requests_running", "Requests that a backend has", labels=["priority"]
    )
    started = CounterMetricFamily(
        "broker_requests_started", "Requests given to a backend", labels=["priority"]
    )
    for priority, tally in snapshot.priorities.items():
        labels = [str(priority)]
        queued.add_metric(labels, tally.queued)
        running.add_metric(labels, tally.running)
        started.add_metric(labels, tally.started)
    yield from (queued, running, started)


def _bulkheads(snapshot: Snapshot) -> Iterator[Metric]:
    running = GaugeMetricFamily(
        "broker_bulkhead_running",
        "Requests of the compartment that run",
        labels=["compartment"],
    )
    limit = GaugeMetricFamily(
        "broker_bulkhead_limit",
        "Requests of the compartment that may run at once",
        labels=["compartment"],
    )
    saturation = GaugeMetricFamily(
        "broker_bulkhead_saturation_ratio",
        "Requests of the compartment that run over those that may",
        labels=["compartment"],
    )
    for each in snapshot.bulkheads:
        running.add_metric([each.name], each.running)
        limit.add_metric([each.name], each.running_max)
        saturation.add_metric([each.name], each.running / each.running_max)
    yield from (running, limit, saturation)


def _backends(snapshot: Snapshot) -> Iterator[Metric]:
    up = GaugeMetricFamily("broker_backend_up", "Does it answer", labels=["backend"])
    loads = CounterMetricFamily(
        "broker_model_loads", "Loads asked for by the broker", labels=["backend"]
    )
    failed = CounterMetricFamily(
        "broker_model_loads_failed", "Loads that failed", labels=["backend"]
    )
    loading = CounterMetricFamily(
        "broker_model_load_seconds",
        "Time spent loading, of loads that have ended, however they did",
        labels=["backend"],
    )
    for each in snapshot.backends:
        up.add_metric([each.name], float(each.up))
        loads.add_metric([each.name], each.loads)
        failed.add_metric([each.name], each.loads_failed)
        loading.add_metric([each.name], each.load_ns_sum / 1e9)
    yield from (up, loads, failed, loading)
    yield from _switches(snapshot)
    yield from _resilience(snapshot)
    yield from _residents(snapshot)


def _switches(snapshot: Snapshot) -> Iterator[Metric]:
    """How models change places, and who else changes them."""
    ahead = CounterMetricFamily(
        "broker_model_loads_ahead", "Loads beside a model that left after them", labels=["backend"]
    )
    given_up = CounterMetricFamily(
        "broker_model_drains_given_up",
        "Models that were to leave and serve on, as their last requests did not end",
        labels=["backend"],
    )
    held = CounterMetricFamily(
        "broker_model_memory_held",
        "Models that left and whose GPU memory was not seen to come back",
        labels=["backend"],
    )
    vanished = CounterMetricFamily(
        "broker_models_vanished",
        "Models of the broker's that left though it had not told them to",
        labels=["backend"],
    )
    foreign = GaugeMetricFamily(
        "broker_models_foreign", "Models there that others have loaded", labels=["backend"]
    )
    for each in snapshot.backends:
        labels = [each.name]
        ahead.add_metric(labels, each.loads_ahead)
        given_up.add_metric(labels, each.drains_given_up)
        held.add_metric(labels, each.memory_held)
        vanished.add_metric(labels, each.vanished)
        foreign.add_metric(labels, sum(not one.managed for one in each.residents))
    yield from (ahead, given_up, held, vanished, foreign)


def _resilience(snapshot: Snapshot) -> Iterator[Metric]:
    """What failed, and what is done about it."""
    health = GaugeMetricFamily(
        "broker_backend_health",
        "0 well, 1 suspect, 2 wedged, 3 being restarted",
        labels=["backend"],
    )
    draining = GaugeMetricFamily(
        "broker_backend_draining", "Does it get nothing more", labels=["backend"]
    )
    retries = CounterMetricFamily(
        "broker_retries", "Attempts that were repeated", labels=["backend"]
    )
    left = GaugeMetricFamily(
        "broker_retry_budget", "Attempts that may be repeated now", labels=["backend"]
    )
    restarts = CounterMetricFamily(
        "broker_backend_restarts", "Restarts by the operator's command", labels=["backend"]
    )
    sick = GaugeMetricFamily(
        "broker_model_sick",
        "Seconds until a model that could not be loaded is tried again",
        labels=["backend", "model"],
    )
    breaker = GaugeMetricFamily(
        "broker_circuit_breaker_state",
        "0 closed, 1 half open, 2 open; of those that are not closed or have counted failures",
        labels=["backend", "model"],
    )
    for each in snapshot.backends:
        labels = [each.name]
        health.add_metric(labels, HEALTH_NUMBER[each.health])
        draining.add_metric(labels, float(each.is_draining))
        retries.add_metric(labels, each.retries)
        left.add_metric(labels, each.retries_left)
        restarts.add_metric(labels, each.restarts)
        for one in each.sick:
            left_s = max(0, one.retry_ns - snapshot.at_ns) / 1e9
            sick.add_metric([each.name, one.model], left_s)
        for view in each.breakers:
            breaker.add_metric([each.name, view.model], BREAKER_NUMBER[view.state])
    yield from (health, draining, retries, left, restarts, sick, breaker)


def _residents(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ["backend", "model"]
    ready = GaugeMetricFamily("broker_model_resident", "Is the model ready there", labels=labels)
    memory = GaugeMetricFamily(
        "broker_model_memory_bytes", "Memory that the model takes there", labels=labels
    )
    gpu_memory = GaugeMetricFamily(
        "broker_model_gpu_memory_bytes", "The part of it on GPUs", labels=labels
    )
    for backend in snapshot.backends:
        # A name that was pulled again is there twice while the runner of the old one still works.
        named: dict[str, list[ResidencyView]] = {}
        for each in backend.residents:
            named.setdefault(each.model, []).append(each)
        for model, those in named.items():
            values = [backend.name, model]
            is_ready = any(each.state is ResidencyState.RESIDENT for each in those)
            ready.add_metric(values, float(is_ready))
            memory.add_metric(values, sum(each.memory_bytes for each in those))
            gpu_memory.add_metric(values, sum(each.gpu_memory_bytes for each in those))
    yield from (ready, memory, gpu_memory)


def metrics_registry() -> CollectorRegistry:
    """A registry of the broker's own, so that two brokers in one process do not meet; with what
    this process uses."""
    without_created: Callable[[], None] = disable_created_metrics  # which has no types
    without_created()  # when each series began would double them for nobody's use
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry
