"""Use and trees of models as people read them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from broker_client import ModelNode, ModelTree, ModelUsage, UsageReport
from brokerctl.models_tree import freed_text, node_text, trees
from brokerctl.models_usage import BAR_WIDTH, bar_text, head_lines, hour_text, usage_table


def shown(what: RenderableType, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(what)
    return out.getvalue().splitlines()


def used(**other: Any) -> ModelUsage:
    fields: dict[str, Any] = {
        "model": "llama3.1:8b-instruct-q4_K_M",
        "agent_id": "sonnet-research-assistant-17",
        "hour_unix_s": 0.0,
        "hours": 0,
        "requests": 12_000,
        "completed": 11_000,
        "outcomes": {"completed": 11_000, "failed": 1_000},
        "prompt_tokens": 98_765_432,
        "output_tokens": 12_345_678,
        "loads": 1_234,
        "busy_s": 123_456.0,
        "gpu_s": 100_000.0,
        "queue_wait_s": 54_321.0,
        "queue_wait_ms_max": 600_000.0,
    }
    return ModelUsage(**{**fields, **other})


def report(*rows: ModelUsage) -> UsageReport:
    return UsageReport(rows=rows, kept_since_unix_s=1_763_733_600.0, left_out=0)


@pytest.mark.parametrize("by", ["model", "agent", "hour"])
def test_use_fits_eighty_columns_and_says_what_it_leaves_out(by: str) -> None:
    lines = shown(usage_table(report(used(), used(requests=3)), by))
    assert max(map(len, lines)) <= 80
    assert "requests" in lines[0]
    assert "busy" in lines[0]
    assert lines[-1].startswith("(a wider terminal shows: ")


def test_with_room_everything_is_shown() -> None:
    header, first = shown(usage_table(report(used()), "all"), width=240)
    for name in ("hour", "model", "agent", "requests", "completed", "tokens out", "tokens in"):
        assert name in header
    for cell in ("12,000", "92 %", "12,345,678", "98,765,432", "1,234", "81 %", "4.5 s"):
        assert cell in first


def test_what_was_only_loaded_has_no_shares_and_waits() -> None:
    loaded = used(requests=0, completed=0, busy_s=0.0, gpu_s=0.0, agent_id="", loads=4)
    _, row = shown(usage_table(report(loaded), "agent"), width=240)
    assert "(the broker)" in row
    assert "%" not in row


@pytest.mark.parametrize(
    ("count", "most", "bar"),
    [(0, 9, ""), (9, 9, "█" * BAR_WIDTH), (1, 10**9, "▏"), (1, 2, "██████"), (7, 96, "▉")],
)
def test_a_bar_is_as_long_as_its_part(count: int, most: int, bar: str) -> None:
    assert bar_text(count, most).plain == bar


def test_a_terminal_without_blocks_gets_plain_bars() -> None:
    assert bar_text(1, 2, ascii_only=True).plain == "######"
    assert bar_text(1, 1_000, ascii_only=True).plain == "#"


def test_a_whole_day_is_told_by_its_date_at_greenwich() -> None:
    day_s = datetime(2025, 11, 20, tzinfo=UTC).timestamp()
    assert hour_text(used(hour_unix_s=day_s, hours=24)) == "2025-11-20 UTC"
    local = datetime.fromtimestamp(day_s).astimezone()
    assert hour_text(used(hour_unix_s=day_s, hours=1)) == f"{local:%Y-%m-%d %H:%M}"


def test_the_head_says_since_when_use_is_kept() -> None:
    assert head_lines(report(used()))[0].startswith("use is kept since 20")
    assert head_lines(report())[0].startswith("nothing was used in that; use is kept since 20")


def node(name: str, **other: Any) -> ModelNode:
    fields: dict[str, Any] = {
        "name": name,
        "backend": "gpu0",
        "parent": "",
        "parent_missing": False,
        "children": (),
        "twins": (),
        "adapters": 0,
        "size_bytes": 1_000_000_000,
        "freed_bytes": 1_000_000_000,
        "freed_at_least": False,
        "digest": "d",
    }
    return ModelNode(**{**fields, **other})


def test_models_hang_below_their_parents_on_each_backend() -> None:
    found = ModelTree(
        nodes=(
            node("a:1"),
            node("b:1", parent="a:1"),
            node("c:1", parent="b:1"),
            node("a:1", backend="gpu1"),
            node("b:1", backend="gpu1", parent="a:1"),
        ),
        left_out=0,
    )
    first, second = trees(found)
    names = [line.partition("  1.0 GB")[0] for line in shown(first)]
    assert names == ["on gpu0", "└── a:1", "    └── b:1", "        └── c:1"]
    assert shown(second)[0] == "on gpu1"


def test_of_a_circle_the_first_leads() -> None:
    (tree,) = trees(
        ModelTree(nodes=(node("a:1", parent="b:1"), node("b:1", parent="a:1")), left_out=0)
    )
    lines = shown(tree)
    assert lines[1].endswith("made from b:1")
    assert lines[2].startswith("    └── b:1")


@pytest.mark.parametrize(
    ("freed", "is_bound", "words"),
    [
        (0, False, "frees nothing"),
        (0, True, "may free nothing"),
        (5_000, False, "frees 5.0 KB"),
        (5_000, True, "frees 5.0 KB or more"),
    ],
)
def test_what_is_freed_is_said_as_far_as_it_is_known(
    freed: int, is_bound: bool, words: str
) -> None:
    assert freed_text(node("a:1", freed_bytes=freed, freed_at_least=is_bound)) == words


def test_many_twins_are_counted_and_odd_names_are_made_harmless() -> None:
    text = node_text(node("a\x1b[2J:1", twins=("b", "c", "d", "e\n")), is_below=False).plain
    assert "\x1b" not in text
    assert "same weights as b, c, 2 more" in text
    assert node_text(node("a", size_bytes=0, freed_bytes=0), is_below=False).plain == "a"
