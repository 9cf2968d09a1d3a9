"""Models as tables: many with a line each, and one with all there is to say of it."""

from __future__ import annotations

from typing import Final

from rich.markup import escape
from rich.table import Table

from broker_client import Model, ModelPlace
from brokerctl.figures import bytes_text
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.model_choice import UNKNOWN
from brokerctl.work_tables import memory_text

# OpenAI-compatible servers list names and nothing more.
NOT_TOLD: Final = "?"


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
            size_text(each),
            each.parameter_size,
            each.quantization,
            can_text(each),
            ", ".join(map(where_text, each.places)),
        )
    return table


def model_table(model: Model) -> Table:
    """All there is to say of one model."""
    table = Table(show_header=False)
    table.add_row("model", escape(model.name))
    table.add_row("size", size_text(model))
    table.add_row("parameters", model.parameter_size)
    table.add_row("quantization", model.quantization)
    table.add_row("family", model.family)
    table.add_row("trained context", str(model.context_length_train or "unknown"))
    table.add_row("can", can_text(model))
    for place in model.places:
        if place.state == UNKNOWN:
            table.add_row(f"on {escape(place.backend)}", "not known: it is down")
            continue
        state = "on disk" if place.state == "absent" else place.state
        facts = [state, f"{place.running} of {place.slots} slots in use"]
        if place.num_ctx:
            facts.append(f"context {place.num_ctx}")
        if place.memory_bytes:
            facts.append(memory_text(place))
            facts.append("loaded by the broker" if place.managed else "loaded by others")
        table.add_row(f"on {escape(place.backend)}", "; ".join(facts))
    return table


def where_text(place: ModelPlace) -> str:
    """The backend, and how the model is there beyond lying on its disk."""
    if place.state == UNKNOWN:
        return f"{place.backend} (not known: it is down)"
    if place.state == "absent":
        return place.backend
    by_others = ", loaded by others" if place.memory_bytes and not place.managed else ""
    return f"{place.backend} ({place.state}{by_others})"


def size_text(model: Model) -> str:
    """Bytes on disk; "?" where no backend tells."""
    return bytes_text(model.size_bytes) if model.size_bytes else NOT_TOLD


def can_text(model: Model) -> str:
    """What it can do; "?" where no backend tells."""
    return ", ".join(model.capabilities) or NOT_TOLD
