"""What the picker says of the model under its cursor, and of the list as a whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker_client import Model, ModelPlace
from brokerctl.figures import bytes_text, counted
from brokerctl.model_choice import UNKNOWN
from brokerctl.models_pick_filter import PickFilter, context_text
from brokerctl.models_pick_rows import nearness
from brokerctl.models_tables import use_text
from brokerctl.one_line import one_line
from brokerctl.work_tables import memory_text

# Where there are more, the rest is counted.
PLACES_SHOWN: Final = 2
NEEDS_SHOWN: Final = 4
ESTIMATED: Final = "~"
NAMES_SHOWN: Final = 4


def detail_lines(model: Model) -> list[str]:
    """All there is to say, what matters most first, as the pane may be low."""
    facts = (model.status_text, model.parameter_size, model.quantization, model.family)
    lines = [f"{model.name}: {', '.join(filter(None, facts))}"]
    abilities = ", ".join(model.capabilities) or "not told"
    context = str(model.context_length_train) if model.context_length_train else "not told"
    aliases = f"; also called {', '.join(model.aliases)}" if model.aliases else ""
    lines.append(f"can {abilities}; context {context}{aliases}")
    lines.append(memory_line(model))
    lines += place_lines(model.places)
    lines.append(use_text(model) or "not used yet, as far as is kept")
    if model.description:
        lines.append(model.description)
    return [one_line(each) for each in lines if each]


def memory_line(model: Model) -> str:
    """What it takes in memory by context, and whether there is room for it."""
    needs = [
        f"{'' if each.measured else ESTIMATED}{bytes_text(each.bytes)} at "
        + context_text(each.num_ctx)
        for each in model.memory[:NEEDS_SHOWN]
    ]
    if not all(each.measured for each in model.memory[:NEEDS_SHOWN]):
        needs[-1] += f" ({ESTIMATED} estimated)"
    fits = {
        True: "fits",
        False: "too large for the memory of every backend",
        None: "whether it fits is not known",
    }[model.fits]
    return f"memory {', '.join(needs)}; {fits}" if needs else f"memory not known; {fits}"


def place_lines(places: Sequence[ModelPlace]) -> list[str]:
    """Where it is, and what it does there; where it is nearest to an answer first."""
    nearest = sorted(places, key=nearness)
    lines = [f"{place.backend}: {place_text(place)}" for place in nearest[:PLACES_SHOWN]]
    more = len(places) - PLACES_SHOWN
    if more > 0:
        lines[-1] += f"; and on {counted(more, 'backend')} more"
    return lines


def place_text(place: ModelPlace) -> str:
    """What it does on one backend."""
    if place.state == UNKNOWN:
        return "not known, it is down"
    if place.state == "absent":
        return "on disk"
    context = f", context {place.num_ctx}" if place.num_ctx else ""
    memory = f", {memory_text(place)}" if place.memory_bytes else ""
    return f"{place.state}, {place.running} of {place.slots} slots in use{memory}{context}"


def names_text(names: Sequence[str]) -> str:
    """The first few, the others counted."""
    shown = ", ".join(one_line(each) for each in names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def empty_text(asked: PickFilter, *, is_answered: bool, loading: bool) -> str:
    """What stands in the place of rows where there are none."""
    if not is_answered:
        return "waiting for the broker"
    if loading:
        return "nothing yet: the list is being loaded"
    if asked.search:
        return "no model is so; Escape ends the search, x every filter"
    if asked.fits:
        return "no model is known to fit; f ends that filter"
    if asked != PickFilter(order=asked.order):
        return "no model is so; a shows others, x ends every filter"
    return "no model is downloaded; a shows those that could be"
