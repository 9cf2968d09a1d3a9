"""Bars in groups, as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import scheduling
from bench.bars import COLOURS, bars
from bench.scheduling_cells import CELLS


def heights(svg: str) -> list[tuple[str | None, float]]:
    """Of the bars, with their colours."""
    found = ElementTree.fromstring(svg).findall("{*}rect[@class='bar']")
    return [(each.get("fill"), float(each.get("height") or "nan")) for each in found]


def test_a_bar_is_as_tall_as_its_share_and_has_the_colour_of_its_name() -> None:
    share = {("a", "x"): 0.5, ("a", "y"): 0.25, ("b", "y"): 1.0}
    (one, half), (two, quarter), (three, whole) = heights(bars("t", ["a", "b"], ["x", "y"], share))
    assert (one, two, three) == (COLOURS[0], COLOURS[1], COLOURS[1])
    assert half == pytest.approx(whole / 2, abs=0.1)
    assert quarter == pytest.approx(whole / 4, abs=0.1)


def test_names_are_text_whatever_they_are() -> None:
    svg = bars("<t>", ["a&b"], ["<x>"], {("a&b", "<x>"): 0.5})
    texts = [each.text for each in ElementTree.fromstring(svg).findall("{*}text")]
    assert {"<t>", "a&b", "<x>"} <= set(texts)


@pytest.mark.parametrize(("names", "share"), [(["x"], {}), (["x"] * 7, {("a", "x"): 0.5})])
def test_what_cannot_be_drawn_is_said(
    names: list[str], share: dict[tuple[str, str], float]
) -> None:
    with pytest.raises(ValueError, match="there must be bars"):
        bars("t", ["a"], names, share)


def test_scheduling_draws_each_rival_in_the_cells_that_all_played() -> None:
    cells = [each for each in CELLS if each not in scheduling.WHO]
    figures = {
        f"share_in_time_{cell}_{rival}": 0.5 for cell in cells for rival in scheduling.RIVALS
    }
    svg = scheduling.picture(figures)
    assert len(heights(svg)) == len(cells) * len(scheduling.RIVALS) > 6
