"""How a download is shown, and what whoever leaves it, or deletes a model, is told and asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import StringIO

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from broker_client import Client, Deletion, Pull
from brokerctl import models_delete
from brokerctl.main import main
from brokerctl.models_pull import print_lines, pull_line, show_bar
from brokerctl.models_pulls import pulls_table

GB = 10**9
PULL = Pull(
    name="qwen3:4b",
    backend="gpu0",
    state="pulling",
    detail="from the registry",
    completed_bytes=GB,
    total_bytes=4 * GB,
    bytes_per_s=1e8,
    eta_s=30.0,
    listeners=1,
)
WAITS = replace(
    PULL,
    state="waiting",
    detail="it waits for its turn",
    completed_bytes=0,
    total_bytes=0,
    bytes_per_s=0.0,
    eta_s=None,
)
DELETION = Deletion(backends=("gpu0",), freed_bytes=GB, freed_at_least=False, breaks=())


@pytest.mark.parametrize(
    ("pull", "line"),
    [
        (WAITS, "qwen3:4b on gpu0: waiting, it waits for its turn"),
        (PULL, "qwen3:4b on gpu0: pulling, 1.0 GB of 4.0 GB (25 %), 100.0 MB/s, 30.0 s left"),
        (
            replace(PULL, total_bytes=0, eta_s=None),
            "qwen3:4b on gpu0: pulling, 1.0 GB, 100.0 MB/s",
        ),
        (
            replace(PULL, state="verifying", detail="what came is checked"),
            "qwen3:4b on gpu0: verifying, 1.0 GB of 4.0 GB (25 %), what came is checked",
        ),
        (
            replace(WAITS, detail="two\nlines \x1b[31m"),
            "qwen3:4b on gpu0: waiting, two lines \\x1b[31m",
        ),
    ],
)
def test_a_download_in_a_line(pull: Pull, line: str) -> None:
    assert pull_line(pull) == line


def test_without_a_terminal_a_line_is_printed_where_it_is_worth_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = [WAITS, WAITS, *(replace(PULL, completed_bytes=n * GB // 100) for n in range(400))]
    print_lines(iter(told))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 20
    assert lines[0].endswith("it waits for its turn")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_stays_on_its_line(width: int) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    show_bar(console, iter([WAITS, PULL, replace(PULL, completed_bytes=4 * GB, state="done")]))
    lines = [part for each in screen.getvalue().split("\n") for part in each.split("\r")]
    shown = [each for each in lines if "qwen3:4b" in each]
    assert shown
    assert "30.0 s left" in screen.getvalue() or "done" in shown[-1]
    assert all(cell_len(each.replace("\x1b[2K", "")) <= width for each in shown)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_downloads_in_a_table_fit(width: int) -> None:
    console = Console(file=StringIO(), width=width, record=True)
    console.print(pulls_table([PULL, WAITS, replace(WAITS, state="failed", detail="x " * 90)]))
    lines = console.export_text().splitlines()
    assert all(cell_len(each) <= width for each in lines)
    assert any("pulling" in each for each in lines)


def test_who_leaves_is_told_that_it_goes_on_and_how_to_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pull(client: Client, name: str, **_: object) -> Iterator[Pull]:
        yield PULL
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "pull", pull)
    result = CliRunner().invoke(main, ["models", "pull", "qwen3:4b"])
    assert result.exit_code == 130
    assert "goes on" in result.stderr
    assert "`brokerctl models pulls --cancel qwen3:4b` ends it" in result.stderr


@pytest.mark.parametrize(("answer", "is_deleted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_delete_is_asked_for_where_somebody_sits(
    monkeypatch: pytest.MonkeyPatch, answer: str, is_deleted: bool
) -> None:
    asked: list[bool] = []

    def delete(client: Client, name: str, *, dry_run: bool = False, **_: object) -> Deletion:
        asked.append(dry_run)
        return replace(DELETION, breaks=("mine:v2",))

    monkeypatch.setattr(Client, "delete_model", delete)
    monkeypatch.setattr(models_delete, "is_somebody_there", lambda: True)
    result = CliRunner().invoke(main, ["models", "delete", "m"], input=answer)
    assert asked == ([True, False] if is_deleted else [True])
    assert result.exit_code == (0 if is_deleted else 1)
    assert "frees 1.0 GB" in result.stderr
    assert "mine:v2" in result.stderr


@pytest.mark.parametrize(
    ("freed_bytes", "at_least", "words"),
    [
        (GB, False, "frees 1.0 GB"),
        (GB, True, "frees 1.0 GB or more"),
        (0, True, "frees perhaps nothing"),
        (0, False, "frees nothing: others share all its files"),
    ],
)
def test_what_is_freed_in_words(freed_bytes: int, at_least: bool, words: str) -> None:
    deletion = replace(DELETION, freed_bytes=freed_bytes, freed_at_least=at_least)
    assert models_delete.lines_of("m", deletion, "is deleted")[0].endswith(words)
