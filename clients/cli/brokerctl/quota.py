"""`brokerctl quota`: what an agent may use, what is left, and when more comes."""

from __future__ import annotations

import click
from rich.table import Table

from broker_client import Quota, TokenBucket
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import amount_text, counted, duration_text


@click.command()
@click.argument("agent")
@asking
def quota(call: Call, agent: str) -> None:
    """Show the limits of AGENT, what is left of them, and when more comes."""
    with call.client(agent) as client:
        found = client.quota()
    if call.as_json:
        print_json(found)
        return
    for line in quota_lines(found):
        click.echo(line)
    if found.buckets:
        call.console().print(buckets_table(found.buckets))


def quota_lines(quota: Quota) -> list[str]:
    """All but the buckets."""
    critical = "may" if quota.may_be_critical else "may not"
    room = "" if quota.compartment_max is None else f" of at most {quota.compartment_max}"
    lines = [
        f"agent {quota.agent_id} of type {quota.agent_type}: "
        f"{counted(quota.queued, 'request')} of at most {quota.queued_max} waiting, "
        f"{quota.running} running",
        f"weight {amount_text(quota.weight)}, priorities from {quota.priority_best} on, "
        f"{critical} call itself critical",
        f"compartment {quota.compartment}: {quota.compartment_running}{room} running",
    ]
    if quota.blocked:
        lines.append("blocked: its new requests are refused")
    if quota.paused:
        lines.append("paused: its requests wait, and none is started")
    if not quota.buckets:
        lines.append("nothing limits its rate")
    return lines


def buckets_table(buckets: tuple[TokenBucket, ...]) -> Table:
    """One row per token bucket."""
    table = Table("bucket", "left", "at most", "per minute", "one more fits")
    for each in buckets:
        table.add_row(
            each.name.replace("_", " "),
            amount_text(each.left),
            amount_text(each.burst),
            amount_text(each.per_minute),
            f"in {duration_text(each.next_ms)}" if each.next_ms else "now",
        )
    return table
