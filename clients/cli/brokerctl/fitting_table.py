"""A table that fits the terminal: where it is too narrow, columns that matter less are left out.

What was left out is named below the table, so that nobody takes it for absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from brokerctl.one_line import one_line

GAP: Final = 2  # blanks between two columns
WRAPPED_MIN: Final = 24  # a column of sentences narrower than this is no use


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. Of those with the greatest `rank` the last is left out first; rank 0 never is.
    `is_prose`: its cells may wrap."""

    name: str
    rank: int = 0
    is_number: bool = False
    is_prose: bool = False


def fitting_columns(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width_max: int
) -> tuple[list[int], list[int]]:
    """Which columns to show, and which have content but no room. A column without any content is
    neither, but for the first."""
    filled = [i for i in range(len(columns)) if not i or any(row[i] for row in rows)]
    widths = {i: _width(columns[i], [row[i] for row in rows]) for i in filled}
    kept = list(filled)
    while sum(widths[i] + GAP for i in kept) - GAP > width_max:
        worst = max(kept, key=lambda i: (columns[i].rank, i))
        if not columns[worst].rank:
            break
        kept.remove(worst)
    return kept, [i for i in filled if i not in kept]


def _width(column: Column, cells: Sequence[str]) -> int:
    needed = max(cell_len(each) for each in (column.name, *cells))
    return min(needed, WRAPPED_MIN) if column.is_prose else needed


class FittingTable:
    """Rows under columns; a column without any content is not shown."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[tuple[Text, ...]] = []

    def add(self, *cells: str | Text) -> None:
        """One more row, with a cell for each column."""
        row = tuple(each if isinstance(each, Text) else Text(one_line(each)) for each in cells)
        if len(row) != len(self._columns):
            raise ValueError(f"{len(row)} cells for {len(self._columns)} columns")
        self._rows.append(row)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        plain = [[each.plain for each in row] for row in self._rows]
        kept, left_out = fitting_columns(self._columns, plain, options.max_width)
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for i in kept:
            column = self._columns[i]
            table.add_column(
                column.name,
                justify="right" if column.is_number else "left",
                no_wrap=not column.is_prose,
                overflow="fold" if column.is_prose else "ellipsis",
                header_style="bold",
            )
        for row in self._rows:
            table.add_row(*(row[i] for i in kept))
        yield table
        if left_out:
            names = ", ".join(self._columns[i].name for i in left_out)
            yield Text(f"(a wider terminal shows: {names})", style="dim")
