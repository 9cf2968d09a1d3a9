"""`brokerctl config check`: all problems, or the digest and the values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.config.load import load
from brokerctl.main import main


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_HOST", "OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS"):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_good() -> None:
    result = CliRunner().invoke(main, ["config", "check"])
    assert result.exit_code == 0
    assert result.output.startswith(f"good; digest {load(None, {}).digest()}\n")
    assert "127.0.0.1:50434" in result.output


def test_a_good_file_as_json(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[limits]\nqueued_max = 7\n")
    result = CliRunner().invoke(main, ["config", "check", str(file), "--json"])
    document = json.loads(result.output)
    assert (result.exit_code, document["good"]) == (0, True)
    assert document["config"]["limits"]["queued_max"] == 7


def test_every_problem_is_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('[limits]\nqueued_max = "many"\n[server]\ngrpc_adress = "x"\n')
    result = CliRunner().invoke(main, ["config", "check", str(file)])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert all(str(file) in each for each in lines)
    assert "2 problems" in result.stderr
    as_json = CliRunner().invoke(main, ["config", "check", str(file), "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.output) == {"good": False, "problems": lines}


def test_a_file_that_is_not_there_is_a_problem_like_others(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "check", str(tmp_path / "none.toml")])
    assert result.exit_code == 1
    assert "cannot be read" in result.stdout
