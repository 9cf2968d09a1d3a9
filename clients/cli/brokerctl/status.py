"""`brokerctl status`: the present state of everything, once or again and again."""

from __future__ import annotations

import time

import click
from rich.live import Live

from brokerctl.call import Call, asking, print_json
from brokerctl.status_tables import status_view


@click.command()
@click.option(
    "--requests",
    "requests_max",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="List this many requests, oldest first.",
)
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks with --watch.",
)
@asking
def status(call: Call, requests_max: int, watch: bool, interval_s: float) -> None:
    """Show what runs, what waits, and on which models."""
    with call.client() as client:
        now = client.status(requests_max=requests_max)
        console = call.console()
        if call.as_json:
            print_json(now)
        elif not watch or not console.is_terminal:
            console.print(status_view(now, call.address))
        if not watch:
            return
        if call.as_json or not console.is_terminal:
            while True:  # Until Ctrl-C or an error: that is what was asked for.
                time.sleep(interval_s)
                now = client.status(requests_max=requests_max)
                if call.as_json:
                    print_json(now)
                else:
                    console.print(status_view(now, call.address))
        with Live(status_view(now, call.address), console=console, screen=True) as live:
            while True:  # As above.
                time.sleep(interval_s)
                now = client.status(requests_max=requests_max)
                live.update(status_view(now, call.address))
