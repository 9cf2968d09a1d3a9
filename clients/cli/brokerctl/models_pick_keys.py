"""The keys of the picker: what they do, and in how many words there is room for."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len
from textual.binding import Binding

SEPARATOR: Final = "  "

PICK_BINDINGS: Final = (
    Binding("enter", "choose", show=False),
    Binding("space", "mark", show=False),
    Binding("u", "unmark", show=False),
    Binding("slash", "search", show=False),
    Binding("a", "availability", show=False),
    Binding("f", "switch('fits')", show=False),
    Binding("m", "switch('resident')", show=False),
    Binding("t", "capability('tools')", show=False),
    Binding("h", "capability('thinking')", show=False),
    Binding("v", "capability('vision')", show=False),
    Binding("e", "capability('embedding')", show=False),
    Binding("c", "context", show=False),
    Binding("x", "all_off", show=False),
    Binding("s", "order", show=False),
    Binding("p", "pull", show=False),
    Binding("i", "details", show=False),
    Binding("question_mark", "help", show=False),
    Binding("q", "leave", show=False),
    Binding("escape", "end_search", show=False),
    Binding("ctrl+c", "interrupt", show=False, priority=True),
    # While a search is typed these still move the cursor.
    Binding("up", "list('move', -1)", show=False),
    Binding("down", "list('move', 1)", show=False),
    Binding("pageup", "list('page', -1)", show=False),
    Binding("pagedown", "list('page', 1)", show=False),
)

# What is left out first stands last; the help is always named.
HELP: Final = "? keys"
KEYS: Final = (
    "Enter takes",
    "Space marks",
    "/ search",
    "q leaves",
    "a which",
    "f fits",
    "t tools",
    "s sort",
    "c context",
    "p download",
    "m in memory",
    "v vision",
    "h thinking",
    "e embedding",
    "x all filters off",
)
MARKING: Final = frozenset({"Space marks"})

# No longer than a page on 60 columns is wide.
HELP_LINES: Final = (
    "Enter  takes what is marked, or where nothing is",
    "       the model under the cursor",
    "Space  marks it, or takes its mark away",
    "u      takes all marks away",
    "q      leaves without a choice, as does Escape",
    "       where no search is on",
    "",
    "/      searches name, family and description;",
    "       Enter keeps the search, Escape ends it",
    "a      downloaded, downloadable, or both",
    "f      what fits the memory of a backend",
    "m      what is in memory now",
    "t h    what has tools, thinking,",
    "v e    vision, embedding",
    "c      a context of 8k, 32k, 128k or more",
    "x      ends every filter and the search",
    "s      sorts by name, by size, by use",
    "",
    "p      downloads the model, once that is confirmed",
    "i      opens or folds the details",
    "       arrows, pages, Home, End, mouse: move",
)
# Where only one model is chosen there are no marks.
ONE_LINES: Final = ("Enter  takes the model under the cursor", *HELP_LINES[4:])


def keys_line(width: int, *, is_multiple: bool) -> str:
    """As many keys as there is room for."""
    kept: list[str] = []
    room = width - cell_len(HELP)
    for each in KEYS:
        if each in MARKING and not is_multiple:
            continue
        room -= cell_len(each) + cell_len(SEPARATOR)
        if room < 0:
            break
        kept.append(each)
    return SEPARATOR.join([*kept, HELP])


def help_lines(*, is_multiple: bool) -> list[str]:
    """The page on all keys."""
    return list(HELP_LINES if is_multiple else ONE_LINES)
