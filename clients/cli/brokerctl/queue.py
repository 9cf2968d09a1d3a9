"""`brokerctl queue`: what waits, and what for."""

from __future__ import annotations

import click
from rich.console import Group, RenderableType
from rich.text import Text

from broker_client import Client, RequestStatus, RequestUnknown
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import counted, duration_text
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.queue_groups import REQUESTS_LOOKED_AT, Queue, queue_of
from brokerctl.queue_groups import Group as Waiting
from brokerctl.wait_reasons import wait_of
from brokerctl.work_tables import answering_text


@click.command()
@click.option(
    "--requests",
    "requests_max",
    type=click.IntRange(0, 100),
    default=10,
    show_default=True,
    help="List this many, those that have waited longest.",
)
@asking
def queue(call: Call, requests_max: int) -> None:
    """Show what waits: what for, by priority, by agent, by model, and the oldest."""
    with call.client() as client:
        found = queue_of(client.status(requests_max=REQUESTS_LOOKED_AT))
        oldest = found.requests[:requests_max]
        positions = [position_of(client, each) for each in oldest]
    if call.as_json:
        print_json({**found.document(), "positions": positions})
    else:
        call.console().print(queue_view(found, oldest, positions))


def position_of(client: Client, request: RequestStatus) -> int:
    """Its place in the line of its model; 0 where it does not wait any more."""
    try:
        return client.explain(request.request_id, agent_id=request.agent_id).position
    except RequestUnknown:
        return 0


def queue_view(
    queue: Queue, oldest: tuple[RequestStatus, ...], positions: list[int]
) -> RenderableType:
    """The whole screen; one line where nothing waits."""
    parts: list[RenderableType] = [headline(queue)]
    if queue.requests:
        parts += ["", reasons_table(queue)]
        for name, groups in (
            ("priority", queue.by_priority),
            ("agent", queue.by_agent),
            ("model", queue.by_model),
        ):
            parts += ["", groups_table(name, groups)]
        if oldest:
            parts += ["", oldest_table(oldest, positions)]
            parts.append(Text("`brokerctl explain ID` tells the whole story of one", style="dim"))
    return Group(*parts)


def headline(queue: Queue) -> Text:
    """How many, and since when."""
    waits = "waits" if queue.waiting == 1 else "wait"
    line = Text(f"{counted(queue.waiting, 'request')} of at most {queue.waiting_max} {waits}")
    if queue.requests:
        line.append(f", the oldest for {duration_text(queue.requests[0].age_ms)}")
    if queue.left_out:
        line.append(f"; below only the {len(queue.requests)} that came first", style="yellow")
    return line


def reasons_table(queue: Queue) -> FittingTable:
    """What they wait for, and what one can do about it."""
    table = FittingTable(
        Column(name="waiting", is_number=True),
        Column(name="for", is_prose=True),
        Column(name="what helps", is_prose=True),
    )
    for each in queue.by_reason:
        wait = wait_of(each.name)
        table.add(str(each.waiting), wait.words, wait.next_step)
    return table


def groups_table(name: str, groups: tuple[Waiting, ...]) -> FittingTable:
    """One row per group."""
    table = FittingTable(
        Column(name=name, is_number=name == "priority"),
        Column(name="waiting", is_number=True),
        Column(name="running", is_number=True),
        Column(name="oldest waits", is_number=True),
    )
    for each in groups:
        oldest = duration_text(each.oldest_ms) if each.waiting else ""
        table.add(each.name, str(each.waiting), str(each.running), oldest)
    return table


def oldest_table(oldest: tuple[RequestStatus, ...], positions: list[int]) -> FittingTable:
    """One row per request, with its place in line."""
    table = FittingTable(
        Column(name="place", is_number=True),
        Column(name="request"),
        Column(name="agent"),
        Column(name="model", rank=1),
        Column(name="prio", is_number=True),
        Column(name="waits", is_number=True),
        Column(name="for", is_prose=True),
    )
    for each, position in zip(oldest, positions, strict=True):
        table.add(
            str(position or ""),
            each.request_id,
            each.agent_id,
            answering_text(each),
            str(each.priority),
            duration_text(each.age_ms),
            each.wait_detail or wait_of(each.wait_reason).words,
        )
    return table
