"""The rows of `brokerctl top`: what stands in them, how they are sorted and filtered. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker_client import Status
from brokerctl.figures import counted, duration_text, rate_text
from brokerctl.fitting_table import Column
from brokerctl.health_lines import ailment_texts
from brokerctl.level_tables import held_text, is_held
from brokerctl.work_tables import (
    answering_text,
    expiry_text,
    loader_text,
    memory_text,
    place_state_text,
    standing_text,
    wait_text,
)

REQUESTS_MAX: Final = 500
# The tables need the rest of the screen.
AILMENTS_SHOWN: Final = 4

REQUEST_COLUMNS: Final = (
    Column(name="request"),
    Column(name="agent"),
    Column(name="model", rank=1),
    Column(name="prio", is_number=True),
    Column(name="age", is_number=True),
    Column(name="tokens", is_number=True, rank=3),
    Column(name="per s", is_number=True, rank=2),
    Column(name="state", is_prose=True),
)
AGENT_COLUMNS: Final = (
    Column(name="agent"),
    Column(name="type", rank=1),
    Column(name="waiting", is_number=True),
    Column(name="running", is_number=True),
    Column(name="per s", is_number=True),
    Column(name="oldest", is_number=True),
)
MODEL_COLUMNS: Final = (
    Column(name="model"),
    Column(name="backend", rank=1),
    Column(name="state"),
    Column(name="running", is_number=True),
    Column(name="slots", is_number=True),
    Column(name="waiting", is_number=True),
    Column(name="memory", rank=1),
    Column(name="expires", is_number=True, rank=2),
    Column(name="context", is_number=True, rank=3),
    Column(name="loaded by", rank=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row: what is shown, what it is sorted by in each column, and what keys act on."""

    key: str
    cells: tuple[str, ...]
    sorted_by: tuple[str | float, ...]
    agent_id: str = ""
    request_id: str = ""


def request_rows(status: Status) -> list[Row]:
    """One per request."""
    return [
        Row(
            key=f"{each.agent_id}\n{each.request_id}",
            agent_id=each.agent_id,
            request_id=each.request_id,
            cells=(
                each.request_id,
                each.agent_id,
                answering_text(each),
                str(each.priority),
                duration_text(each.age_ms),
                str(each.tokens or ""),
                rate_text(each.tokens_per_s),
                standing_text(each),
            ),
            sorted_by=(
                each.request_id,
                each.agent_id,
                each.model,
                each.priority,
                each.age_ms,
                each.tokens,
                each.tokens_per_s,
                standing_text(each),
            ),
        )
        for each in status.requests
    ]


def agent_rows(status: Status) -> list[Row]:
    """One per agent with work; speed and age are of its requests that are listed."""
    per_s: dict[str, float] = defaultdict(float)
    oldest_ms: dict[str, float] = defaultdict(float)
    for request in status.requests:
        per_s[request.agent_id] += request.tokens_per_s
        oldest_ms[request.agent_id] = max(oldest_ms[request.agent_id], request.age_ms)
    rows = []
    for each in status.agents_working:
        speed, age = per_s[each.agent_id], oldest_ms[each.agent_id]
        figures = (each.queued, each.running, speed, age)
        rows.append(
            Row(
                key=each.agent_id,
                agent_id=each.agent_id,
                cells=(
                    each.agent_id,
                    each.agent_type,
                    str(each.queued),
                    str(each.running),
                    rate_text(speed),
                    duration_text(age) if age else "",
                ),
                sorted_by=(each.agent_id, each.agent_type, *figures),
            )
        )
    return rows


def model_rows(status: Status) -> list[Row]:
    """One per model that occupies a backend."""
    rows = []
    for backend in status.backends:
        for each in backend.models:
            place = each.place
            expires_ms = float("inf") if place.expires_ms is None else place.expires_ms
            rows.append(
                Row(
                    key=f"{backend.name}\n{each.name}",
                    cells=(
                        each.name,
                        backend.name,
                        place_state_text(backend, place),
                        str(place.running),
                        str(place.slots),
                        str(each.queued),
                        memory_text(place),
                        expiry_text(place) if backend.up else "",
                        str(place.num_ctx or ""),
                        loader_text(place),
                    ),
                    sorted_by=(
                        *(each.name, backend.name, place.state, place.running, place.slots),
                        *(each.queued, place.memory_bytes, expires_ms, place.num_ctx),
                        loader_text(place),
                    ),
                )
            )
    return rows


def arranged(
    rows: Sequence[Row], *, column: int, is_descending: bool, pattern: str = ""
) -> list[Row]:
    """Those with `pattern` anywhere in what is shown, case aside, sorted by a column."""
    wanted = pattern.casefold()
    found = [row for row in rows if wanted in "\n".join(row.cells).casefold()]
    # Two sorts, as the second keeps the order of the first: equal rows do not jump about.
    found.sort(key=lambda row: row.key)
    found.sort(key=lambda row: row.sorted_by[column], reverse=is_descending)
    return found


def summary_lines(status: Status) -> list[str]:
    """The machine and the queue in a few lines."""
    level = status.level_status
    line = f"level {status.level}"
    if is_held(level):
        line += f", {held_text(level)}"
    elif level.why:
        line += f": {level.why}"
    lines = [
        line,
        f"{status.queued} of {status.queued_max} waiting, {status.running} running"
        f" at {status.tokens_per_s:.0f} tokens/s; {counted(status.agents, 'agent')}"
        + (f"; wait {wait_text(status.queue_wait)}" if status.queue_wait.count else ""),
    ]
    ailments = ailment_texts(status.backends)
    lines += ailments[:AILMENTS_SHOWN]
    if len(ailments) > AILMENTS_SHOWN:
        more = len(ailments) - AILMENTS_SHOWN
        lines.append(f"and {more} more such; `brokerctl status` names all")
    if status.paused:
        lines.append(f"paused: {', '.join(status.paused)}")
    if status.draining:
        lines.append("the broker is leaving: new work is refused")
    lines += [f"{each.severity} {each.name}: {each.summary}" for each in status.alerts]
    return lines


def load_text(status: Status) -> str:
    """The parts of the load in one line: "queue 0 %, cpu 12 %, gpu memory ?"."""
    parts = [
        f"{each.name.replace('_', ' ')} " + (f"{each.share * 100:.0f} %" if each.known else "?")
        for each in status.level_status.parts
    ]
    return f"load: {', '.join(parts)}" if parts else ""
