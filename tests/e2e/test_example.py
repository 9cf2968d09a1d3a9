"""The ten-line example works as pasted, and is the one in both READMEs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.demonstration import PATIENCE_S, ROOT, demonstration, environment

CLIENT = ROOT / "clients" / "python"
EXAMPLE = CLIENT / "examples" / "ten_lines.py"


def code_of(file: Path) -> str:
    """The example without its docstring, which the README's text stands for."""
    _, _, code = file.read_text().partition('"""\n\n')
    return code


@pytest.mark.parametrize("folder", [ROOT, CLIENT], ids=["the broker's", "the client's"])
def test_the_readme_shows_the_example(folder: Path) -> None:
    block = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert block == code_of(EXAMPLE)


def test_it_is_ten_lines() -> None:
    lines = [line for line in code_of(EXAMPLE).splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.slow
def test_the_example_streams_an_answer() -> None:
    with demonstration("--requests", "1") as demo:
        address = demo.read_until(r"status --watch --address (\S+)").group(1)
        run = subprocess.run(
            [sys.executable, str(EXAMPLE)],
            env={**environment(demo.mark), "BROKER_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert len(run.stdout.split()) > 3
