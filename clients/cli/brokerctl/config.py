"""`brokerctl config check`: is this configuration good, and what does it come to?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from broker.config.load import ConfigProblems, load
from brokerctl.call import print_json
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.figures import counted


@click.group()
def config() -> None:
    """Look at the broker's configuration."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def check(file: Path | None, as_json: bool) -> None:
    """Check FILE together with the environment; without FILE, the defaults with it.

    Prints every problem on a line of its own, or the digest and the effective values.
    """
    try:
        effective = load(file, os.environ)
    except ConfigProblems as found:
        lines = [str(each) for each in found.problems]
        if as_json:
            print_json({"good": False, "problems": lines})
        else:
            click.echo("\n".join(lines))
            click.echo(
                f"brokerctl: {counted(len(lines), 'problem')}; correct them and check again",
                err=True,
            )
        sys.exit(EXIT_SAID_NO)
    if as_json:
        values = effective.model_dump(mode="json")
        print_json({"good": True, "digest": effective.digest(), "config": values})
    else:
        click.echo(f"good; digest {effective.digest()}")
        click.echo(effective.describe())
