"""What a machine lacks is said in one line, with the command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PREFLIGHT = Path(__file__).resolve().parents[2] / "packaging" / "preflight.sh"
REMEDY = "install with: sudo apt-get install -y python3.11-venv python3.11-dev gcc make"
PYTHON = os.path.realpath(sys.executable)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with a shell, a Python that has everything, and tools that need only be there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shell = shutil.which("sh")
    assert shell is not None
    (folder / "sh").symlink_to(shell)
    has(folder, "python3.11", f'exec "{PYTHON}" "$@"')
    for tool in ("gcc", "make"):
        has(folder, tool, "exit 0")
    return folder


def has(machine: Path, name: str, script: str) -> None:
    """Gives the machine a command. `script` is what a shell does for it."""
    file = machine / name
    file.write_text(f"#!{machine / 'sh'}\n{script}\n")
    file.chmod(0o755)


def preflight(machine: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(PREFLIGHT)],
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_machine_that_has_everything_names_its_python(machine: Path) -> None:
    assert preflight(machine) == (0, "python3.11\n", "")


@pytest.mark.parametrize("tool", ["gcc", "make"])
def test_a_tool_that_is_missing_is_named(machine: Path, tool: str) -> None:
    (machine / tool).unlink()
    assert preflight(machine) == (1, "", f"missing: {tool} ; {REMEDY}\n")


@pytest.mark.parametrize(("asks_for", "name"), [("ensurepip", "venv"), ("Python.h", "Python.h")])
def test_a_part_of_python_that_is_missing_is_named(machine: Path, asks_for: str, name: str) -> None:
    """Debian ships the interpreter, its venv and its headers in three packages."""
    has(
        machine,
        "python3.11",
        f'case "$2" in *{asks_for}*) exit 1 ;; esac\nexec "{PYTHON}" "$@"',
    )
    assert preflight(machine) == (1, "", f"missing: {name} ; {REMEDY}\n")


def test_a_python_that_is_too_old_is_no_python(machine: Path) -> None:
    has(machine, "python3.11", "exit 1")
    (machine / "gcc").unlink()
    assert preflight(machine) == (1, "", f"missing: python3>=3.11 venv Python.h gcc ; {REMEDY}\n")


def test_a_newer_python_will_do(machine: Path) -> None:
    (machine / "python3.11").rename(machine / "python3")
    assert preflight(machine) == (0, "python3\n", "")
