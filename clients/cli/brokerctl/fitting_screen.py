"""A view that fits the height of the terminal: what has no room is counted, not cut off unsaid."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from brokerctl.figures import counted


class FittingScreen:
    """The view from its top; the last line says how much more there is."""

    def __init__(self, view: RenderableType) -> None:
        self._view = view

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType | Segment]:
        height = options.height or options.max_height
        lines = console.render_lines(self._view, options.update(height=None), pad=False)
        shown = lines if len(lines) <= height else lines[: max(height - 1, 0)]
        for line in shown:
            yield from line
            yield Segment.line()
        if len(shown) < len(lines):
            more = counted(len(lines) - len(shown), "more line")
            words = f"({more}: a taller terminal, or `brokerctl top`, shows them)"
            yield Text(words, style="dim", no_wrap=True, overflow="ellipsis", end="")
