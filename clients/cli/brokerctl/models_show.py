"""`brokerctl models show NAME`, or `brokerctl models NAME`: all there is to say of one model."""

from __future__ import annotations

import click

from broker_client import ModelUnknown
from brokerctl.call import Call, asking, print_json
from brokerctl.models import WORD_KEY, near_command
from brokerctl.models_sources import source_lines
from brokerctl.models_tables import model_table


@click.command()
@click.argument("name")
@asking
def show(call: Call, name: str) -> None:
    """Show the model called NAME."""
    try:
        with call.client() as client:
            model = client.model(name)
            sources = client.model_list(models_max=1)
    except ModelUnknown:
        word = click.get_current_context().meta.get(WORD_KEY, "")
        if (near := near_command(word)) and not call.as_json:
            click.echo(f"brokerctl: perhaps `brokerctl models {near}` was meant", err=True)
        raise
    if call.as_json:
        print_json(model)
        return
    call.console().print(model_table(model))
    for line in source_lines(sources):
        click.echo(f"brokerctl: {line}", err=True)
