"""The rows of the picker: what stands in them, and which columns fit. Pure.

Names come from anybody who can put a model on a backend: they are shown as they are, on one line,
and what is too long for its column loses its middle, as beginning and tag tell models apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

from broker_client import Model, ModelPlace
from brokerctl.fitting_table import GAP, Column, fitting_columns
from brokerctl.model_choice import UNKNOWN
from brokerctl.models_pick_filter import context_text
from brokerctl.one_line import one_line

COLUMNS: Final = (
    Column(name="model"),
    Column(name="size", is_number=True),
    Column(name="state"),
    Column(name="can", rank=2),
    Column(name="context", is_number=True, rank=3),
    Column(name="used", is_number=True, rank=1),
    Column(name="where", rank=4),
)
# The name gets this much before any other column gets room, and what nobody else needs after.
NAME_CELLS: Final = 24
CUT: Final = "…"
BACKENDS_SHOWN: Final = 2

# The first of these that a place has is what is said of the model.
STATES: Final = ("resident", "loading", "draining", "unloading", "freeing", "absent", UNKNOWN)
STATE_TEXTS: Final = {"absent": "on disk", UNKNOWN: "not known"}
# Every model of a list generates text or embeds: the latter is told, as it is the rarer.
SHORT_CAPABILITIES: Final = {"thinking": "think", "embedding": "embed"}
UNTOLD_CAPABILITIES: Final = frozenset({"completion", "insert"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PickRow:
    """One model: its cells in the order of COLUMNS. `is_ready`: it answers without a load."""

    name: str
    cells: tuple[str, ...]
    is_ready: bool
    is_here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which columns are shown, and how wide."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]

    def heading(self) -> str:
        """The line above the rows."""
        return self.line([column.name for column in COLUMNS])

    def line(self, cells: Sequence[str]) -> str:
        """One row, each cell in its column."""
        shown = (
            justified(cells[i], width, is_number=COLUMNS[i].is_number)
            for i, width in zip(self.columns, self.widths, strict=True)
        )
        return (" " * GAP).join(shown)


def row_of(model: Model, pull_text: str = "") -> PickRow:
    """The row of a model. `pull_text`: how far its download is, where it is downloaded."""
    state = state_of(model)
    return PickRow(
        name=model.name,
        cells=(
            one_line(model.name),
            model.size_text,
            pull_text or state_text(model),
            can_text(model),
            context_text(model.context_length_train) if model.context_length_train else "",
            use_text(model.use.requests),
            where_text(model),
        ),
        is_ready=state == "resident",
        is_here=model.downloaded,
    )


def nearness(place: ModelPlace) -> int:
    """The less, the nearer its model is to an answer there."""
    return STATES.index(place.state) if place.state in STATES else len(STATES)


def state_of(model: Model) -> str:
    """The state of its place that is nearest to an answer; "" where it has none."""
    return min(model.places, key=nearness).state if model.places else ""


def state_text(model: Model) -> str:
    """Whether it is in memory, on a disk, or could be; in words, as colours are not for all."""
    state = state_of(model)
    if not state:
        return "on disk" if model.downloaded else "downloadable"
    count = sum(each.state == state for each in model.places)
    text = STATE_TEXTS.get(state, state)
    return f"{text} x{count}" if state == "resident" and count > 1 else text


def can_text(model: Model) -> str:
    """What it can do beyond answering in text."""
    told = (each for each in model.capabilities if each not in UNTOLD_CAPABILITIES)
    return " ".join(SHORT_CAPABILITIES.get(each, one_line(each)) for each in told)


def where_text(model: Model) -> str:
    """The backends that have it; where there are many, how many more."""
    names = [one_line(each.backend) for each in model.places]
    more = len(names) - BACKENDS_SHOWN
    return ", ".join(names[:BACKENDS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def use_text(requests: int) -> str:
    """Requests in at most four characters: 950 -> "950", 12345 -> "12k"; "" where none."""
    if requests < 10_000:
        return str(requests or "")
    for unit, scale in (("k", 10**3), ("M", 10**6)):
        if requests < scale * 1000:
            return f"{requests // scale}{unit}"
    return f"{requests // 10**9}G"


def layout_of(rows: Sequence[PickRow], room: int) -> Layout:
    """The columns that `room` cells have place for. Those that matter less are left out."""
    short = [(shortened(row.cells[0], NAME_CELLS), *row.cells[1:]) for row in rows]
    kept, _ = fitting_columns(COLUMNS, short, room)
    widths = [max([cell_len(COLUMNS[i].name), *(cell_len(row[i]) for row in short)]) for i in kept]
    others = sum(widths[1:]) + GAP * (len(kept) - 1)
    wanted = max([cell_len(COLUMNS[0].name), *(cell_len(row.cells[0]) for row in rows)])
    widths[0] = max(min(wanted, room - others), 1)
    return Layout(columns=tuple(kept), widths=tuple(widths))


def justified(text: str, width: int, *, is_number: bool = False) -> str:
    """Exactly `width` cells of it."""
    short = shortened(text, width)
    if is_number:
        return " " * (width - cell_len(short)) + short
    return set_cell_size(short, width)


def shortened(text: str, width: int) -> str:
    """The same where it fits, else without its middle."""
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return CUT[:width]
    tail_cells = (width - 1) // 2
    tail = ""
    for character in reversed(text):
        if cell_len(character + tail) > tail_cells:
            break
        tail = character + tail
    head = set_cell_size(text, width - 1 - cell_len(tail))
    return f"{head}{CUT}{tail}"
