"""`brokerctl top`: the state of everything, live, with keys to act."""

from __future__ import annotations

import sys

import click

from broker_client import AsyncClient
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_WRONG_USE
from brokerctl.top_rows import REQUESTS_MAX
from brokerctl.top_screen import Top


@click.command()
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@asking
def top(call: Call, interval_s: float) -> None:
    """Watch requests, agents and models; sort, filter, explain, cancel, boost and block.

    The keys are named on the screen. With --json it is what `brokerctl status --watch` prints.
    """
    if call.as_json:
        with call.client() as client:
            for now in client.watch_status(requests_max=REQUESTS_MAX, interval_s=interval_s):
                print_json(now)
        return
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        click.echo(
            "brokerctl: top needs a terminal; `brokerctl status --watch` does without", err=True
        )
        sys.exit(EXIT_WRONG_USE)
    # Made where its event loop runs, and once: a connection that was lost comes back by itself.
    screen = Top(lambda: AsyncClient(call.address, agent_id="brokerctl"), interval_s=interval_s)
    screen.run()
    sys.exit(screen.return_code)
