"""`brokerctl models`: which models there are, and where."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from broker_client import Model
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import bytes_text
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.work_tables import memory_text


@click.command()
@click.argument("name", required=False)
@asking
def models(call: Call, name: str | None) -> None:
    """List the models of all backends, or show the one called NAME."""
    with call.client() as client:
        if name is not None:
            model = client.model(name)
            if call.as_json:
                print_json(model)
            else:
                call.console().print(model_table(model))
            return
        found = client.models()
    if call.as_json:
        print_json(found)
    elif found:
        call.console().print(models_table(found))
    else:
        click.echo("no backend lists any model; get one with `ollama pull NAME` on its host")


def models_table(found: list[Model]) -> FittingTable:
    """One row per model."""
    table = FittingTable(
        Column(name="model"),
        Column(name="size", is_number=True),
        Column(name="parameters", is_number=True, rank=2),
        Column(name="quantization", rank=3),
        Column(name="can", rank=1),
        Column(name="where", is_prose=True),
    )
    for each in found:
        table.add(
            each.name,
            bytes_text(each.size_bytes),
            each.parameter_size,
            each.quantization,
            ", ".join(each.capabilities),
            ", ".join(
                place.backend + ("" if place.state == "absent" else f" ({place.state})")
                for place in each.places
            ),
        )
    return table


def model_table(model: Model) -> Table:
    """All there is to say of one model."""
    table = Table(show_header=False)
    table.add_row("model", escape(model.name))
    table.add_row("size", bytes_text(model.size_bytes))
    table.add_row("parameters", model.parameter_size)
    table.add_row("quantization", model.quantization)
    table.add_row("family", model.family)
    table.add_row("trained context", str(model.context_length_train or "unknown"))
    table.add_row("can", ", ".join(model.capabilities))
    for place in model.places:
        state = "on disk" if place.state == "absent" else place.state
        facts = [state, f"{place.running} of {place.slots} slots in use"]
        if place.num_ctx:
            facts.append(f"context {place.num_ctx}")
        if place.memory_bytes:
            facts.append(memory_text(place))
            facts.append("loaded by the broker" if place.managed else "loaded by others")
        table.add_row(f"on {escape(place.backend)}", "; ".join(facts))
    return table
