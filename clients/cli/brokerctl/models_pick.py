"""`brokerctl models pick`: choose models on a screen; the choice is what is printed."""

from __future__ import annotations

import sys

import click

from broker_client import AsyncClient, Wanted
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_WRONG_USE
from brokerctl.models_pick_filter import PickFilter
from brokerctl.models_pick_screen import Picker
from brokerctl.models_pick_terminal import on_terminal, terminal_of_streams
from brokerctl.models_wanted import wanting
from brokerctl.one_line import one_line


@click.command()
@click.option("--one", "is_one", is_flag=True, help="Choose a single model.")
@click.option(
    "--selected",
    metavar="NAME",
    multiple=True,
    help="Marked from the beginning; with --one, where the cursor begins. May be repeated.",
)
@wanting
@asking
def pick(call: Call, wanted: Wanted, is_one: bool, selected: tuple[str, ...]) -> None:
    """Choose models from a live list; print their names, one a line.

    \b
    model=$(brokerctl models pick --one)
    brokerctl models pick --all --fits | xargs -n1 brokerctl models pull

    The screen is drawn on the terminal wherever the output goes. The options are how it begins; its
    keys, which ? names, change them. With --json the names are one JSON list. Left without a choice
    it prints nothing, or with --json an empty list, and ends with 1; with 130 after Ctrl-C.
    """
    if is_one and len(selected) > 1:
        raise click.UsageError("with --one there is one --selected at most")
    terminal = terminal_of_streams()
    if terminal is None:
        click.echo(
            "brokerctl: models pick needs a terminal; `brokerctl models list` does without",
            err=True,
        )
        sys.exit(EXIT_WRONG_USE)
    # Made where its event loop runs, and once: a connection that was lost comes back by itself. It
    # asks for no agent: what it downloads an operator asks for.
    screen = Picker(
        lambda: AsyncClient(call.address),
        asked=PickFilter.of(wanted),
        is_multiple=not is_one,
        selected=selected,
    )
    with on_terminal(terminal):
        chosen = screen.run()
    tell(call, chosen or [])
    sys.exit(screen.return_code)


def tell(call: Call, chosen: list[str]) -> None:
    """Prints the choice, for another command to read: a line each, whatever a name has in it, or
    as JSON, where names are as they are."""
    if call.as_json:
        print_json(chosen)
        return
    for name in chosen:
        click.echo(one_line(name))
