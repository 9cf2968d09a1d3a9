"""The list of the picker. A new list is drawn over the old one, and only its lines that differ; the
cursor and what is in view stay with their models, wherever these went."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from brokerctl.models_pick_rows import Layout, PickRow, layout_of, shortened

# Selection and marks are characters, so that they are seen without any colour.
POINTER: Final = ">"
MARKED: Final = "[x]"
UNMARKED: Final = "[ ]"
SCROLLBAR: Final = 2


class PickList(ScrollView, can_focus=True):
    """Rows with a cursor; those of `marked` have a cross where several may be chosen."""

    DEFAULT_CSS = """
    PickList { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    PickList > .pick--cursor { background: $primary; color: $text; text-style: bold; }
    PickList > .pick--marked { color: $text-success; text-style: bold; }
    PickList > .pick--ready { color: $text-success; }
    PickList > .pick--away { color: $text-muted; }
    PickList:nocolor > .pick--cursor { text-style: bold reverse; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "pick--cursor",
        "pick--marked",
        "pick--ready",
        "pick--away",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "to_end(False)", show=False),
        Binding("end", "to_end(True)", show=False),
    ]

    class Changed(Message):
        """The cursor is at another model, or at none; or the columns are others."""

    class Clicked(Message):
        """The row under the cursor was clicked again, or its mark was."""

    def __init__(self, marked: Collection[str], *, is_multiple: bool) -> None:
        super().__init__(id="list")
        self.cursor = 0
        self.rows: Sequence[PickRow] = ()
        self.empty_text = ""
        self._marked = marked
        self._is_multiple = is_multiple
        self._layout = layout_of((), 0)
        self._told: tuple[str | None, Layout] | None = None

    @property
    def lead(self) -> int:
        """Cells before the first column."""
        return len(POINTER) + 1 + (len(MARKED) + 1 if self._is_multiple else 0)

    @property
    def selected(self) -> PickRow | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    @property
    def heading(self) -> str:
        """What stands above the columns, as far as it is known how wide they are."""
        return " " * self.lead + self._layout.heading()

    def show(self, rows: Sequence[PickRow]) -> None:
        """Takes a new list."""
        before, old_layout = self.rows, self._layout
        offset = self.cursor - self.scroll_offset.y
        self.rows = rows
        self._layout = self._fitting()
        self.cursor = self._place_of_cursor(before)
        size = Size(self.size.width, len(rows))
        if self.virtual_size != size:
            self.virtual_size = size
        at_y = max(min(self.cursor - offset, len(rows) - self.size.height), 0)
        if at_y != self.scroll_offset.y:
            self.scroll_to(y=at_y, animate=False, force=True, immediate=True)
        if old_layout != self._layout or not before or not rows:
            self.refresh()
        else:
            for y in range(at_y, at_y + self.size.height):
                if before[y : y + 1] != rows[y : y + 1]:
                    self.refresh_row(y)
        self._tell()

    def refresh_row(self, y: int) -> None:
        """Draws one row anew, and no other."""
        at_y = y - self.scroll_offset.y
        if 0 <= at_y < self.size.height:
            self.refresh(Region(0, at_y, self.size.width, 1))

    def go_to(self, name: str) -> bool:
        """Puts the cursor on a model; False where it is not listed."""
        for i, row in enumerate(self.rows):
            if row.name == name:
                self._go(i)
                return True
        return False

    def render_line(self, y: int) -> Strip:
        """One line of what is in view."""
        place = y + self.scroll_offset.y
        width = self.size.width
        base = self.rich_style
        if place >= len(self.rows):
            text = shortened(self.empty_text, width - 2) if not self.rows and y == 1 else ""
            return (
                Strip([Segment(f"  {text}", base)]).extend_cell_length(width, base).crop(0, width)
            )
        row = self.rows[place]
        is_marked = row.name in self._marked
        style = base + self._style_of(row, is_marked=is_marked, is_cursor=place == self.cursor)
        lead = POINTER if place == self.cursor else " " * len(POINTER)
        if self._is_multiple:
            lead += f" {MARKED if is_marked else UNMARKED}"
        line = Strip([Segment(f"{lead} {self._layout.line(row.cells)}", style)])
        return line.adjust_cell_length(width, style)

    def on_resize(self, event: events.Resize) -> None:
        """Another width has room for other columns."""
        self.show(self.rows)
        self._go(self.cursor)
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Puts the cursor there; on the mark, or where the cursor was already, it also marks."""
        place = event.y + self.scroll_offset.y
        if place >= len(self.rows):
            return
        is_mark = self._is_multiple and event.x < self.lead
        was_there = place == self.cursor
        self._go(place)
        if is_mark or was_there:
            self.post_message(self.Clicked())

    def action_move(self, rows: int) -> None:
        """Up or down."""
        self._go(self.cursor + rows)

    def action_page(self, pages: int) -> None:
        """As many rows as are seen."""
        self._go(self.cursor + pages * max(self.size.height - 1, 1))

    def action_to_end(self, is_last: bool) -> None:
        """The first row, or the last."""
        self._go(len(self.rows) - 1 if is_last else 0)

    def _go(self, place: int) -> None:
        if not self.rows:
            return
        before = self.cursor
        self.cursor = min(max(place, 0), len(self.rows) - 1)
        top, height = self.scroll_offset.y, self.size.height
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True, immediate=True)
        elif height and self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, force=True, immediate=True)
        self.refresh_row(before)
        self.refresh_row(self.cursor)
        self._tell()

    def _tell(self) -> None:
        name = self.selected.name if self.selected else None
        if (name, self._layout) != self._told:
            self._told = (name, self._layout)
            self.post_message(self.Changed())

    def _place_of_cursor(self, before: Sequence[PickRow]) -> int:
        """Where its model is now; where it has gone, the place that it had."""
        if self.cursor < len(before):
            name = before[self.cursor].name
            for i, row in enumerate(self.rows):
                if row.name == name:
                    return i
        return max(min(self.cursor, len(self.rows) - 1), 0)

    def _fitting(self) -> Layout:
        return layout_of(self.rows, max(self.size.width - self.lead - SCROLLBAR, 0))

    def _style_of(self, row: PickRow, *, is_marked: bool, is_cursor: bool) -> Style:
        if is_cursor:
            return self.get_component_rich_style("pick--cursor", partial=True)
        if is_marked:
            return self.get_component_rich_style("pick--marked", partial=True)
        if row.is_ready:
            return self.get_component_rich_style("pick--ready", partial=True)
        if not row.is_here:
            return self.get_component_rich_style("pick--away", partial=True)
        return Style.null()
