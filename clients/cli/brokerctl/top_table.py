"""A table of `brokerctl top`: keeps its selection while rows come, go and are sorted anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text
from textual import events
from textual.widgets import DataTable

from broker_client import Status
from brokerctl.fitting_table import GAP, Column, fitting_columns
from brokerctl.top_rows import Row, arranged

SCROLLBAR: Final = 2


class TopTable(DataTable[Text]):
    """Shows what `rows_of` makes of a status. Sorted by column `sort_column`; only rows that have
    `pattern` in them."""

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        rows_of: Callable[[Status], list[Row]],
        *,
        sort_column: int,
    ) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=True)
        self.sort_column = sort_column
        self.is_descending = True
        self.pattern = ""
        self._columns_all = columns
        self._rows_of = rows_of
        self._status: Status | None = None
        self._rows: list[Row] = []

    @property
    def selected(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self.cursor_row] if 0 <= self.cursor_row < len(self._rows) else None

    def show(self, status: Status) -> None:
        """Takes a new state; the cursor stays with its row, or where it is if that has gone."""
        self._status = status
        before = self.selected
        self._rows = arranged(
            self._rows_of(status),
            column=self.sort_column,
            is_descending=self.is_descending,
            pattern=self.pattern,
        )
        place = self.cursor_row
        for i, row in enumerate(self._rows):
            if before is not None and row.key == before.key:
                place = i
        self._draw(min(place, len(self._rows) - 1))

    def sort_next(self) -> None:
        """Sorts by the next column: figures from the largest, words from the first."""
        self.sort_column = (self.sort_column + 1) % len(self._columns_all)
        self.is_descending = self._columns_all[self.sort_column].is_number
        self._again()

    def reverse(self) -> None:
        """Turns the order round."""
        self.is_descending = not self.is_descending
        self._again()

    def filter(self, pattern: str) -> None:
        """Shows only what has this in it."""
        self.pattern = pattern
        self._again()

    def on_resize(self, event: events.Resize) -> None:
        """Another width has room for other columns."""
        self._again()

    def _again(self) -> None:
        if self._status is not None:
            self.show(self._status)

    def _draw(self, place: int) -> None:
        room = self.size.width - SCROLLBAR
        kept, _ = fitting_columns(
            [self._titled(i) for i in range(len(self._columns_all))],
            [row.cells for row in self._rows],
            room,
        )
        # The column that is sorted by is seen, even where nothing stands in it.
        if self.sort_column not in kept and not any(
            row.cells[self.sort_column] for row in self._rows
        ):
            kept = sorted([*kept, self.sort_column])
        scroll_y = self.scroll_y
        self.clear(columns=True)
        widths = [self._width(i) for i in kept]
        spare = room - sum(widths) - GAP * len(kept)
        for i, width in zip(kept, widths, strict=True):
            column = self._titled(i)
            if column.is_prose:
                width += spare
            self.add_column(column.name, width=max(width, len(column.name)))
        for row in self._rows:
            cells = [self._cell(row, i) for i in kept]
            self.add_row(*cells, key=row.key)
        if self._rows:
            self.move_cursor(row=max(place, 0), scroll=False)
            self.scroll_to(y=scroll_y, animate=False)

    def _titled(self, index: int) -> Column:
        """The column, marked where the rows are sorted by it."""
        column = self._columns_all[index]
        if index != self.sort_column:
            return column
        mark = "▼" if self.is_descending else "▲"
        return Column(
            name=f"{column.name} {mark}",
            rank=column.rank,
            is_number=column.is_number,
            is_prose=column.is_prose,
        )

    def _width(self, index: int) -> int:
        cells = [Text(row.cells[index]).cell_len for row in self._rows]
        return max([len(self._titled(index).name), *cells])

    def _cell(self, row: Row, index: int) -> Text:
        is_number = self._columns_all[index].is_number
        return Text(row.cells[index], justify="right" if is_number else "left", no_wrap=True)
