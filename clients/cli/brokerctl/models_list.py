"""`brokerctl models list`: which models there are, and where."""

from __future__ import annotations

import sys

import click

from brokerctl.backend_steps import no_model_text
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.models_tables import models_table


@click.command("list")
@asking
def list_models(call: Call) -> None:
    """List the models of all backends."""
    with call.client() as client:
        found = client.models()
        backends = () if found else client.status().backends
    if call.as_json:
        print_json(found)
    elif found:
        call.console().print(models_table(found))
    if not found:
        click.echo(f"brokerctl: {no_model_text(backends, lists_any=False)}", err=True)
        sys.exit(EXIT_SAID_NO)
