"""`brokerctl models list`: which models there are, and where."""

from __future__ import annotations

import sys
from typing import Final

import click

from broker_client import ModelList, Wanted
from brokerctl.backend_steps import no_model_text
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.figures import counted
from brokerctl.models_sources import source_lines
from brokerctl.models_tables import models_table
from brokerctl.models_wanted import is_narrowed, wanting

# As many as anybody reads; a program may ask for all that there are.
LIMIT_DEFAULT: Final = 1_000
LIMIT_MAX: Final = 50_000


@click.command("list")
@wanting
@click.option(
    "--limit",
    type=click.IntRange(1, LIMIT_MAX),
    default=LIMIT_DEFAULT,
    show_default=True,
    help="Models to list at most.",
)
@asking
def list_models(call: Call, wanted: Wanted, limit: int) -> None:
    """List the models of all backends; with --all those that could be downloaded, too."""
    with call.client() as client:
        found = client.model_list(models_max=limit, **wanted)
        is_bare = not found.models and not is_narrowed(wanted)
        backends = client.status().backends if is_bare else ()
    if call.as_json:
        print_json(found.models)
    elif found.models:
        call.console().print(models_table(found.models))
        left_out = found.total - len(found.models)
        if left_out > 0:
            click.echo(f"(and {counted(left_out, 'more model')}: --search, or a larger --limit)")
    if not call.as_json:
        for line in source_lines(found):
            click.echo(f"brokerctl: {line}", err=True)
    if found.models:
        return
    words = no_model_text(backends, lists_any=False) if is_bare else nothing_text(found)
    click.echo(f"brokerctl: {words}", err=True)
    sys.exit(EXIT_SAID_NO)


def nothing_text(found: ModelList) -> str:
    """What is said where nothing is as it was wanted."""
    if found.loading:
        return "no model is known yet that is so; the list is being loaded"
    return "no model is so; `brokerctl models list --all` lists all that are known"
