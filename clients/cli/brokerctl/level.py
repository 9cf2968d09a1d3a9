"""`brokerctl level`: what the machine can bear now, and setting it by hand."""

from __future__ import annotations

from typing import Final

import click
from rich.console import Group

from broker_client import LevelStatus
from brokerctl.call import Call, asking, print_json
from brokerctl.duration import Duration
from brokerctl.figures import duration_text
from brokerctl.level_tables import level_lines, load_table

AUTOMATIC: Final = "auto"
# What each level takes away; each holds what those before it hold.
EFFECTS: Final = {
    "normal": "everything is offered",
    "1": "answers are cut shorter",
    "2": "answers are cut shorter, small models only, non-critical work is refused",
    "critical": "priorities 1 to 3 go first; 4 to 7 wait, worse and batch work is refused",
}


@click.command()
@click.argument("level", required=False, type=click.Choice([*EFFECTS, AUTOMATIC]))
@click.option(
    "--for",
    "for_s",
    type=Duration(),
    metavar="TIME",
    help="How long, as 90s, 10m or 2h.  [default: until it is set again]",
)
@asking
def level(call: Call, level: str | None, for_s: float | None) -> None:
    """Show the level and why it holds, or set LEVEL by hand.

    With auto it is left to the measured load again.
    """
    if for_s is not None and level in (None, AUTOMATIC):
        raise click.UsageError("--for goes with a level: normal, 1, 2 or critical")
    with call.client() as client:
        if level is None:
            found = client.status().level_status
        else:
            found = client.set_level(None if level == AUTOMATIC else level, for_s=for_s)
    if call.as_json:
        print_json(found)
    elif level is None:
        call.console().print(Group(*level_lines(found), load_table(found.parts)))
    else:
        click.echo(set_text(found, is_left_to_load=level == AUTOMATIC))


def set_text(found: LevelStatus, *, is_left_to_load: bool = False) -> str:
    """What holds now."""
    means = EFFECTS.get(found.level, "this brokerctl does not know it")
    if is_left_to_load and not found.automatic:
        return (
            f"nobody holds the level any more; it is {found.level}: {means}; the configuration "
            "does not have it follow the load ([degradation] automatic = false)"
        )
    if found.automatic:
        return f"the level follows the load again; it is {found.level}: {means}"
    until = (
        "until `brokerctl level auto`"
        if found.until_ms is None
        else f"for {duration_text(found.until_ms)}"
    )
    return f"level {found.level} {until}: {means}"
