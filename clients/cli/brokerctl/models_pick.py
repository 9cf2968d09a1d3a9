"""`brokerctl models pick`: choose models on a screen; the choice is what is printed."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from broker_client import AsyncClient
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_WRONG_USE
from brokerctl.models_pick_filter import ORDERS, SEARCH_MAX, PickFilter
from brokerctl.models_pick_screen import Picker
from brokerctl.models_pick_terminal import on_terminal, terminal_of_streams

CAPABILITIES: Final = ("tools", "thinking", "vision", "embedding", "completion", "insert", "audio")


@click.command()
@click.option("--one", "is_one", is_flag=True, help="Choose a single model.")
@click.option(
    "--selected",
    metavar="NAME",
    multiple=True,
    help="Marked from the beginning; with --one, where the cursor begins. May be repeated.",
)
@click.option("--all", "is_all", is_flag=True, help="Also models that could be downloaded.")
@click.option(
    "--downloadable", "is_downloadable", is_flag=True, help="Only models that could be downloaded."
)
@click.option(
    "--can",
    "capabilities",
    type=click.Choice(CAPABILITIES),
    multiple=True,
    help="Only models that can do this. May be repeated.",
)
@click.option("--fits", is_flag=True, help="Only what fits the memory of a backend.")
@click.option("--resident", is_flag=True, help="Only what is in memory now.")
@click.option(
    "--context", "context_min", type=click.IntRange(0), default=0, help="Tokens of it at least."
)
@click.option("--search", default="", help="Words of its name, family or description.")
@click.option("--sort", "order", type=click.Choice(ORDERS), default="name", show_default=True)
@asking
def pick(
    call: Call,
    is_one: bool,
    selected: tuple[str, ...],
    is_all: bool,
    is_downloadable: bool,
    capabilities: tuple[str, ...],
    search: str,
    **narrowed: Any,
) -> None:
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
    if len(search) > SEARCH_MAX:
        raise click.UsageError(f"--search takes at most {SEARCH_MAX} characters")
    if is_all and is_downloadable:
        raise click.UsageError("--all has --downloadable in it: give one of them")
    availability = "all" if is_all else "downloadable" if is_downloadable else "downloaded"
    asked = PickFilter(
        availability=availability,
        capabilities=frozenset(capabilities),
        search=search.strip(),
        **narrowed,
    )
    terminal = terminal_of_streams()
    if terminal is None:
        click.echo(
            "brokerctl: models pick needs a terminal; `brokerctl models list` does without",
            err=True,
        )
        sys.exit(EXIT_WRONG_USE)
    # Made where its event loop runs, and once: a connection that was lost comes back by itself.
    screen = Picker(
        lambda: AsyncClient(call.address, agent_id="brokerctl"),
        asked=asked,
        is_multiple=not is_one,
        selected=selected,
    )
    with on_terminal(terminal):
        chosen = screen.run()
    tell(call, chosen or [])
    sys.exit(screen.return_code)


def tell(call: Call, chosen: list[str]) -> None:
    """Prints the choice, for another command to read."""
    if call.as_json:
        print_json(chosen)
        return
    for name in chosen:
        click.echo(name)
