"""Both distributions install into an empty environment, and what they bring works there.

The sources are copied first, as a build leaves files in the tree that it builds from. Dependencies
come from the package index, in the pinned versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT, project_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Nothing of the checkout is to be found by accident.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path, **extra: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**ENVIRONMENT, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def empty_environment(folder: Path, source: Path, **extra: str) -> Path:
    """A new environment with `source` and what it depends on; the folder of its commands."""
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    pins = ROOT / "requirements.txt"
    run(*pip, "install", "--quiet", "-c", pins, source, cwd=folder, **extra)
    return folder / "bin"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files and nothing that was built from them."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in project_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copy


def test_the_product_installs_and_its_commands_answer(checkout: Path, tmp_path: Path) -> None:
    commands = empty_environment(tmp_path / "venv", checkout)
    for name in ("brokerd", "brokerctl", "ollama-sim", "openai-sim"):
        assert f"Usage: {name}" in run(commands / name, "--help", cwd=tmp_path)
    assert "digest" in run(commands / "brokerctl", "config", "check", cwd=tmp_path)
    code = "import broker_client, _sched.heap as heap; print(heap.__file__)"
    assert run(commands / "python", "-c", code, cwd=tmp_path).rstrip().endswith(".so")


def test_the_client_installs_without_a_compiler(checkout: Path, tmp_path: Path) -> None:
    source = checkout / "clients" / "python"
    commands = empty_environment(tmp_path / "venv", source, CC="/bin/false", CXX="/bin/false")
    code = """
import importlib.util
from broker_client import AsyncClient, Client, __version__
from broker_client.pb.broker.v1 import inference_pb2_grpc
assert importlib.util.find_spec("_sched") is None
print(__version__)
"""
    assert run(commands / "python", "-W", "error", "-c", code, cwd=tmp_path).strip()
