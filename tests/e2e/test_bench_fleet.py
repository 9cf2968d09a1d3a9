"""`fleet` on an Ollama that was there before: the rivals play on its own models, as it is measured.

ollama-sim stands in for it, and is asked nothing that an Ollama would not answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.fleet_play import WAYS
from tests.e2e.test_bench import ROOT
from tests.integration.ollama_sim_process import Simulator, start_simulator


@pytest.fixture
def ollama() -> Iterator[Simulator]:
    simulator = start_simulator("--speed", "5", "--num-parallel", "2", "--max-loaded", "1")
    yield simulator
    simulator.stop()


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.slow
def test_the_rivals_play_on_the_models_of_an_ollama(ollama: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    url = f"http://127.0.0.1:{ollama.port}"
    ran = bench("fleet", "--quick", "--ollama", url, "--json", str(file))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "tinyllama:latest as fleet-" in ran.stdout
    assert "nomic-embed-text" not in ran.stdout  # it generates nothing
    result = json.loads(file.read_text())
    figures = result["figures"]
    played = {name for name in WAYS if f"share_in_time_{name}" in figures}
    assert played == set(WAYS) - {"fifo"}  # nobody sees whom a real load is for
    assert all(0 <= figures[f"share_in_time_{name}"] <= 1 for name in played)
    assert figures["loads_broker"] >= 1
    assert {"fleet_order_agrees", "fleet_loads_vs_direct"} <= {*figures, *result["not_measured"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("fleet", "--ollama", "127.0.0.1:1"), "http://127.0.0.1:1 does not serve as an Ollama"),
        (("micro", "--ollama", "127.0.0.1:1"), "--ollama is for fleet"),
    ],
)
def test_where_it_cannot_be_played_the_reason_is_said(
    arguments: tuple[str, ...], problem: str
) -> None:
    ran = bench(*arguments, "--quick")
    assert ran.returncode == 2
    assert problem in ran.stderr
    assert "Traceback" not in ran.stderr
