"""`brokerctl simulate`: what an operator asks, as table, JSON and page; and what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from broker.sim.report import report_of
from broker.sim.simulation import Simulation
from broker.sim.workload_file import read_workload
from broker.sim.workload_sites import backends_of, models_of
from brokerctl.main import main
from brokerctl.simulate_progress import SimulationProgress
from brokerctl.simulate_tables import simulation_view
from docs import simulated
from tests.tidy.documented_command import commands
from tests.tidy.sources import ROOT

WORKLOAD = """
duration_s = 120
[[models]]
name = "llama3.2:3b"
[[models]]
name = "qwen3:8b"
[[backends]]
name = "gpu"
memory_gb = 8
slots = 2
[[agents]]
name = "chat"
loop = "open"
count = 8
every_s = 10
priority = [2, 5]
prompt_tokens = [100, 900]
output_tokens = [50, 400]
gives_up_s = 30
"""
CONFIG = """
[[backends]]
name = "one"
url = "127.0.0.1:1"
resident_max = 1
slots = 3
[[backends]]
name = "two"
url = "127.0.0.1:2"
resident_max = 2
[models."qwen3:8b"]
slots = 5
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_HOST", "OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workload(tmp_path: Path) -> str:
    return write(tmp_path, "w.toml", WORKLOAD)


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *words])


def answer(*words: str) -> list[dict[str, Any]]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.output)["simulations"]
    return found


def test_a_table_for_people(workload: str) -> None:
    result = run("--workload", workload)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "w.toml"
    assert re.match(r"\d+ requests in .* seed 1; \d+ loads", lines[1])
    labels = [line.split("  ")[0] for line in lines[3:] if line]
    for label in ("all", "priority 2", "priority 5", "llama3.2:3b", "qwen3:8b", "backend", "gpu"):
        assert label in labels


def test_the_same_files_and_seed_are_the_same_bytes(workload: str, tmp_path: Path) -> None:
    pages = [str(tmp_path / name) for name in ("a.html", "b.html")]
    first, second = (run("--workload", workload, "--json", "--html", page) for page in pages)
    assert first.output == second.output
    assert Path(pages[0]).read_bytes() == Path(pages[1]).read_bytes()
    assert run("--workload", workload, "--json", "--seed", "2").output != first.output


def test_more_memory_slots_and_servers_are_shorter_waits(workload: str) -> None:
    def waits(*words: str) -> tuple[float, int]:
        (report,) = answer("--workload", workload, *words)
        return report["all"]["wait"]["p90_s"], report["loads"]

    as_it_is, loads = waits()
    assert waits("--memory-gb", "24")[1] == 2 < loads
    assert waits("--memory-gb", "24", "--slots", "8")[0] < as_it_is
    assert waits("--backends", "2")[0] < as_it_is
    assert waits("--memory-gb", "24", "--resident-max", "1")[1] > 2


def test_backends_are_those_of_the_configuration(workload: str, tmp_path: Path) -> None:
    (report,) = answer("--workload", workload, "--config", write(tmp_path, "b.toml", CONFIG))
    assert [(each["name"], each["slots"]) for each in report["backends"]] == [
        ("one", 3),
        ("two", 1),
    ]
    assert report["name"] == "w.toml on b.toml"
    assert report["assumed"] == []


def test_two_configurations_side_by_side(workload: str, tmp_path: Path) -> None:
    words = ("--workload", workload, "--config", write(tmp_path, "b.toml", CONFIG), "--compare")
    other = write(tmp_path, "c.toml", CONFIG.replace("slots = 3", "slots = 1"))
    first, second = answer(*words, other)
    assert (first["name"], second["name"]) == ("w.toml on b.toml", "w.toml on c.toml")
    assert first["all"] != second["all"]
    output = run(*words, other).output
    assert "w.toml on b.toml  w.toml on c.toml" in output
    assert "priority 2, wait p90" in output


def test_one_more_model_side_by_side(workload: str, tmp_path: Path) -> None:
    more = write(tmp_path, "more.toml", WORKLOAD + '[[models]]\nname = "qwen2.5:7b"\n')
    first, second = answer("--workload", workload, "--compare", more)
    assert len(second["by_model"]) == len(first["by_model"]) + 1


def test_a_trace_alone_says_what_is_assumed(tmp_path: Path) -> None:
    trace = "arrival_ms,prompt_tokens,output_tokens\n0,10,20\n1000,30,40\n"
    path = write(tmp_path, "t.csv", trace)
    (report,) = answer("--workload", path)
    assert report["all"]["requests"] == 2
    assert any(each.startswith("the trace names no backend") for each in report["assumed"])
    (report,) = answer("--workload", path, "--backends", "2", "--memory-gb", "24")
    assert not any(each.startswith("the trace names no backend") for each in report["assumed"])
    (report,) = answer("--workload", path, "--requests", "1")
    assert report["all"]["requests"] == 1


def test_all_problems_and_what_to_do(tmp_path: Path) -> None:
    bad = write(tmp_path, "w.toml", WORKLOAD.replace("slots = 2", "slots = 0\nmemory = 3"))
    result = run("--workload", bad)
    assert result.exit_code == 1
    assert [each.partition("w.toml:")[2] for each in result.stdout.splitlines()] == [
        "10:1: backends[0].slots: is 0; must be at least 1",
        "11:1: backends[0].memory: is no setting; did you mean memory_gb?",
    ]
    assert result.stderr == "brokerctl: 2 problems; correct them and try again\n"
    document = json.loads(run("--workload", bad, "--json").stdout)
    assert len(document["problems"]) == 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--config", "gone.toml"), "gone.toml: cannot be read"),
        (("--compare", "gone.toml"), "gone.toml: cannot be read"),
        (("--compare", "gone.csv"), "gone.csv: cannot be read"),
        (("--html", "gone/x.html"), "gone/x.html: cannot be written"),
    ],
)
def test_files_that_are_not_there(
    workload: str, words: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    result = run("--workload", workload, words[0], str(tmp_path / words[1]))
    assert result.exit_code == 1
    assert problem in result.output


def test_the_first_requests_of_no_trace_are_asked_for(workload: str) -> None:
    result = run("--workload", workload, "--requests", "5")
    assert result.exit_code == 1
    assert "plays no trace, of which --requests takes the first" in result.stdout


def test_a_server_of_another_dialect_is_not_simulated(workload: str, tmp_path: Path) -> None:
    config = CONFIG.replace('name = "two"', 'name = "two"\nkind = "openai"')
    result = run("--workload", workload, "--config", write(tmp_path, "b.toml", config))
    assert result.exit_code == 1
    assert "backends[1].kind: is 'openai', which is not simulated" in result.output


class Page(HTMLParser):
    """What a page is made of; open tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.stack: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_is_one_file_that_fetches_and_runs_nothing(workload: str, tmp_path: Path) -> None:
    evil = write(tmp_path, "<script>.toml", WORKLOAD)
    page = tmp_path / "page.html"
    result = run("--workload", workload, "--compare", evil, "--html", str(page))
    assert result.exit_code == 0
    assert str(page) in result.output.replace("\n", "")
    text = page.read_text()
    seen = Page(text)
    assert seen.stack == []
    assert {"svg", "rect", "polyline", "table", "title"} <= seen.tags
    assert not seen.tags & {"script", "link", "img", "iframe", "image", "use", "foreignobject"}
    assert not seen.attributes & {"src", "href", "xlink:href", "onload", "srcset"}
    assert "//" not in text
    assert set(re.findall(r"url\([^)]*\)", text)) == {"url(#hatch)"}
    assert "prefers-color-scheme:dark" in text
    assert "&lt;script&gt;.toml" in text


def test_tables_fit_eighty_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "w.toml", WORKLOAD)
    spec = read_workload(Path(path))
    models = models_of(spec.spec.models)
    played = Simulation(spec, backends_of(spec.spec.backends, models)).play()
    screen = Console(file=StringIO(), width=80)
    screen.print(simulation_view([report_of(played, "w.toml")] * 2))
    assert isinstance(screen.file, StringIO)
    lines = screen.file.getvalue().splitlines()
    assert max(len(each) for each in lines) <= 80
    assert any("wait p50" in each and "p99" in each for each in lines)


def progress_on(console: Console, *, takes_long: bool) -> str:
    with SimulationProgress("w.toml", console) as progress:
        if takes_long:
            progress.show()
        progress.hear(700, 1000)
    progress.show()  # its time came when it was over
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_progress_is_shown_where_somebody_waits() -> None:
    def console(*, is_terminal: bool) -> Console:
        return Console(file=StringIO(), force_terminal=is_terminal, width=80)

    assert progress_on(console(is_terminal=True), takes_long=False) == ""
    assert progress_on(console(is_terminal=False), takes_long=True) == ""
    shown = progress_on(console(is_terminal=True), takes_long=True)
    assert "w.toml" in shown
    assert "700 of 1000 requests" in shown


def test_the_page_is_renewed_command_by_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without output a command stays as it is; what is cut stays cut."""

    def run_one(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        said = f"{' '.join(words[4:])}\nfirst\n\nsecond\n"
        return subprocess.CompletedProcess(words, 0, stdout=said)

    monkeypatch.setattr(subprocess, "run", run_one)
    page = (
        "```\n$ brokerctl simulate --a 1\nold\n\nolder\n```\n\n"
        "```\n$ brokerctl simulate --b\n```\n\n"
        "```\n$ brokerctl simulate --c\nold\n...\n```\n"
    )
    assert simulated.renewed(page) == (
        "```\n$ brokerctl simulate --a 1\n--a 1\nfirst\n\nsecond\n```\n\n"
        "```\n$ brokerctl simulate --b\n```\n\n"
        "```\n$ brokerctl simulate --c\n--c\nfirst\n...\n```\n"
    )


def documented() -> list[tuple[str, ...]]:
    page = (ROOT / "docs" / "simulate.md").read_text()
    return [each.words for each in commands(page) if each.words[:1] == ("simulate",)]


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runs; of the tables that are shown the rows are there, whatever the figures."""
    (tmp_path / "packaging").symlink_to(ROOT / "packaging")
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    monkeypatch.chdir(tmp_path)
    Path("broker.log").write_text(
        json.dumps(
            {
                "event": "request ended",
                "agent": "opus-1",
                "model": "qwen3:8b",
                "timestamp": "2026-01-01T00:00:00Z",
                "outcome": "completed",
                "prompt_tokens": 10,
                "output_tokens": 20,
                "priority": 3,
            }
        )
    )
    found = documented()
    assert len(found) >= 4
    said = ""
    for words in found:
        result = CliRunner().invoke(main, list(words))
        assert result.exit_code == 0, result.output
        said += result.output
    page = (ROOT / "docs" / "simulate.md").read_text()
    rows = re.findall(r"^((?:priority|agents) \S+|all|gpu\S*)  +\d", page, re.MULTILINE)
    assert len(rows) > 5
    for row in rows:
        assert re.search(rf"^{re.escape(row)}  ", said, re.MULTILINE), row


def test_one_more_model_is_played_beside_the_workload_without_it(workload: str) -> None:
    without, more = answer("--workload", workload, "--add-model", "qwen2.5:7b")
    assert more["name"] == f"{without['name']} and qwen2.5:7b"
    assert "qwen2.5:7b" in {each["name"] for each in more["by_model"]}
    assert "qwen2.5:7b asked for, too" in more["assumed"]
    assert without == answer("--workload", workload)[0]
    described = "big:70b,size_gb=40,load_s=20,prefill_tokens_per_s=300,decode_tokens_per_s=9"
    _, more = answer("--workload", workload, "--add-model", f"{described},popularity=0.1")
    too_large = "big:70b takes 48 GB and gpu has 8 GB: part of it runs on the CPU, slowly"
    assert too_large in more["assumed"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("big:70b", "--add-model: big:70b: size_gb, load_s, prefill_tokens_per_s, decode_tokens_"),
        ("big:70b,size_gb=x", "--add-model: big:70b.size_gb: is 'x'; must be a number"),
        ("big:70b,sizegb=1", "--add-model: big:70b.sizegb: is no setting; did you mean size_gb?"),
        ("big:70b,size_gb", "--add-model: big:70b: 'size_gb' must be a setting, as size_gb=20"),
        ("qwen3:8b", "--add-model: qwen3:8b: qwen3:8b is there twice"),
    ],
)
def test_a_model_that_cannot_be_added(workload: str, words: str, problem: str) -> None:
    result = run("--workload", workload, "--add-model", words)
    assert result.exit_code == 1
    assert problem in result.output


def test_a_model_that_nobody_would_ask_for_is_not_added(tmp_path: Path) -> None:
    named = WORKLOAD + 'models = ["qwen3:8b"]\n'
    result = run("--workload", write(tmp_path, "n.toml", named), "--add-model", "qwen2.5:7b")
    assert result.exit_code == 1
    assert "nobody would ask for it: all that ask name their models" in result.output
