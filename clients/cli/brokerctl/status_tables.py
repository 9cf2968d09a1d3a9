"""The broker's state as tables for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from broker_client import BackendStatus, ModelPlace, Status
from brokerctl.figures import bytes_text, counted, duration_text


def status_view(status: Status, address: str) -> RenderableType:
    """Everything that `brokerctl status` shows."""
    parts: list[RenderableType] = [headline(status, address)]
    if status.paused:
        parts.append(paused_line(status))
    if any(each.running for each in status.bulkheads):
        parts.append(bulkheads_line(status))
    parts.append(backends_table(status))
    if any(each.models for each in status.backends):
        parts.append(residents_table(status))
    if status.priorities:
        parts.append(priorities_table(status))
    if status.requests:
        parts.append(requests_table(status))
    parts.append(outcomes_line(status))
    return Group(*parts)


def headline(status: Status, address: str) -> Text:
    """Who and how, in one line."""
    uptime = duration_text(status.uptime_s * 1000)
    line = Text(f"broker {status.version} at {address}, up {uptime}, level {status.level}")
    line.append(
        f"; {counted(status.queued, 'request')} of at most {status.queued_max} waiting, "
        f"{status.running} running; {counted(status.agents, 'agent')} known"
    )
    if status.standing:
        line.append(
            f"; the queue is full: {status.standing} of at most {status.standing_max} stand in "
            "the waiting room",
            style="bold yellow",
        )
    if status.draining:
        line.append("; leaving: new work is refused", style="bold yellow")
    return line


def paused_line(status: Status) -> Text:
    """Whom operators hold back, which is easily forgotten."""
    whom = ", ".join(status.paused)
    return Text(f"paused: {whom}; `brokerctl resume` ends it", style="bold yellow")


def bulkheads_line(status: Status) -> Text:
    """The compartments that are in use, those that are full so that one sees it."""
    parts = []
    for each in status.bulkheads:
        room = f"{each.compartment} {each.running} of {each.running_max}"
        if each.running >= each.running_max:
            parts.append(Text(f"{room}: full", style="bold yellow"))
        elif each.running:
            parts.append(Text(room))
    return Text("running in bulkheads: ").append_text(Text(", ").join(parts))


def backends_table(status: Status) -> Table:
    """One row per server."""
    table = Table("backend", "kind", "url", "state", "version", "loads", "failed")
    for each in status.backends:
        table.add_row(
            escape(each.name),
            each.kind,
            escape(each.url),
            backend_state(each),
            escape(each.version),
            str(each.loads),
            str(each.loads_failed),
        )
    return table


def backend_state(backend: BackendStatus) -> Text:
    """Up, or why not."""
    if backend.up:
        return Text("up", style="green")
    return Text(f"down: {backend.problem}" if backend.problem else "down", style="red")


def residents_table(status: Status) -> Table:
    """One row per model that occupies a backend."""
    table = Table(
        "model", "backend", "state", "running", "waiting", "context", "memory", "loaded by"
    )
    for backend in status.backends:
        for each in backend.models:
            table.add_row(
                escape(each.name),
                escape(backend.name),
                each.place.state,
                f"{each.place.running} of {each.place.slots}",
                str(each.queued),
                str(each.place.num_ctx or ""),
                memory_text(each.place),
                "broker" if each.place.managed else "others",
            )
    return table


def memory_text(place: ModelPlace) -> str:
    """How much, and how much of that on the GPU."""
    if not place.memory_bytes:
        return ""
    share = place.gpu_memory_bytes / place.memory_bytes
    return f"{bytes_text(place.memory_bytes)}, {share:.0%} on GPU"


def priorities_table(status: Status) -> Table:
    """One row per priority with work."""
    table = Table("priority", "waiting", "running", "ended", "mean wait", "longest wait")
    for each in status.priorities:
        table.add_row(
            str(each.priority),
            str(each.queued),
            str(each.running),
            str(each.ended),
            duration_text(each.queue_wait_ms_mean),
            duration_text(each.queue_wait_ms_max),
        )
    return table


def requests_table(status: Status) -> Table:
    """One row per request, oldest first."""
    columns = ("request", "agent", "model", "priority", "bulkhead", "state", "age", "tokens")
    table = Table(*columns, "waits for")
    for each in status.requests:
        table.add_row(
            escape(each.request_id),
            escape(each.agent_id),
            escape(each.model),
            str(each.priority),
            escape(each.compartment),
            each.state + (f" on {escape(each.backend)}" if each.backend else ""),
            duration_text(each.age_ms),
            str(each.tokens),
            escape(each.wait_detail),
        )
    return table


def outcomes_line(status: Status) -> str:
    """How the requests since start have ended, and why some were refused."""
    ended = []
    for outcome, count in status.outcomes.items():
        if count:
            why = f" ({refusals_text(status)})" if outcome == "refused" and status.refusals else ""
            ended.append(f"{count} {outcome}{why}")
    return "ended since start: " + (", ".join(ended) if ended else "none yet")


def refusals_text(status: Status) -> str:
    """Most frequent first: "3 rate limited, 1 queue full"; a single one needs no count."""
    ordered = sorted(status.refusals.items(), key=lambda each: (-each[1], each[0]))
    if len(ordered) == 1:
        return words_of(ordered[0][0])
    return ", ".join(f"{count} {words_of(reason)}" for reason, count in ordered)


def words_of(reason: str) -> str:
    """ "RATE_LIMITED" -> "rate limited"."""
    return reason.lower().replace("_", " ")
