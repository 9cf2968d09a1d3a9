"""What `brokerctl top` lays over its tables: a question before it acts, the story of a request."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


class Question(ModalScreen[bool]):
    """Asks before something is done that cannot be undone."""

    DEFAULT_CSS = """
    Question { align: center middle; }
    Question > Static {
        width: auto; max-width: 90%; height: auto; padding: 1 2;
        border: round $warning; background: $surface;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,enter,q", "answer(False)", "no"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """The question, and how to answer it."""
        yield Static(f"{self._text}\n\ny does it, n does not", markup=False, id="question")

    def action_answer(self, is_yes: bool) -> None:
        """Back to the tables."""
        self.dismiss(is_yes)


class Page(ModalScreen[None]):
    """Some lines to read."""

    DEFAULT_CSS = """
    Page { align: center middle; }
    Page > VerticalScroll {
        width: 90%; height: auto; max-height: 90%; padding: 1 2;
        border: round $accent; background: $surface;
    }
    Page Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,e", "close", "close")]

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def compose(self) -> ComposeResult:
        """The lines, scrolled with the arrows."""
        with VerticalScroll():
            yield Static("\n".join(self._lines), markup=False, id="page")

    def action_close(self) -> None:
        """Back to the tables."""
        self.dismiss(None)
