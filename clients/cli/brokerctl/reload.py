"""`brokerctl reload`: the broker reads its configuration again."""

from __future__ import annotations

import sys

import click

from broker_client import Reload
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_SAID_NO


@click.command()
@asking
def reload(call: Call) -> None:
    """Have the broker read its configuration again, as a whole or not at all.

    The exit status is 1 where the file is not good; then everything stays as it was.
    """
    with call.client() as client:
        report = client.reload()
    if call.as_json:
        print_json(report)
    else:
        show(report)
    if report.problems:
        sys.exit(EXIT_SAID_NO)


def show(report: Reload) -> None:
    """What holds now and what not yet; problems go to standard error."""
    if report.problems:
        for each in report.problems:
            click.echo(each, err=True)
        click.echo("brokerctl: nothing was changed; correct the file and reload again", err=True)
        return
    for each in report.changed:
        click.echo(each)
    for each in report.needs_restart:
        click.echo(f"only after a restart: {each}")
    if not (report.changed or report.needs_restart):
        click.echo("the configuration is as it was")
