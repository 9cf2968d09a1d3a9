"""Models as tables: many with a line each, and one with all there is to say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.markup import escape
from rich.table import Table

from broker_client import MemoryNeed, Model, ModelPlace
from brokerctl.figures import bytes_text, counted, duration_text
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.model_choice import UNKNOWN
from brokerctl.one_line import one_line
from brokerctl.work_tables import memory_text

# OpenAI-compatible servers list names and nothing more.
NOT_TOLD: Final = "?"


def models_table(found: Sequence[Model]) -> FittingTable:
    """One row per model."""
    table = FittingTable(
        Column(name="model"),
        Column(name="size", is_number=True),
        Column(name="parameters", is_number=True, rank=2),
        Column(name="quantization", rank=4),
        Column(name="context", is_number=True, rank=3),
        Column(name="can", rank=1),
        Column(name="requests", is_number=True, rank=5),
        Column(name="where", is_prose=True),
    )
    for each in found:
        table.add(
            each.name,
            size_text(each),
            each.parameter_size,
            each.quantization,
            str(each.context_length_train or ""),
            can_text(each),
            str(each.use.requests or ""),
            places_text(each),
        )
    return table


def places_text(model: Model) -> str:
    """Where it is; of one that is on no backend whether it would fit one."""
    if model.places:
        return ", ".join(map(where_text, model.places))
    if model.downloaded:
        return "not known yet"
    return "to download, too large to load" if model.fits is False else "to download"


def model_table(model: Model) -> Table:
    """All there is to say of one model."""
    table = Table(show_header=False)
    for name, text in _facts(model):
        if text:
            table.add_row(name, escape(one_line(text)))
    for place in model.places:
        if place.state == UNKNOWN:
            table.add_row(f"on {escape(place.backend)}", "not known: it is down")
            continue
        state = "on disk" if place.state == "absent" else place.state
        facts = [state]
        if place.slots:
            facts.append(f"{place.running} of {place.slots} slots in use")
        if place.num_ctx:
            facts.append(f"context {place.num_ctx}")
        if place.memory_bytes:
            facts.append(memory_text(place))
            facts.append("loaded by the broker" if place.managed else "loaded by others")
        table.add_row(f"on {escape(place.backend)}", "; ".join(facts))
    return table


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    """What it is, wherever it lies; empty where nobody tells."""
    yield "model", model.name
    yield "", model.status_text
    yield "size", size_text(model)
    yield "parameters", model.parameter_size
    yield "quantization", model.quantization
    yield "family", model.family
    yield "trained context", str(model.context_length_train or "unknown")
    yield "can", can_text(model)
    yield "memory", ", ".join(map(need_text, model.memory))
    yield "fits", fits_text(model)
    yield "class", "small: it answers at level 2, too" if model.small else ""
    yield "used", use_text(model)
    yield "aliases", ", ".join(model.aliases)
    yield "about", model.description
    yield "changed", model.modified_at
    yield "digest", model.digest


def need_text(need: MemoryNeed) -> str:
    """'6.1 GB at 8192 tokens (estimated)'."""
    how = "" if need.measured else " (estimated)"
    return f"{bytes_text(need.bytes)} at {need.num_ctx} tokens{how}"


def fits_text(model: Model) -> str:
    """Whether a backend has memory for it; empty where that is not known."""
    if model.fits is None:
        return ""
    if model.fits:
        return "into the memory of a backend"
    return "not: it is too large for the memory of every backend"


def use_text(model: Model) -> str:
    """How much it was used; empty where nothing is known of that."""
    use = model.use
    if not (use.requests or use.loads):
        return ""
    last = f", the last {duration_text(use.idle_ms)} ago" if use.idle_ms is not None else ""
    requests = f"{counted(use.requests, 'request')}{last}"
    return f"{requests}; {counted(use.output_tokens, 'token')}, {counted(use.loads, 'load')}"


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
    if model.size_text:
        return model.size_text
    return bytes_text(model.size_bytes) if model.size_bytes else NOT_TOLD


def can_text(model: Model) -> str:
    """What it can do; "?" where no backend tells."""
    return ", ".join(model.capabilities) or NOT_TOLD
