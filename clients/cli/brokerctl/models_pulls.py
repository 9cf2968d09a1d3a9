"""`brokerctl models pulls`: the downloads that wait, run, or ended lately."""

from __future__ import annotations

from collections.abc import Sequence

import click

from broker_client import Pull
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import counted
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.models_pull import rate_parts, size_text
from brokerctl.one_line import one_line


@click.command("pulls")
@click.option("--cancel", default="", metavar="NAME", help="End the download of this model.")
@click.option("--backend", default="", metavar="NAME", help="With --cancel: only on this backend.")
@asking
def pulls(call: Call, cancel: str, backend: str) -> None:
    """Show the downloads that wait, run, or ended lately; or end one, for all who want it.

    What has come of one that was cancelled stays on the backend's disk until it is pulled again.
    """
    with call.client(agent_id="") as client:
        if cancel:
            ended = client.cancel_pull(cancel, backend=backend)
            if call.as_json:
                print_json({"cancelled": ended})
            else:
                click.echo(f"{counted(ended, 'download')} of {one_line(cancel)} cancelled")
            return
        found = client.pulls()
    if call.as_json:
        print_json(found)
        return
    if not found:
        click.echo("nothing is downloaded, nor was lately")
        return
    call.console().print(pulls_table(found))


def pulls_table(found: Sequence[Pull]) -> FittingTable:
    """One row per download."""
    table = FittingTable(
        Column(name="model"),
        Column(name="backend", rank=2),
        Column(name="state"),
        Column(name="come", is_number=True, rank=1),
        Column(name="rate", rank=1),
        Column(name="listeners", is_number=True, rank=3),
        Column(name="what", is_prose=True),
    )
    for each in found:
        is_coming = each.state == "pulling" and each.bytes_per_s > 0
        table.add(
            one_line(each.name),
            one_line(each.backend),
            each.state,
            size_text(each) if each.completed_bytes or each.total_bytes else "",
            ", ".join(rate_parts(each)) if is_coming else "",
            str(each.listeners or ""),
            "" if is_coming else one_line(each.detail),
        )
    return table
