"""What a daemon shows of itself, and what is shipped to look at it with."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from broker.api.grpc import traceparent
from broker.config.machine import AlertsConfig, ObservabilityConfig
from broker.config.resilience import RetriesConfig
from broker.config.schema import Config
from broker.core.alert_rules import RULES, AlertPolicy
from broker.core.errors import BackendFailed
from broker.core.sensing import GpuReading, GpuSample, HostReading, HostSample, SensorState
from broker.core.stimuli import GpusSensed, HostSensed, LoadDue
from broker.daemon import observing
from broker.daemon.observing import alert_policy
from broker.observability.tracing import Tracing
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate
from tests.tidy.sources import ROOT

RULES_FILE = ROOT / "packaging" / "broker.rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana-dashboard.json"
NAME = re.compile(r"\b(?:broker|process)_[a-z_]+\b")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


async def serve_one(daemon: RunningDaemon, **metadata: str) -> str:
    """A generation that completes; its id."""
    stream = daemon.inference.Generate(generate(), metadata=tuple(metadata.items()))
    request_id = str((await read_until(stream, "queued"))[0].queued.request_id)
    call = await daemon.backend.calls.get()
    call.say("a", "b")
    await read_until(stream, "chunk")
    call.complete()
    await read_until(stream, "done")
    return request_id


async def families(daemon: RunningDaemon) -> dict[str, Any]:
    """The metric families of a scrape, by name."""
    status, text = await daemon.get("/metrics")
    assert status == 200
    return {each.name: each for each in text_string_to_metric_families(text)}


def sense(daemon: RunningDaemon) -> None:
    """A host and a GPU that tell all that there is to tell."""
    driver = daemon.parts.driver
    now_ns = driver.now_ns()
    host = HostSample(
        at_ns=now_ns,
        cpu_count=8,
        cpu_share=0.5,
        models_cpu_share=0.4,
        memory_total_bytes=100,
        memory_available_bytes=80,
        models_memory_bytes=10,
    )
    gpu = GpuSample(
        index=0,
        uuid="GPU-a",
        name="card",
        memory_total_bytes=80,
        memory_used_bytes=20,
        utilization=0.9,
        temperature_c=40.0,
        power_w=100.0,
        power_limit_w=700.0,
    )
    driver.feed(HostSensed(HostReading(state=SensorState.OK, sample=host)))
    driver.feed(GpusSensed(GpuReading(at_ns=now_ns, state=SensorState.OK, gpus=(gpu,))))
    driver.feed(LoadDue())


def exposed(found: dict[str, Any]) -> set[str]:
    """The names that a query may use: those of samples, and of families that have none yet."""
    names: set[str] = set()
    for family in found.values():
        suffixes = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(family.type, ("",))
        names.update(family.name + suffix for suffix in suffixes)
    return names


async def test_a_request_is_counted_and_has_its_line() -> None:
    with capture_logs() as logged:
        async with running_daemon() as daemon:
            request_id = await serve_one(daemon, traceparent=TRACEPARENT)
            found = await families(daemon)
    lines = [each for each in logged if each["event"] == "request ended"]
    assert len(lines) == 1
    assert lines[0]["request_id"] == request_id
    assert lines[0]["outcome"] == "completed"
    assert (lines[0]["backend"], lines[0]["model"]) == ("b", "talk:latest")
    assert lines[0]["output_tokens"] == 2
    assert lines[0]["first_token_ms"] > 0
    assert lines[0]["total_ms"] >= lines[0]["first_token_ms"]
    assert lines[0]["trace_id"] == TRACE
    for name in (
        "broker_request_first_token_seconds",
        "broker_request_duration_seconds",
        "broker_queue_wait_seconds",
    ):
        counts = [s.value for s in found[name].samples if s.name.endswith("_count")]
        assert sum(counts) == 1, name
    tokens = sum(each.value for each in found["broker_output_tokens"].samples if each.value < 1e6)
    assert tokens == 2


async def test_a_failure_and_a_refusal_are_counted_with_their_reasons() -> None:
    config = Config(
        server=FREE_PORTS,
        backends=(BACKEND,),
        retries=RetriesConfig(tries_max=2, backoff_s=0.0),
        **QUICK,
    )
    with capture_logs() as logged:
        async with running_daemon(config) as daemon:
            stream = daemon.inference.Generate(generate())
            for _ in range(2):
                (await daemon.backend.calls.get()).fail(BackendFailed("it broke"))
            assert (await refused(stream)).reason == "BACKEND_FAILED"
            await refused(daemon.inference.Generate(generate(model="absent")))
            found = await families(daemon)
    lines = {each["outcome"]: each for each in logged if each["event"] == "request ended"}
    assert (lines["failed"]["reason"], lines["failed"]["log_level"]) == (
        "BACKEND_FAILED",
        "warning",
    )
    assert lines["refused"]["reason"] == "MODEL_UNKNOWN"
    assert [each["attempt"] for each in logged if each["event"] == "attempt failed"] == [1]
    (failed,) = [
        sample
        for sample in found["broker_attempts_failed"].samples
        if sample.labels["backend"] == "b"
    ]
    assert (failed.labels["reason"], failed.value) == ("BACKEND_FAILED", 2)
    counted = {
        tuple(sample.labels.values())
        for name in ("broker_requests_failed", "broker_requests_dropped")
        for sample in found[name].samples
        if sample.name.endswith("_total") and sample.value == 1
    }
    assert counted == {("b", "BACKEND_FAILED"), ("refused", "MODEL_UNKNOWN")}


async def test_the_log_of_requests_can_be_switched_off() -> None:
    quiet = Config(
        server=FREE_PORTS,
        backends=(BACKEND,),
        observability=ObservabilityConfig(log_requests=False),
        **QUICK,
    )
    with capture_logs() as logged:
        async with running_daemon(quiet) as daemon:
            await serve_one(daemon)
    assert not [each for each in logged if each["event"] == "request ended"]


async def test_spans_hang_below_the_agents_own(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()

    def tracing(version: str, *, shows_prompts: bool) -> Tracing:
        return Tracing(
            version, shows_prompts=shows_prompts, processor=SimpleSpanProcessor(exporter)
        )

    monkeypatch.setattr(observing, "Tracing", tracing)
    config = Config(
        server=FREE_PORTS,
        backends=(BACKEND,),
        observability=ObservabilityConfig(tracing=True),
        **QUICK,
    )
    async with running_daemon(config) as daemon:
        await serve_one(daemon, traceparent=TRACEPARENT)
        await serve_one(daemon, traceparent="garbage")
        daemon.parts.observing.close()
    requests = [each for each in exporter.get_finished_spans() if each.name.endswith("talk:latest")]
    ours, own = requests
    assert ours.parent is not None
    assert f"{ours.parent.span_id:016x}" == PARENT
    assert own.parent is None
    names = {each.name for each in exporter.get_finished_spans()}
    assert {"load", "first token", "generate"} <= names


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (TRACEPARENT, True),
        (f"00-{TRACE}-{PARENT}-00", True),
        (f"01-{TRACE}-{PARENT}-01-what-comes-later", True),
        (f"00-{TRACE}-{PARENT}-01-extra", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE[1:]}-{PARENT}-01", False),
        (f"01-{TRACE}-{PARENT}-01-" + "x" * 100, False),
        ("", False),
        ("garbage", False),
    ],
)
def test_a_trace_is_taken_as_it_is_written_down_and_no_other(text: str, good: bool) -> None:
    assert traceparent.is_traceparent(text) is good


async def test_an_alert_fires_is_shown_by_the_metrics_and_ends_with_its_limit() -> None:
    strict = Config(
        server=FREE_PORTS,
        backends=(BACKEND,),
        alerts=AlertsConfig(first_token_ms_mean=1),
        **QUICK,
    )
    async with running_daemon(strict) as daemon:
        alerting = daemon.parts.alerting

        async def late() -> None:
            stream = daemon.inference.Generate(generate())
            call = await daemon.backend.calls.get()
            await asyncio.sleep(0.005)  # longer than the limit; nothing is measured by it
            call.say("a", "b")
            call.complete()
            await read_until(stream, "done")

        for _ in range(5):
            await late()
        alerting.on_tick()
        (alert,) = alerting.firing()
        assert alert.name == "HighRequestLatency"
        found = await families(daemon)
        firing = {each.labels["alert"]: each.value for each in found["broker_alert_firing"].samples}
        assert firing == {rule.name: float(rule.name == alert.name) for rule in RULES}


def test_the_configuration_is_the_policy() -> None:
    assert alert_policy(Config()) == AlertPolicy()
    alerts = AlertsConfig(
        first_token_ms_mean=250, window_s=60, queue_percent=50, retries_per_minute=3.0
    )
    assert alert_policy(Config(alerts=alerts)) == AlertPolicy(
        first_token_ns_mean=250_000_000,
        window_ns=60_000_000_000,
        queue_share=0.5,
        retries_per_minute=3.0,
    )


def queries() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of all that is shipped."""
    for line in RULES_FILE.read_text().splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "expr":
            yield RULES_FILE.name, json.loads(value)
    dashboard = json.loads(DASHBOARD.read_text())
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            yield DASHBOARD.name, each["query"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"{DASHBOARD.name}: {panel['title']}", target["expr"]


async def test_every_metric_that_is_asked_for_is_exposed() -> None:
    async with running_daemon() as daemon:
        sense(daemon)
        names = exposed(await families(daemon))
    asked = {(where, name) for where, query in queries() for name in NAME.findall(query)}
    assert len({name for _, name in asked}) > 30
    assert {(where, name) for where, name in asked if name not in names} == set()


async def test_the_page_on_metrics_names_each_one_and_no_other() -> None:
    async with running_daemon() as daemon:
        sense(daemon)
        found = await families(daemon)
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = set(re.findall(r"^\| `(broker_[a-z_]+)` ", page, re.MULTILINE))
    ours = {
        f"{each.name}_total" if each.type == "counter" else each.name
        for each in found.values()
        if each.name.startswith("broker_")
    }
    assert rows == ours
    for rule in RULES:
        assert f"| {rule.name} | {rule.severity} |" in page
    for seed in ("request_latency_ms", "queue_depth", "dropped_requests", "backpressure_events"):
        assert f"`{seed}`" in page
    assert "`bulkhead_saturation`" in page


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    for each in panels:
        place = each["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert each["type"] == "row" or (each["targets"] and each["description"])
