"""What the documents point at exists: files, headings, commands and their options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.documented_command import commands, complaint
from tests.tidy.sources import ROOT, project_files

LINK = re.compile(r"(?<!\!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def documents() -> list[Path]:
    """Markdown of the project. The recordings' own page describes what was recorded, elsewhere."""
    data = ROOT / "tests" / "data"
    return [p for p in project_files() if p.suffix == ".md" and not p.is_relative_to(data)]


def anchors(markdown: str) -> set[str]:
    """Headings as the common renderers name them."""
    titles = HEADING.findall(re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(document: Path, markdown: str) -> Iterator[str]:
    """Links of one document to a file or a heading that is not there."""
    for match in LINK.finditer(CODE.sub("", markdown)):
        link = match[1] or match[2]
        if ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / name[1:] if name.startswith("/") else document.parent / name).resolve()
        if not name:
            target = document
        if not target.exists():
            yield f"{document.name}: {link} is no file"
        elif anchor and target.suffix == ".md":
            text = markdown if target == document else target.read_text()
            if anchor not in anchors(text):
                yield f"{document.name}: {link} is no heading"


def test_links_lead_somewhere() -> None:
    found = [each for path in documents() for each in dead_links(path, path.read_text())]
    assert not found, "\n".join(found)


def test_commands_are_those_that_the_programs_know() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in documents()
        for command in commands(path.read_text())
        if (problem := complaint(command))
    ]
    assert not found, "\n".join(found)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Who is next?\n")
    page.write_text("[a](other.md#who-is-next) [b](https://x.y/z) `[c](code.md)`\n")
    assert list(dead_links(page, page.read_text())) == []
    page.write_text("[a](absent.md)\n[b](other.md#nobody)\n![c](no.png)\n[d](#self)\n")
    assert list(dead_links(page, page.read_text())) == [
        "page.md: absent.md is no file",
        "page.md: other.md#nobody is no heading",
        "page.md: no.png is no file",
        "page.md: #self is no heading",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "make",
        "make -j4 test",
        "make run ARGS=--once",
        "$ brokerd --config broker.toml",
        ".venv/bin/brokerctl status --json | jq .",
        "brokerctl config check broker.toml  # says what is wrong",
        "OLLAMA_HOST=127.0.0.1:1 ollama-sim --port 0 &",
        "python -m bench path --quick --json out.json",
        "python -m bench all && echo done",
        "makeshift words of output",
        "it's no shell that reads this",
    ],
)
def test_a_command_that_works_passes(line: str) -> None:
    assert [complaint(each) for each in commands(f"```\n{line}\n```\n")] in ([], [""])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("make tests", "make has no target tests"),
        ("brokerd --konfig f", "brokerd has no option --konfig"),
        ("brokerctl conf check", "brokerctl has no command conf"),
        ("brokerctl config chek", "brokerctl config has no command chek"),
        ("brokerctl status --yaml", "brokerctl status has no option --yaml"),
        ("ollama-sim --speeed 2", "ollama-sim has no option --speeed"),
        ("python -m bench paths", "bench has no benchmark paths"),
        ("python3 -m bench path --fast", "bench has no option --fast"),
    ],
)
def test_a_command_that_does_not_work_is_found(line: str, problem: str) -> None:
    (command,) = commands(f"Text.\n\n```sh\n{line}\n```\n")
    assert complaint(command) == problem
