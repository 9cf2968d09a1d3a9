"""The daemon reads its file again: what it runs with then, and what it reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.schema import Config
from broker.daemon.main import Daemon
from broker.services.operations import ReloadReport


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


@pytest.fixture
def daemon(file: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    for name in ("OLLAMA_HOST", "OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS"):
        monkeypatch.delenv(name, raising=False)
    file.write_text("[server]\ndrain_timeout_s = 7\n")
    return Daemon(load(file, {}), file)


def test_without_a_file_there_is_nothing_to_reload() -> None:
    report = Daemon(Config(), None).reload()
    assert (report.changed, report.needs_restart) == ((), ())
    (problem,) = report.problems
    assert problem.endswith("there is nothing to reload")


def test_a_good_file_holds(file: Path, daemon: Daemon) -> None:
    file.write_text("[server]\ndrain_timeout_s = 8\nlog_level = 'debug'\n")
    log_level = 'server.log_level: "info" -> "debug"'
    changed = "server.drain_timeout_s: 7 -> 8"
    assert daemon.reload() == ReloadReport(
        changed=(changed,), needs_restart=(log_level,), problems=()
    )
    assert daemon.reload() == ReloadReport(changed=(), needs_restart=(log_level,), problems=())
    assert daemon.ask_drain() == 8_000


def test_a_bad_file_changes_nothing(file: Path, daemon: Daemon) -> None:
    file.write_text("[server]\ndrain_timeout_s = 8\n[limits]\nqueued_max = 0\n")
    assert daemon.reload() == ReloadReport(
        changed=(),
        needs_restart=(),
        problems=(f"{file}: limits.queued_max: is 0; must be at least 1",),
    )
    assert daemon.ask_drain() == 7_000


def test_what_was_granted_to_work_under_way_stays(file: Path, daemon: Daemon) -> None:
    daemon.ask_drain(60_000)
    file.write_text("[server]\ndrain_timeout_s = 8\n")
    daemon.reload()
    assert daemon.ask_drain() == 60_000
