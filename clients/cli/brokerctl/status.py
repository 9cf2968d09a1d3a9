"""`brokerctl status`: the present state of everything, once or again and again."""

from __future__ import annotations

import click
from rich.live import Live

from brokerctl.call import Call, asking, print_json
from brokerctl.fitting_screen import FittingScreen
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
        console = call.console()
        if not watch:
            now = client.status(requests_max=requests_max)
            if call.as_json:
                print_json(now)
            else:
                console.print(status_view(now, call.address))
            return
        # Until Ctrl-C or an error: that is what was asked for.
        states = client.watch_status(requests_max=requests_max, interval_s=interval_s)
        if call.as_json or not console.is_terminal:
            for now in states:
                if call.as_json:
                    print_json(now)
                else:
                    console.print(status_view(now, call.address))
            return
        with Live(console=console, screen=True) as live:
            for now in states:
                live.update(FittingScreen(status_view(now, call.address)))
