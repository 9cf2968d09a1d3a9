"""`brokerctl drain`: tells a broker to leave in order."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.figures import counted, duration_text


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600),
    help="Seconds that work under way may take.  [default: the broker's own limit]",
)
@asking
def drain(call: Call, timeout_s: float | None) -> None:
    """Let the broker finish its work, refuse new work, and stop."""
    with call.client() as client:
        begun = client.drain(timeout_s=timeout_s)
    if call.as_json:
        print_json(begun)
        return
    click.echo(
        f"the broker at {call.address} leaves: {counted(begun.running, 'request')} running and "
        f"{begun.queued} waiting have {duration_text(begun.timeout_ms)}; new work is refused"
    )
