"""OpenTelemetry: a span for each request, with one below it for each phase.

The extra `otel` is imported here and only when it is asked for. Where spans go is OpenTelemetry's
own affair: OTEL_EXPORTER_OTLP_ENDPOINT and its likes are heeded. Spans are made when a request has
ended, out of the times that were measured anyway.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

import structlog

from broker.core.effects import TellLevel, TellPriority
from broker.core.observer import Observer
from broker.core.requests import Outcome
from broker.core.views import AlertView, RequestReport, RequestStart
from broker.observability.request_log import shown_prompt

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Tracer

EXTRA_MISSING: Final = (
    "tracing = true in [observability] needs OpenTelemetry: pip install 'ollama-broker[otel]'"
)

# What is left is sent for so long when the broker stops. A collector that is gone must not hold it.
STOP_GRACE_S: Final = 2.0


class TracingMissing(RuntimeError):
    """Tracing was asked for, and OpenTelemetry is not installed."""


class _ToStructlog(logging.Handler):
    """OpenTelemetry's own complaints, as lines of our log."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).warning("tracing: " + record.getMessage())


class Tracing(Observer):
    """An observer that makes spans. `processor` stands in for the one that sends them in batches,
    from a thread of its own and out of a bounded queue."""

    def __init__(
        self,
        version: str,
        *,
        shows_prompts: bool = False,
        processor: SpanProcessor | None = None,
    ) -> None:
        self._shows_prompts = shows_prompts
        self._provider, self._tracer = _start(version, processor)

    def request_ended(self, report: RequestReport) -> None:
        """The span of the request, and those of the phases it came to."""
        from opentelemetry import trace

        begin = report.arrived_unix_ns
        span = self._tracer.start_span(
            f"{report.kind.value} {report.model}",
            context=_parent(report.traceparent),
            kind=trace.SpanKind.SERVER,
            attributes=self._attributes(report),
            start_time=begin,
        )
        if span.is_recording():
            below = trace.set_span_in_context(span)
            for name, from_ns, to_ns in _phases(report):
                phase = self._tracer.start_span(name, context=below, start_time=begin + from_ns)
                phase.end(begin + to_ns)
            if report.outcome is not Outcome.COMPLETED:
                # What the agent itself ended is no error of the request.
                is_error = report.outcome is not Outcome.CANCELLED
                code = trace.StatusCode.ERROR if is_error else trace.StatusCode.UNSET
                span.set_status(trace.Status(code, report.message if is_error else None))
        span.end(begin + report.total_ns)

    def _attributes(self, report: RequestReport) -> dict[str, str | int | tuple[str, ...]]:
        """By OpenTelemetry's conventions for generative AI where there is one."""
        agent_id, request_id = report.key
        found: dict[str, str | int | tuple[str, ...]] = {
            "gen_ai.operation.name": report.kind.value,
            "gen_ai.request.model": report.substituted_for or report.model,
            "broker.request_id": request_id,
            "broker.agent_id": agent_id,
            "broker.agent_type": report.agent_type,
            "broker.priority": report.priority,
            "broker.level": report.level.word,
            "broker.outcome": report.outcome.value,
        }
        if report.backend:
            found["gen_ai.response.model"] = report.model
            found["gen_ai.usage.input_tokens"] = report.prompt_tokens
            found["gen_ai.usage.output_tokens"] = report.output_tokens
            found["broker.backend"] = report.backend
            found["broker.tries"] = report.tries
        if report.reason:
            found["error.type"] = report.reason
        if report.changes:
            found["broker.changes"] = report.changes
        if self._shows_prompts:
            found["broker.prompt"] = shown_prompt(report.content)
        return found

    def close(self) -> None:
        """Sends what is left, for a short time. Spans that are still unsent then are lost."""
        ending = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
        ending.start()
        ending.join(STOP_GRACE_S)

    def request_started(self, start: RequestStart) -> None:
        """Its end tells when that was."""

    def level_changed(self, told: TellLevel) -> None:
        """Not of a request."""

    def priority_changed(self, told: TellPriority) -> None:
        """Not of a request."""

    def backends_changed(self) -> None:
        """Not of a request."""

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        """Not of a request."""


def _phases(report: RequestReport) -> list[tuple[str, int, int]]:
    """(name, from, to) in nanoseconds from the arrival, of the phases that it came to."""
    loads_ns = report.queue_wait_ns - report.load_wait_ns
    phases = [("queue", 0, loads_ns)]
    if report.load_wait_ns:
        phases.append(("load", loads_ns, report.queue_wait_ns))
    if report.first_token_ns:
        phases.append(("first token", report.queue_wait_ns, report.first_token_ns))
        phases.append(("generate", report.first_token_ns, report.total_ns))
    elif report.backend:
        phases.append((report.kind.value, report.queue_wait_ns, report.total_ns))
    return [each for each in phases if each[1] < each[2]]


def _parent(traceparent: str) -> Context | None:
    """Whose span the request is below, where its agent says so."""
    if not traceparent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _start(version: str, processor: SpanProcessor | None) -> tuple[TracerProvider, Tracer]:
    """A provider of our own: the process's global one is nobody's business here."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError as missing:
        raise TracingMissing(EXTRA_MISSING) from missing
    resource = Resource.create({"service.name": "ollama-broker", "service.version": version})
    # `close` ends it; a hook at the exit of the interpreter would wait for the collector.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor or _batches())
    return provider, provider.get_tracer("broker", version)


def _batches() -> SpanProcessor:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        raise TracingMissing(EXTRA_MISSING) from missing
    complaints = logging.getLogger("opentelemetry")
    if not any(isinstance(each, _ToStructlog) for each in complaints.handlers):
        complaints.addHandler(_ToStructlog(logging.WARNING))
        complaints.propagate = False
    return BatchSpanProcessor(OTLPSpanExporter())
