"""What stands in the picker's rows, details and lines: words and widths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from broker_client import Model, Wanted
from broker_client.catalogue import model_of
from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.models_pick_details import detail_lines, names_text
from brokerctl.models_pick_filter import PickFilter, context_text, filter_text
from brokerctl.models_pick_keys import keys_line
from brokerctl.models_pick_marks import MARKS_MAX, Marks, marks_text
from brokerctl.models_pick_rows import (
    COLUMNS,
    justified,
    layout_of,
    row_of,
    shortened,
    state_text,
    use_text,
)
from tests.unit.cli.picked_models import message, place, shelf

WORDS = st.text(max_size=40)


@given(WORDS, st.integers(0, 30))
def test_what_is_shortened_fits_and_keeps_its_ends(text: str, width: int) -> None:
    text = "".join(each for each in text if each.isprintable())
    short = shortened(text, width)
    assert cell_len(short) <= width
    if cell_len(text) <= width:
        assert short == text
    elif width > 1:
        assert "…" in short
        head, _, tail = short.rpartition("…") if text.count("…") == 0 else ("", "", "")
        assert text.startswith(head.rstrip(" "))
        assert text.endswith(tail)


@given(WORDS, st.integers(1, 30), st.booleans())
def test_a_cell_is_exactly_as_wide_as_its_column(text: str, width: int, is_number: bool) -> None:
    text = "".join(each for each in text if each.isprintable())
    assert cell_len(justified(text, width, is_number=is_number)) == width


@given(st.lists(WORDS, max_size=5), st.integers(0, 120))
def test_all_lines_of_a_layout_are_of_one_width(names: list[str], room: int) -> None:
    rows = [row_of(model_of(message(name, 1))) for name in names]
    layout = layout_of(rows, room)
    widths = {cell_len(layout.line(row.cells)) for row in rows}
    assert widths <= {cell_len(layout.heading())}
    assert layout.columns[:1] == (0,)
    # What never goes needs less than 60 columns have.
    if room >= 52:
        assert cell_len(layout.heading()) <= room


@pytest.mark.parametrize(
    ("requests", "text"),
    [(0, ""), (950, "950"), (9_999, "9999"), (12_345, "12k"), (999_999, "999k")],
)
def test_use_takes_four_characters(requests: int, text: str) -> None:
    assert use_text(requests) == text
    assert len(use_text(requests * 10**6)) <= 4


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ((), "downloadable"),
        ((pb.MODEL_STATE_ABSENT,), "on disk"),
        ((pb.MODEL_STATE_ABSENT, pb.MODEL_STATE_LOADING), "loading"),
        ((pb.MODEL_STATE_UNKNOWN, pb.MODEL_STATE_ABSENT), "on disk"),
        ((pb.MODEL_STATE_UNKNOWN,), "not known"),
        ((pb.MODEL_STATE_RESIDENT, pb.MODEL_STATE_RESIDENT), "resident x2"),
        ((pb.MODEL_STATE_DRAINING, pb.MODEL_STATE_RESIDENT), "resident"),
        ((pb.MODEL_STATE_UNSPECIFIED, pb.MODEL_STATE_FREEING), "freeing"),
    ],
)
def test_the_state_is_that_of_the_nearest_place(
    states: tuple[pb.ModelState.ValueType, ...], text: str
) -> None:
    places = [place(f"gpu-{i}", state) for i, state in enumerate(states)]
    assert state_text(model_of(message("a:b", 1, places=places))) == text


def test_what_is_downloaded_to_a_place_that_is_not_told_is_on_disk() -> None:
    told = model_of(message("a:b", 1))
    assert state_text(replace(told, downloaded=True)) == "on disk"


def test_backends_are_few_in_a_row_and_counted_beyond() -> None:
    places = [place(f"gpu-{i}", pb.MODEL_STATE_ABSENT) for i in range(5)]
    model = model_of(message("a:b", 1, places=places))
    where = [column.name for column in COLUMNS].index("where")
    assert row_of(model).cells[where] == "gpu-0, gpu-1 and 3 more"
    assert "gpu-1: on disk; and on 3 backends more" in detail_lines(model)


def test_of_a_bare_model_the_details_say_what_is_not_known() -> None:
    bare = message("a:b")
    bare.ClearField("capabilities")
    assert detail_lines(model_of(bare)) == [
        "a:b: ⬇ Downloadable, a",
        "can not told; context not told",
        "memory not known; whether it fits is not known",
        "not used yet, as far as is kept",
    ]


def test_details_stay_on_their_lines() -> None:
    nasty = message("a:b", 1, description="two\nlines\x1b[2J", aliases=["x\ny"])
    lines = detail_lines(model_of(nasty))
    assert all(each.isprintable() for each in lines)
    assert lines[-1] == "two lines\\x1b[2J"


@pytest.mark.parametrize(("tokens", "text"), [(131_072, "128k"), (2048, "2k"), (1000, "1000")])
def test_contexts_in_short(tokens: int, text: str) -> None:
    assert context_text(tokens) == text


def test_the_filter_in_words() -> None:
    asked = PickFilter(
        search="llama",
        availability="all",
        capabilities=frozenset({"vision", "tools"}),
        fits=True,
        resident=True,
        context_min=8192,
        size_bytes_max=5 * 10**9,
        memory_bytes_max=8 * 10**9,
        exclude_guards=True,
        order="size",
    )
    assert filter_text(asked) == (
        "all models, in memory, that fit, with tools and vision, context 8k or"
        ' more, 5.0 GB or less, 8.0 GB of memory or less, no guards, "llama"; by size'
    )
    # What goes to the broker is all of it.
    assert PickFilter.of(Wanted(**asked.wanted())) == asked


def test_sizes_memory_and_guards_are_judged_here_as_by_the_broker() -> None:
    models = {each.name: model_of(each) for each in shelf()}
    every = PickFilter(availability="all")

    def kept(asked: PickFilter) -> set[str]:
        return {name for name, model in models.items() if asked.holds_for(model)}

    assert kept(replace(every, size_bytes_max=10**9)) == {
        "nomic-embed-text:latest",
        "tinyllama:latest",
    }
    assert kept(replace(every, memory_bytes_max=6 * 10**9)) == {"llama3.1:8b", "qwen3:8b"}
    guard = replace(models["qwen3:8b"], guard=True)
    assert not replace(every, exclude_guards=True).holds_for(guard)
    assert every.holds_for(guard)


@pytest.mark.parametrize("width", [0, 20, 58, 78, 118, 300])
def test_the_line_of_keys_fits_and_ends_with_the_help(width: int) -> None:
    line = keys_line(width, is_multiple=True)
    assert line.endswith("? keys")
    assert len(line) <= max(width, len("? keys"))
    assert ("Space marks" in line) == (width >= 58)
    assert "Space" not in keys_line(width, is_multiple=False)


def models(count: int) -> list[Model]:
    return [model_of(message(f"m{i}", 1)) for i in range(count)]


def test_marks_are_bounded() -> None:
    marks = Marks()
    added = [marks.add(each, 1) for each in models(MARKS_MAX + 1)]
    assert added == [*[True] * MARKS_MAX, False]
    assert marks.add(models(1)[0], 2)  # one that is marked already needs no room
    marks.remove("m5")
    assert "m5" not in marks
    assert marks.add(models(MARKS_MAX + 1)[-1], 1)


def test_what_is_known_of_a_mark_is_never_older_than_before() -> None:
    [model] = models(1)
    marks = Marks()
    marks.add(model, 5)
    assert marks.learn("m0", None, 4) == ""
    assert marks.taken == ["m0"]
    assert marks.unsure([], 5) == []
    assert marks.unsure([], 6) == ["m0"]
    assert marks.unsure(["m0"], 6) == []
    assert marks.learn("m0", None, 6) == "m0, which is marked, is gone"
    assert marks.learn("m0", None, 7) == ""
    assert marks_text(marks, "other") == "nothing to take; marked but gone: m0"
    assert marks.learn("m0", model, 8) == "m0, which is marked, is back"
    assert marks.learn("nobody", None, 9) == ""


def test_many_names_are_counted() -> None:
    assert names_text(["a", "b\nc"]) == "a, b c"
    assert names_text([f"m{i}" for i in range(7)]) == "m0, m1, m2, m3 and 3 more"
