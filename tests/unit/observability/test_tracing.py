"""Spans of requests, with OpenTelemetry's own memory for an exporter."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from broker.core.requests import Outcome, RequestKind
from broker.core.views import RequestReport
from broker.observability import tracing
from broker.observability.tracing import Tracing, TracingMissing
from tests.unit.observability.ended import MS, refused, report

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@contextmanager
def traced(*, shows_prompts: bool = False) -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    made = Tracing("1", shows_prompts=shows_prompts, processor=SimpleSpanProcessor(exporter))
    yield made, exporter
    made.close()


def spans(ended: RequestReport, *, shows_prompts: bool = False) -> dict[str, ReadableSpan]:
    with traced(shows_prompts=shows_prompts) as (made, exporter):
        made.request_ended(ended)
        return {each.name: each for each in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


def times(span: ReadableSpan, ended: RequestReport) -> tuple[int, int]:
    """From and to, in milliseconds from the arrival."""
    assert span.start_time is not None
    assert span.end_time is not None
    begin = ended.arrived_unix_ns
    return (span.start_time - begin) // MS, (span.end_time - begin) // MS


def test_a_span_for_the_request_and_one_below_for_each_phase() -> None:
    ended = report()
    found = spans(ended)
    assert {name: times(each, ended) for name, each in found.items()} == {
        "generate m:latest": (0, 800),
        "queue": (0, 10),
        "load": (10, 30),
        "first token": (30, 100),
        "generate": (100, 800),
    }
    request = found.pop("generate m:latest")
    assert request.kind is SpanKind.SERVER
    assert request.parent is None
    for each in found.values():
        assert each.parent is not None
        assert each.parent.span_id == request.context.span_id
    shown = attributes(request)
    assert shown["gen_ai.request.model"] == shown["gen_ai.response.model"] == "m:latest"
    assert shown["gen_ai.usage.output_tokens"] == 50
    assert (shown["broker.agent_id"], shown["broker.request_id"]) == ("opus-1", "r1")
    assert request.status.status_code is StatusCode.UNSET
    assert request.resource.attributes["service.name"] == "ollama-broker"


def test_phases_that_never_came_have_no_span() -> None:
    waited = report(
        outcome=Outcome.EXPIRED,
        reason="DEADLINE_EXPIRED",
        message="too late",
        backend="",
        queue_wait_ns=800 * MS,
        load_wait_ns=0,
        first_token_ns=0,
    )
    found = spans(waited)
    assert set(found) == {"generate m:latest", "queue"}
    assert set(spans(refused())) == {"generate m:latest"}
    embed = spans(report(kind=RequestKind.EMBED, first_token_ns=0, load_wait_ns=0))
    assert set(embed) == {"embed m:latest", "queue", "embed"}


def test_what_did_not_complete_is_an_error_with_its_reason_unless_its_agent_ended_it() -> None:
    failed = report(outcome=Outcome.FAILED, reason="BACKEND_FAILED", message="it broke")
    span = spans(failed)["generate m:latest"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "it broke"
    assert attributes(span)["error.type"] == "BACKEND_FAILED"
    cancelled = report(outcome=Outcome.CANCELLED, reason="CANCELLED", message="by its agent")
    assert spans(cancelled)["generate m:latest"].status.status_code is StatusCode.UNSET


def test_the_agents_own_span_is_the_parent() -> None:
    span = spans(report(traceparent=f"00-{TRACE}-{PARENT}-01"))["generate m:latest"]
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT


def test_a_trace_that_is_not_sampled_costs_no_spans() -> None:
    assert spans(report(traceparent=f"00-{TRACE}-{PARENT}-00")) == {}


def test_prompts_only_where_they_are_asked_for() -> None:
    assert "secret" not in str(attributes(spans(report())["generate m:latest"]))
    shown = spans(report(), shows_prompts=True)["generate m:latest"]
    assert attributes(shown)["broker.prompt"] == "a secret"


def test_substitutions_and_changes_are_shown() -> None:
    changes = ("max_tokens 4096 -> 512",)
    span = spans(report(substituted_for="big:70b", changes=changes))["generate m:latest"]
    shown = attributes(span)
    assert (shown["gen_ai.request.model"], shown["gen_ai.response.model"]) == (
        "big:70b",
        "m:latest",
    )
    assert shown["broker.changes"] == changes


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"]
)
def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(TracingMissing, match=r"pip install 'ollama-broker\[otel\]'"):
        Tracing("1")


class HangingProcessor(SpanProcessor):
    """Sends to a collector that is gone."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def shutdown(self) -> None:
        self.may_end.wait()


def test_a_collector_that_is_gone_does_not_hold_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "STOP_GRACE_S", 0.01)
    gone = HangingProcessor()
    Tracing("1", processor=gone).close()
    gone.may_end.set()


def test_spans_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    made = Tracing("1")
    made.close()
