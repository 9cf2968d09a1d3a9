"""What the benchmark `scheduling` counts of bounds on waiting, on cases counted by hand."""

from __future__ import annotations

from math import isnan

import pytest

from bench.scheduling_bounds import CELLS, figures, stated, table, tight, worst
from bench.scheduling_cells import SECOND_NS
from bench.scheduling_play import Played
from tests.unit.bench.test_scheduling_figures import ended, key


def played(bounds_s: dict[str, int]) -> Played:
    """Four requests that waited 10, 20, 30 and 40 s."""
    waits = {"a": 10, "b": 20, "c": 30, "d": 40}
    return Played(
        ended=tuple(ended(name, started_s=wait_s) for name, wait_s in waits.items()),
        loads=0,
        loads_bound=0,
        loading_share=0.0,
        bound_ns={key(name): bound_s * SECOND_NS for name, bound_s in bounds_s.items()},
    )


def test_what_is_counted_of_one_run() -> None:
    one = played({"a": 100, "b": 25, "c": 300})
    assert worst(one) == pytest.approx(0.8)
    assert stated(one) == 0.75
    assert tight(one) == pytest.approx(0.3)  # 30 s, the longest that was told any, of 100 s


def test_the_figure_is_the_largest_of_all_seeds_and_cells() -> None:
    kept, near = played({"a": 100, "b": 100}), played({"c": 100, "d": 50, "a": 100})
    found = figures({"x": [kept, near], "y": [kept]})
    assert found["wait_over_bound_max"] == found["wait_over_bound_x"] == pytest.approx(0.8)
    assert found["wait_over_bound_y"] == pytest.approx(0.2)
    assert found["wait_bound_stated_x"] == 0.5


def test_no_bound_that_hardly_anybody_was_told_is_kept() -> None:
    assert isnan(figures({"x": [played({"a": 100})]})["wait_over_bound_max"])


def test_the_table_names_each_cell() -> None:
    runs = {each.name: [played({"a": 100, "b": 100})] for each in CELLS}
    text = table(runs)
    assert all(each.is_patient and each.name in text for each in CELLS)
    assert "| 1x2_rho05_patient | 50% | 100 / 100 s | 20 / 40 / 40 s | 0.20 |" in text
