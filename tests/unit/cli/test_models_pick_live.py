"""The picker of models while the list changes, and how it looks on terminals of any kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest

from broker_client.catalogue import model_list_of
from broker_client.errors import ErrorDetails, Unreachable
from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.models_pick_filter import PickFilter
from brokerctl.models_pick_list import PickList
from brokerctl.models_pick_screen import Picker
from docs import picked
from tests.unit.cli.picked_models import ON_DISK, FakeCatalogue, message, shelf
from tests.unit.cli.picker_stage import ALL, NAMES, Stage, stage

GONE = Unreachable(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, message="refused"))


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40)])
async def test_columns_are_whole_at_any_width(size: tuple[int, int]) -> None:
    async with stage(size) as pick:
        lines = pick.lines()
        heading = next(each for each in lines if each.lstrip().startswith("model "))
        assert {"model", "size", "state", "used"} <= set(heading.split())
        assert ("where" in heading) == (size[0] == 120)
        [row] = [each for each in lines if each.startswith("  [ ] llama3.1:8b")]
        assert row.split()[2:6] == ["llama3.1:8b", "4.9", "GB", "resident"]
        assert "18k" in row.split()
        # Every figure ends below the end of its heading.
        for name, cell in (("size", "4.9 GB"), ("used", "18k")):
            assert row.index(cell) + len(cell) == heading.index(name) + len(name)
        assert all(len(each) <= size[0] for each in lines)
        assert lines[-1].endswith("? keys")
        assert ("memory not known" in pick.seen()) == (size[1] >= 24)


def many(count: int) -> list[pb.Model]:
    return [message(f"m{i:04}:1b", 1 + i % 9, places=ON_DISK) for i in range(count)]


async def test_cursor_view_and_marks_stay_with_their_models() -> None:
    async with stage(broker=FakeCatalogue(many(200))) as pick:
        await pick.press("pagedown", "pagedown", "space", "up", "up", "up")
        cursor, top = pick.table.cursor, pick.table.scroll_offset.y
        before = pick.lines()
        # Ten come before it, three of the first go: all is seven further down.
        more = [message(f"a{i}:1b", 1, places=ON_DISK) for i in range(10)]
        await pick.change([*more, *many(200)[3:]])
        assert (pick.table.cursor, pick.table.scroll_offset.y) == (cursor + 7, top + 7)
        # Apart from the scrollbar nothing has moved.
        assert [each[:38] for each in pick.lines()[2:-3]] == [each[:38] for each in before[2:-3]]
        # What was under the cursor goes: it is where it was.
        name = pick.selected
        kept = [each for each in pick.broker.shelf if each.name != name]
        await pick.change(kept)
        assert pick.table.cursor == cursor + 7
        assert pick.selected == f"m{int(name[1:5]) + 1:04}:1b"


async def test_another_width_has_other_columns_and_their_heading() -> None:
    async with stage((120, 30)) as pick:
        assert "context" in pick.seen()
        for width, last in ((60, "used"), (120, "where"), (80, "used")):
            await pick.pilot.resize_terminal(width, 30)
            await pick.pilot.pause()
            assert pick.lines()[1].endswith(last)


async def test_only_lines_that_differ_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage(broker=FakeCatalogue(many(100))) as pick:
        drawn: list[int] = []
        whole = PickList.render_line

        def counted(self: PickList, y: int) -> Any:
            drawn.append(y)
            return whole(self, y)

        monkeypatch.setattr(PickList, "render_line", counted)
        changed = many(100)
        changed[4].places[0].state = pb.MODEL_STATE_LOADING
        await pick.change(changed)
        await pick.until("loading")
        assert drawn == [4]
        # The very same again, at another time: nothing to draw.
        await pick.change(changed)
        assert drawn == [4]


async def test_a_marked_model_that_goes_is_told_and_not_taken() -> None:
    async with stage(selected=["llama3.1:8b", "qwen3:8b"]) as pick:
        await pick.until("Enter takes 2 marked")
        whole = shelf()
        await pick.change([each for each in whole if each.name != "qwen3:8b"])
        await pick.until("qwen3:8b, which is marked, is gone")
        await pick.until("Enter takes 1 marked: llama3.1:8b; marked but gone: qwen3:8b")
        await pick.change(whole)
        await pick.until("qwen3:8b, which is marked, is back", "Enter takes 2 marked")
        await pick.change([])
        await pick.until("marked but gone: llama3.1:8b, qwen3:8b")
        await pick.press("enter")
        await pick.until("there is nothing to take")
        assert pick.app.is_running


async def test_a_marked_model_that_is_no_longer_downloaded_is_told() -> None:
    async with stage(asked=PickFilter(), selected=["qwen3:8b"]) as pick:
        await pick.until("Enter takes 1 marked")
        changed = shelf()
        changed[4].CopyFrom(message("qwen3:8b", 5.2, "completion", "tools"))
        await pick.change(changed)
        await pick.until("qwen3:8b, which is marked, is no longer downloaded")


async def test_a_broker_that_goes_away_is_waited_for() -> None:
    async with stage() as pick:
        await pick.press("down", "space")
        pick.broker.is_silent = True
        await pick.broker.news.put(GONE)
        await pick.until("no broker answers at here:1", "what is shown is old, trying again")
        assert pick.names() == NAMES
        assert pick.selected == "llama3.1:8b"
        await pick.press("t")  # what is known is filtered all the same
        assert len(pick.names()) == 3
        await pick.press("t")
        await pick.change(shelf()[:2])
        while len(pick.names()) != 2:
            await pick.pilot.pause()
        assert "no broker answers" not in "\n".join(pick.lines())
        assert pick.selected == "llama3.1:8b"
        await pick.until("Enter takes 1 marked: llama3.1:8b")


async def test_sources_that_do_not_answer_are_named() -> None:
    async with stage() as pick:
        told = pick.broker.list_for(ALL)
        down = pb.ModelSource(name="gpu-2", age_ms=90_000, problem="connection\nrefused")
        library = pb.ModelSource(name="library", up=True, age_ms=5)
        changed = pb.ListResponse(sources=[down, library], loading=True, changed_unix_ms=2)
        sources = model_list_of(changed).sources
        await pick.broker.news.put(replace(told, sources=sources, loading=True))
        await pick.until("the list is being refreshed")
        await pick.until("the list is 1 min 30 s old: gpu-2 does not answer (connection refused)")
        assert "library" not in pick.seen()


async def test_of_a_huge_list_the_first_page_is_shown_and_the_rest_searched() -> None:
    broker = FakeCatalogue(many(500))
    broker.total = 200_000
    async with stage((80, 24), broker=broker) as pick:
        await pick.until("500 of 200,000; / finds the rest")
        await pick.press("end")
        assert pick.selected == "m0499:1b"
        await pick.press("slash", *"m042")
        assert len(pick.names()) == 10
        broker.total = None
        await pick.until_asked(replace(ALL, search="m042"))


NASTY = [
    "[red]x[/]:latest",
    "[/]:latest",
    "$primary:1b",
    "模型模型模型模型模型模型模型模型:八b",
    "tëst\u0301:1b",
    "esc\x1b[2J\nnewline:1b",
    "hf.co/somebody/A-Very-Long-Name-Of-A-Model-That-Goes-On-And-On-GGUF:Q4_K_M",
]


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40)])
async def test_names_are_shown_as_they_are(size: tuple[int, int]) -> None:
    broker = FakeCatalogue([message(each, 1, places=ON_DISK) for each in NASTY])
    async with stage(size, broker=broker) as pick:
        seen = pick.seen()
        assert "[ ] [red]x[/]:latest" in seen
        assert "> [ ] [red]x[/]:latest" in seen
        assert "$primary:1b" in seen
        assert "Enter takes [red]x[/]:latest" in seen
        assert "esc\\x1b[2J newline:1b" in seen
        assert "\x1b" not in seen
        assert "Q4_K_M " in seen
        ends = {len(each.split("on disk")[0].encode("utf-32")) for each in pick.lines()[2:4]}
        assert len(ends) == 1
        await pick.press("space", "down", "space", "enter")
        assert pick.app.return_value == NASTY[:2]


async def test_without_colour_cursor_and_marks_are_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with stage((80, 24)) as pick:
        await pick.press("space", "down")
        assert pick.lines()[2].startswith("  [x] gemma3:4b")
        assert pick.lines()[3].startswith("> [ ] llama3.1:8b")
        background = pick.table.styles.background
        strips = pick.app.screen._compositor.render_strips()
        painted = [each.apply_filter(pick.app._filters[-1], background) for each in strips]
        styles = [segment.style for strip in painted for segment in strip if segment.style]
        colours = {each.name for style in styles for each in (style.color, style.bgcolor) if each}
        assert colours == {"default"}
        [cursor] = [strip for strip in painted if strip.text.startswith("> [ ]")]
        texts = [segment for segment in cursor if segment.text.strip()]
        assert all(segment.style and segment.style.reverse for segment in texts)


async def test_before_the_broker_answers_it_says_so() -> None:
    broker = FakeCatalogue([])
    broker.is_silent = True
    app = Picker(lambda: broker, asked=PickFilter())
    async with app.run_test(size=(80, 24)) as pilot:
        pick = Stage(app, pilot, broker)
        await pick.until("waiting for the broker", "nothing to take")
        await pick.broker.news.put(broker.list_for(PickFilter()))
        await pick.until("no model is downloaded; a shows those that could be")


async def test_the_page_shows_the_picker_as_it_is() -> None:
    page = picked.PAGE.read_text()
    assert page == picked.renewed(page, await picked.drawn()), "run `python -m docs.picked`"
    assert "> [ ] llama3.1:8b" in page
