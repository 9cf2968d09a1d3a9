"""The line of the picker to type a search into; it is there only while one types."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Label

from brokerctl.models_wanted import SEARCH_LENGTH_MAX


class SearchLine(Horizontal):
    """What is typed comes as `Input.Changed`, Enter as `Input.Submitted`."""

    DEFAULT_CSS = """
    SearchLine { height: 1; padding: 0 1; display: none; }
    SearchLine.shown { display: block; }
    """

    def compose(self) -> ComposeResult:
        """Words, and where to type."""
        yield Label("search: ")
        yield Input(
            placeholder="name, family, description; Enter, Escape",
            compact=True,
            max_length=SEARCH_LENGTH_MAX,
        )

    @property
    def is_open(self) -> bool:
        """Does one type?"""
        return self.has_class("shown")

    def open(self, text: str) -> None:
        """Begins with the search that is on."""
        line = self.query_one(Input)
        line.value = text
        self.add_class("shown")
        line.focus()

    def close(self) -> None:
        """Keeps what was typed for the next time."""
        self.remove_class("shown")

    def empty(self) -> None:
        """Takes away what was typed."""
        self.query_one(Input).value = ""
