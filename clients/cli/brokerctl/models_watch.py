"""`brokerctl models watch`: the list of models, live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.text import Text

from broker_client import Model, ModelChange, ModelList, Wanted
from brokerctl.call import Call, asking, print_json
from brokerctl.fitting_screen import FittingScreen
from brokerctl.models_sources import source_lines
from brokerctl.models_tables import models_table, where_text
from brokerctl.models_wanted import wanting
from brokerctl.one_line import one_line

KINDS = {
    "added": "is there now",
    "removed": "is there no more",
    "changed": "is another one now",
}


@click.command()
@wanting
@click.option(
    "--count", type=click.IntRange(1), help="End after so many lists.  [default: with Ctrl-C]"
)
@click.option(
    "--rows",
    type=click.IntRange(1, 500),
    default=100,
    show_default=True,
    help="Models in a list at most.",
)
@asking
def watch(call: Call, wanted: Wanted, count: int | None, rows: int) -> None:
    """Show the list of models, and show it anew whenever it changes.

    Where the output is no terminal the list is printed once, and then a line for each change; with
    --json each list is a document on a line of its own, with what has changed since the one before.
    """
    with call.client() as client:
        lists = _first(client.watch_models(page_size=rows, **wanted), count)
        console = call.console()
        if call.as_json:
            for found in lists:
                print_json(found)
        elif not console.is_terminal:
            _print_lines(console, lists)
        else:
            with Live(console=console, screen=True) as live:
                for found in lists:
                    live.update(FittingScreen(ModelsScreen(found, call.address)))


def _first(lists: Iterator[ModelList], count: int | None) -> Iterator[ModelList]:
    for number, found in enumerate(lists, start=1):
        yield found
        if number == count:
            return


def _print_lines(console: Console, lists: Iterator[ModelList]) -> None:
    said: list[str] = []
    for number, found in enumerate(lists):
        if not number:
            console.print(models_table(found.models) if found.models else empty_text(found))
        for change in found.changes:
            click.echo(f"{datetime.now():%H:%M:%S} {change_line(change, found)}")
        lines = source_lines(found)
        for line in lines:
            if line not in said:
                click.echo(f"{datetime.now():%H:%M:%S} {line}")
        said = lines


def change_line(change: ModelChange, found: ModelList) -> str:
    """What became of a model, on a line."""
    model = next((each for each in found.models if each.name == change.name), None)
    what = KINDS.get(change.kind, "")
    told = [what] if what else []
    if model is not None and change.kind != "removed":
        told += _now(model)
    return one_line(f"{change.name} {', '.join(told) or 'does something else in memory'}")


def _now(model: Model) -> list[str]:
    size = [model.size_text] if model.size_text else []
    return [*size, *map(where_text, model.places)]


def empty_text(found: ModelList) -> str:
    """What stands in the place of rows where there are none."""
    return "nothing is known yet" if found.loading else "no model is so"


class ModelsScreen:
    """All that is told, with ages that grow while nothing new comes."""

    def __init__(self, found: ModelList, address: str) -> None:
        self._found = found
        self._address = address
        self._told_s = time.monotonic()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        found = self._found
        later_ms = round((time.monotonic() - self._told_s) * 1000)
        shown = f"{len(found.models)} of {found.total}" if found.total else "no"
        yield Group(
            Text(f"{shown} models at {self._address}", style="bold"),
            *(Text(line, style="yellow") for line in source_lines(found, later_ms)),
            models_table(found.models) if found.models else Text(empty_text(found)),
        )
