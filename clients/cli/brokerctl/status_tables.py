"""The broker's state on one screen, for people: what deserves a look comes first."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from broker_client import Status
from brokerctl.figures import counted, duration_text
from brokerctl.health_lines import ailment_lines, down_line
from brokerctl.level_tables import (
    alert_lines,
    gpus_table,
    host_line,
    is_held,
    level_lines,
    load_table,
    sensor_lines,
)
from brokerctl.model_list_lines import model_list_lines
from brokerctl.work_tables import (
    AGENTS_SHOWN,
    backends_table,
    more_agents_line,
    preloads_line,
    priorities_table,
    requests_table,
    residents_table,
    waits_line,
    working_table,
)


def status_view(status: Status, address: str) -> RenderableType:
    """Everything that `brokerctl status` shows."""
    parts: list[RenderableType] = [headline(status, address)]
    if (down := down_line(status.backends)) is not None:
        parts.append(down)
    if status.paused:
        parts.append(paused_line(status))
    if any(each.running for each in status.bulkheads):
        parts.append(bulkheads_line(status))
    parts += alert_lines(status.alerts)
    parts += machine_parts(status)
    parts += work_parts(status)
    parts += ["", *model_list_lines(status.model_list), outcomes_line(status)]
    return Group(*parts)


def machine_parts(status: Status) -> list[RenderableType]:
    """The level, the load and the host."""
    parts: list[RenderableType] = []
    if status.level_status.parts:
        parts += ["", *level_lines(status.level_status), load_table(status.level_status.parts)]
    elif is_held(status.level_status) or status.level_status.why:
        parts += ["", *level_lines(status.level_status)]
    if status.gpus:
        parts += ["", gpus_table(status.gpus)]
    if status.host is not None:
        parts += ["", host_line(status.host)]
    return parts + list(sensor_lines(status.sensors))


def work_parts(status: Status) -> list[RenderableType]:
    """Backends, models, and what waits and runs on them."""
    parts: list[RenderableType] = ["", backends_table(status.backends)]
    parts += ailment_lines(status.backends)
    if any(each.models for each in status.backends):
        parts += ["", residents_table(status.backends)]
    if status.priorities:
        parts += ["", priorities_table(status.priorities)]
    if status.agents_working:
        parts += ["", working_table(status.agents_working)]
        if len(status.agents_working) > AGENTS_SHOWN:
            parts.append(more_agents_line(len(status.agents_working) - AGENTS_SHOWN))
    if status.requests:
        parts += ["", requests_table(status.requests)]
    if status.queue_wait.count:
        parts += ["", waits_line(status)]
    if status.preloads.made or status.preloads.enabled:
        parts.append(preloads_line(status.preloads))
    return parts


def headline(status: Status, address: str) -> Text:
    """Who and how, in one line."""
    uptime = duration_text(status.uptime_s * 1000)
    line = Text(f"broker {status.version} at {address}, up {uptime}, level {status.level}")
    line.append(
        f"; {counted(status.queued, 'request')} of at most {status.queued_max} waiting, "
        f"{status.running} running"
    )
    if status.tokens_per_s:
        line.append(f" at {status.tokens_per_s:.0f} tokens/s in all")
    line.append(f"; {counted(status.agents, 'agent')} known")
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
