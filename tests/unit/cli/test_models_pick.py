"""The picker of models, led by its keys: choosing, filters, search."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from broker_client import CallsFull, DiskFull, Model, Pull
from broker_client.errors import ErrorDetails
from brokerctl.models_pick_filter import PickFilter
from brokerctl.models_pick_list import PickList
from tests.unit.cli.picked_models import FakeCatalogue, shelf
from tests.unit.cli.picker_stage import ALL, NAMES, stage


async def test_the_details_are_of_the_model_under_the_cursor_and_fold_away() -> None:
    async with stage((80, 24)) as pick:
        await pick.press("down")
        assert "llama3.1:8b: ✓ Downloaded (4.9 GB), 8.0B, Q4_K_M, llama3.1" in pick.seen()
        assert "memory 6.0 GB at 8k, ~9.0 GB at 32k (~ estimated); fits" in pick.seen()
        assert "gpu-1: resident, 1 of 2 slots in use, 6.0 GB" in pick.seen()
        assert "also called fast" in pick.seen()
        await pick.press("i")
        assert "also called fast" not in pick.seen()
        await pick.pilot.resize_terminal(80, 20)
        await pick.press("i")  # there is no room for both: a page
        await pick.until("also called fast")
        await pick.press("escape")
        assert len(pick.app.screen_stack) == 1


async def test_enter_takes_what_is_under_the_cursor_where_nothing_is_marked() -> None:
    async with stage() as pick:
        await pick.press("down", "down")
        await pick.until("Enter takes llama3.1:70b")
        await pick.press("enter")
        assert pick.app.return_value == ["llama3.1:70b"]


async def test_several_are_marked_and_taken_in_that_order() -> None:
    async with stage() as pick:
        await pick.press("end", "space", "home", "space", "down", "space", "space")
        assert [each[:5] for each in pick.lines() if "[x]" in each] == ["  [x]", "  [x]"]
        await pick.until("Enter takes 2 marked: tinyllama:latest, gemma3:4b")
        await pick.press("enter")
        assert pick.app.return_value == ["tinyllama:latest", "gemma3:4b"]


async def test_marks_outlive_filters_and_are_taken_away_at_once() -> None:
    async with stage() as pick:
        await pick.press("space", "t")
        await pick.until_asked(replace(ALL, capabilities=frozenset({"tools"})))
        assert "gemma3:4b" not in pick.names()
        await pick.until("Enter takes 1 marked: gemma3:4b")
        assert pick.broker.asked_for == []  # it is filtered out, and the broker said no more
        await pick.press("u")
        await pick.until("Enter takes llama3.1:8b")


async def test_one_is_chosen_without_marks() -> None:
    async with stage(is_multiple=False, selected=["qwen3:8b"]) as pick:
        await pick.until("> qwen3:8b", "Enter takes qwen3:8b")
        assert "[ ]" not in pick.seen()
        assert "Space" not in pick.seen()
        await pick.press("space", "enter")
        assert pick.app.return_value == ["qwen3:8b"]


async def test_what_is_named_is_marked_from_the_beginning() -> None:
    wanted = ["tinyllama", "llama3.1:70b", "nobody"]
    async with stage(asked=PickFilter(), selected=wanted) as pick:
        await pick.until("Enter takes 2 marked: tinyllama:latest, llama3.1:70b")
        await pick.until("there is no model nobody")
        [row] = [each for each in pick.lines() if "[x]" in each]
        assert "tinyllama:latest" in row


@pytest.mark.parametrize(
    ("keys", "asked", "names"),
    [
        ("t", replace(ALL, capabilities=frozenset({"tools"})), [1, 2, 4]),
        ("h", replace(ALL, capabilities=frozenset({"thinking"})), [4]),
        ("v", replace(ALL, capabilities=frozenset({"vision"})), [0]),
        ("e", replace(ALL, capabilities=frozenset({"embedding"})), [3]),
        ("th", replace(ALL, capabilities=frozenset({"tools", "thinking"})), [4]),
        ("tt", ALL, [0, 1, 2, 3, 4, 5]),
        ("f", replace(ALL, fits=True), [1]),
        ("m", replace(ALL, resident=True), [1]),
        ("c", replace(ALL, context_min=8192), [0, 1, 2, 4]),
        ("ccc", replace(ALL, context_min=131_072), [0, 1, 2]),
        ("cccc", ALL, [0, 1, 2, 3, 4, 5]),
        ("a", PickFilter(), [0, 1, 3, 4, 5]),
        ("aa", PickFilter(availability="downloadable"), [2]),
        ("ss", replace(ALL, order="use"), [0, 1, 2, 3, 4, 5]),
        ("aafmtx", ALL, [0, 1, 2, 3, 4, 5]),
    ],
)
async def test_each_filter(keys: str, asked: PickFilter, names: list[int]) -> None:
    async with stage() as pick:
        await pick.press(*keys)
        # At once of what is known; then what the broker says of it.
        assert set(pick.names()) <= {NAMES[i] for i in names}
        await pick.until_asked(asked)
        assert pick.names() == [NAMES[i] for i in names]


async def test_a_search_is_typed_kept_and_ended() -> None:
    async with stage() as pick:
        await pick.press("slash", *"LLAMA 8", "down")
        assert pick.names() == ["llama3.1:8b"]
        await pick.until_asked(replace(ALL, search="LLAMA 8"))
        await pick.press("enter", "t")
        await pick.until('with tools, "LLAMA 8"; by name - 1 model')
        await pick.press("escape")
        await pick.until_asked(replace(ALL, capabilities=frozenset({"tools"})))
        assert len(pick.names()) == 3
        await pick.press("escape")
    assert pick.app.return_code == 1


async def test_while_a_search_is_typed_the_arrows_move() -> None:
    async with stage() as pick:
        await pick.press("slash", *"llama", "down", "down")
        assert pick.selected == "tinyllama:latest"
        await pick.press("pageup", "enter", "enter")
        assert pick.app.return_value == ["llama3.1:8b"]


async def test_an_empty_list_says_why_and_what_ends_that() -> None:
    async with stage((60, 20)) as pick:
        pick.broker.is_silent = True
        await pick.press("m", "h")
        await pick.until("waiting for the broker", "so far")
        pick.broker.is_silent = False
        await pick.press("x", "h", "f")
        await pick.until("no model is known to fit; f ends that filter")
        await pick.press("f", "v")
        await pick.until("no model is so; a shows others, x ends every filter")


async def test_a_search_without_a_match_says_what_to_do() -> None:
    async with stage((60, 20)) as pick:
        await pick.press("slash", *"zzz", "enter")
        await pick.until("no model is so", "Escape ends", "nothing to take")
        await pick.press("enter")
        await pick.until("there is nothing to take")
        assert pick.app.is_running


def pulling(completed: int, total: int, state: str = "pulling") -> Pull:
    return Pull(
        name="llama3.1:70b",
        backend="gpu-1",
        state=state,
        detail="",
        completed_bytes=completed,
        total_bytes=total,
        bytes_per_s=1e6,
        eta_s=None,
        listeners=1,
    )


async def test_a_model_is_downloaded_once_that_is_confirmed() -> None:
    async with stage() as pick:
        await pick.press("p")
        await pick.until("gemma3:4b is downloaded already")
        await pick.press("down", "down", "p")
        await pick.until("download llama3.1:70b (42.5 GB)?")
        await pick.press("n", "p", "y")
        await pick.until("asked for")
        await pick.broker.pulls.put(pulling(0, 0, "waiting"))
        await pick.until("waiting")
        await pick.broker.pulls.put(pulling(429, 1000))
        await pick.until("pulling 42 %")
        assert pick.broker.pulled == ["llama3.1:70b"]
        await pick.press("p")
        await pick.until("llama3.1:70b is under way")
        await pick.broker.pulls.put(None)
        await pick.until("llama3.1:70b is downloaded")
        assert "pulling" not in "\n".join(pick.lines())


async def test_what_the_broker_says_to_a_download_is_told() -> None:
    async with stage() as pick:
        await pick.press("down", "down", "p", "y")
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        await pick.broker.pulls.put(DiskFull(ErrorDetails(code=code, message="no disk for it")))
        await pick.until("llama3.1:70b: no disk for it")
        assert "downloadable" in pick.lines()[4]
        # Left while one is under way, it ends all the same.
        await pick.press("p", "y", "q")
    assert pick.broker.pulled == ["llama3.1:70b"] * 2


async def test_a_click_moves_and_on_a_mark_marks() -> None:
    async with stage() as pick:
        await pick.pilot.click(PickList, offset=(20, 3))
        assert pick.selected == "nomic-embed-text:latest"
        assert "[x]" not in pick.seen()
        await pick.pilot.click(PickList, offset=(3, 4))
        await pick.until("Enter takes 1 marked: qwen3:8b")
        await pick.pilot.click(PickList, offset=(3, 15))
        assert pick.selected == "qwen3:8b"


async def test_where_one_is_chosen_a_second_click_takes_it() -> None:
    async with stage(is_multiple=False) as pick:
        await pick.pilot.click(PickList, offset=(1, 3))
        assert pick.selected == "nomic-embed-text:latest"
        await pick.pilot.click(PickList, offset=(20, 3))
        assert pick.app.return_value == ["nomic-embed-text:latest"]


@pytest.mark.parametrize("size", [(20, 5), (5, 2), (1, 1)])
async def test_a_terminal_that_is_too_small_breaks_nothing(size: tuple[int, int]) -> None:
    async with stage(size) as pick:
        await pick.press("down", "space", "slash", *"q", "pagedown", "escape", "i", "escape")
        await pick.pilot.resize_terminal(80, 24)
        await pick.until("Enter takes 1 marked: llama3.1:8b")


async def test_what_the_broker_says_of_a_mark_is_told_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = FakeCatalogue(shelf())
    whole = broker.model

    async def refused(name: str) -> Model:
        raise CallsFull(ErrorDetails(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="busy"))

    monkeypatch.setattr(broker, "model", refused)
    async with stage(broker=broker, asked=PickFilter(), selected=["llama3.1:70b"]) as pick:
        await pick.until("busy; let some calls of this agent")
        monkeypatch.setattr(broker, "model", whole)
        await pick.change(shelf())
        await pick.until("Enter takes 1 marked: llama3.1:70b")


async def test_the_keys_are_explained() -> None:
    async with stage((60, 20)) as pick:
        await pick.press("question_mark")
        await pick.until("Space  marks it")
        await pick.press("q")
        assert len(pick.app.screen_stack) == 1


@pytest.mark.parametrize(("key", "status"), [("q", 1), ("escape", 1), ("ctrl+c", 130)])
async def test_it_is_left_without_a_choice(key: str, status: int) -> None:
    async with stage() as pick:
        await pick.press("space", key)
    assert (pick.app.return_value, pick.app.return_code) == (None, status)
