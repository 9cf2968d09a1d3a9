"""Who waits, who runs, and on which models, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from broker_client import (
    AgentWork,
    BackendStatus,
    EstimateStatus,
    ModelPlace,
    PreemptionStatus,
    PreloadStatus,
    PriorityStatus,
    RequestStatus,
    Status,
    WaitStatus,
)
from brokerctl.figures import amount_text, bytes_text, counted, duration_text, rate_text, share_text
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.health_lines import backend_state
from brokerctl.model_choice import UNKNOWN
from brokerctl.one_line import one_line
from brokerctl.queue_groups import is_waiting
from brokerctl.wait_reasons import wait_of

AGENTS_SHOWN: Final = 10


def backends_table(backends: Sequence[BackendStatus]) -> FittingTable:
    """One row per server."""
    table = FittingTable(
        Column(name="backend"),
        Column(name="state", is_prose=True),
        Column(name="loads", is_number=True),
        Column(name="failed", is_number=True),
        Column(name="retries", is_number=True, rank=2),
        Column(name="restarts", is_number=True, rank=2),
        Column(name="weight", is_number=True, rank=3),
        Column(name="version", rank=1),
        Column(name="url", rank=2),
        Column(name="kind", rank=3),
        Column(name="tags", rank=4),
    )
    # Of equal weights nothing needs to be said.
    has_weights = len({each.weight for each in backends}) > 1
    for each in backends:
        failed = Text(str(each.loads_failed), style="yellow" if each.loads_failed else "")
        table.add(
            each.name,
            backend_state(each),
            str(each.loads),
            failed,
            str(each.retries or ""),
            str(each.restarts or ""),
            amount_text(each.weight) if has_weights else "",
            each.version,
            each.url,
            each.kind,
            ", ".join(each.tags),
        )
    return table


def residents_table(backends: Sequence[BackendStatus]) -> FittingTable:
    """One row per model that occupies a backend; the backend is named where there are several, and
    then on a screen of any width: without it equal rows are told apart by nothing."""
    table = FittingTable(
        Column(name="model"),
        Column(name="backend"),
        Column(name="state", is_prose=True),
        Column(name="runs"),
        Column(name="waiting", is_number=True, rank=1),
        Column(name="memory", rank=1),
        Column(name="expires", is_number=True, rank=2),
        Column(name="context", is_number=True, rank=4),
        Column(name="loaded by", rank=3),
    )
    for backend in backends:
        for each in backend.models:
            table.add(
                each.name,
                backend.name if len(backends) > 1 else "",
                place_state_text(backend, each.place),
                f"{each.place.running} of {each.place.slots}",
                str(each.queued or ""),
                memory_text(each.place),
                expiry_text(each.place) if backend.up else "",
                str(each.place.num_ctx or ""),
                loader_text(each.place),
            )
    return table


def place_state_text(backend: BackendStatus, place: ModelPlace) -> str:
    """How a model is there, as far as that is known."""
    if not backend.up or place.state == UNKNOWN:
        return f"not known: {backend.name} is down"
    return f"{place.state}, no new work" if backend.draining else place.state


def loader_text(place: ModelPlace) -> str:
    """Who has loaded it."""
    return "broker" if place.managed else "others"


def memory_text(place: ModelPlace) -> str:
    """How much, and how much of that on the GPU."""
    if not place.memory_bytes:
        return ""
    share = place.gpu_memory_bytes / place.memory_bytes
    return f"{bytes_text(place.memory_bytes)}, {share_text(share)} on GPU"


def expiry_text(place: ModelPlace) -> str:
    """When the backend lets it go by itself."""
    if place.expires_ms is None:
        return "" if place.state == "absent" else "never"
    return f"in {duration_text(max(0, place.expires_ms))}"


def priorities_table(priorities: Sequence[PriorityStatus]) -> FittingTable:
    """One row per priority with work."""
    table = FittingTable(
        Column(name="priority", is_number=True),
        Column(name="waiting", is_number=True),
        Column(name="running", is_number=True),
        Column(name="ended", is_number=True),
        Column(name="wait p50", is_number=True),
        Column(name="p99", is_number=True),
        Column(name="longest", is_number=True),
    )
    for each in priorities:
        table.add(
            str(each.priority),
            str(each.queued),
            str(each.running),
            str(each.ended),
            duration_text(each.queue_wait.p50_ms) if each.queue_wait.count else "",
            duration_text(each.queue_wait.p99_ms) if each.queue_wait.count else "",
            duration_text(each.queue_wait_ms_max),
        )
    return table


def working_table(agents: Sequence[AgentWork]) -> FittingTable:
    """One row per agent with work, those with most of it first."""
    table = FittingTable(
        Column(name="agent"),
        Column(name="type", rank=1),
        Column(name="waiting", is_number=True),
        Column(name="running", is_number=True),
    )
    for each in agents[:AGENTS_SHOWN]:
        table.add(each.agent_id, each.agent_type, str(each.queued), str(each.running))
    return table


def more_agents_line(count: int) -> Text:
    """Those that the table above does not show."""
    return Text(f"(and {count} more; `brokerctl agents` lists all)", style="dim")


def requests_table(requests: Sequence[RequestStatus]) -> FittingTable:
    """One row per request, oldest first."""
    table = FittingTable(
        Column(name="request"),
        Column(name="agent"),
        Column(name="model", rank=1),
        Column(name="prio", is_number=True),
        Column(name="bulkhead", rank=2),
        Column(name="age", is_number=True),
        Column(name="state", is_prose=True),
    )
    for each in requests:
        table.add(
            each.request_id,
            each.agent_id,
            answering_text(each),
            str(each.priority),
            each.compartment,
            duration_text(each.age_ms),
            state_text(each),
        )
    return table


def standing_text(request: RequestStatus) -> str:
    """What it waits for, or where it runs."""
    if is_waiting(request):
        return f"waits for {request.wait_detail or wait_of(request.wait_reason).words}"
    return f"{request.state} on {request.backend}" if request.backend else request.state


def state_text(request: RequestStatus) -> Text:
    """The same, with what came so far and how fast."""
    line = Text(one_line(standing_text(request)), style="" if is_waiting(request) else "green")
    if request.tokens:
        line.append(f", {counted(request.tokens, 'token')}")
    if request.tokens_per_s:
        line.append(f", {rate_text(request.tokens_per_s)}/s")
    return line


def answering_text(request: RequestStatus) -> str:
    """The model that answers, and the one asked for where it is another."""
    if request.substitute:
        return f"{request.substitute} for {request.model}"
    return request.model


def waits_line(status: Status) -> Text:
    """How long requests have waited lately."""
    line = Text(f"wait {wait_text(status.queue_wait)}")
    if status.first_token.count:
        line.append(f"; to the first token {wait_text(status.first_token)}")
    line.append(f"; of the last {status.queue_wait.count} started")
    line.append(told_text(status.wait_estimates))
    return line.append(preempted_text(status.preemptions))


def preempted_text(preemptions: PreemptionStatus) -> str:
    """What was set aside for urgent work, and its cost; empty where nothing was."""
    if not preemptions.count:
        return ""
    lost = duration_text(preemptions.wasted_s * 1_000)
    return f"; {counted(preemptions.count, 'call')} set aside for urgent work, {lost} of slots lost"


def preloads_line(preloads: PreloadStatus) -> Text:
    """What came of loading models before anybody asked."""
    line = Text(f"{counted(preloads.made, 'model')} loaded ahead of need")
    line.append(f": {preloads.used} used, {preloads.wasted} left unused")
    if preloads.hit_percent is not None:
        share = f"{preloads.hit_percent:.0f} %"
        line.append(f"; of the loads that were needed {share} were there before")
    if preloads.held_because:
        line.append(f"; none now, as {preloads.held_because}")
    return line


def told_text(estimates: EstimateStatus) -> str:
    """How what was told of waits has come true; empty while nothing was judged."""
    if not estimates.judged:
        return ""
    share = share_text(estimates.inside / estimates.judged)
    return f"; {share} of the last {estimates.judged} as they were told (80 % are to)"


def wait_text(waits: WaitStatus) -> str:
    """ "p50 12 ms, p99 3.4 s"."""
    return f"p50 {duration_text(waits.p50_ms)}, p99 {duration_text(waits.p99_ms)}"
