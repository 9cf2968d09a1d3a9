"""What gives way when a terminal is too narrow, and that it is said."""

from __future__ import annotations

import pytest
from rich.console import Console

from brokerctl.fitting_table import Column, FittingTable, fitting_columns

COLUMNS = (
    Column(name="name"),
    Column(name="kind", rank=2),
    Column(name="size", is_number=True, rank=1),
    Column(name="why", is_prose=True),
)
ROW = ("tinyllama", "small", "12", "a sentence that is long enough to be wrapped somewhere")


def shown(width: int, *rows: tuple[str, ...]) -> list[str]:
    table = FittingTable(*COLUMNS)
    for row in rows:
        table.add(*row)
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [each.rstrip() for each in capture.get().splitlines()]


def test_everything_has_room_on_a_wide_terminal() -> None:
    assert shown(120, ROW) == [
        "name       kind   size  why",
        "tinyllama  small    12  a sentence that is long enough to be wrapped somewhere",
    ]


def test_what_matters_least_gives_way_first_and_is_named() -> None:
    assert shown(44, ROW) == [
        "name       size  why",
        "tinyllama    12  a sentence that is long",
        "                 enough to be wrapped",
        "                 somewhere",
        "(a wider terminal shows: kind)",
    ]
    assert shown(38, ROW)[-1] == "(a wider terminal shows: kind, size)"


def test_columns_of_rank_0_stay_however_narrow_it_is() -> None:
    lines = shown(20, ROW)
    assert lines[0].startswith("name")
    assert all(len(each) <= 20 for each in lines)
    kept, left_out = fitting_columns(COLUMNS, [ROW], 1)
    assert (kept, left_out) == ([0, 3], [1, 2])


def test_a_column_without_content_is_neither_shown_nor_named() -> None:
    assert shown(120, ("a", "", "", "b"))[0].split() == ["name", "why"]
    assert fitting_columns(COLUMNS, [("", "", "", "")], 80) == ([0], [])


def test_names_of_models_are_no_markup() -> None:
    assert "[red]x[/red]" in shown(120, ("[red]x[/red]", "", "", "[b]"))[1]


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="1 cells for 4 columns"):
        FittingTable(*COLUMNS).add("x")
