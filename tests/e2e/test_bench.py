"""The benchmarks run, in their small size, and say what they promise to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METRICS = {
    "path": {
        "generate_cpu_vs_bare",
        "token_cpu_vs_bare",
        "added_p50_vs_bare",
        "idle_cpu_percent",
        "idle_rss_mb",
    },
    "fleet": {"fleet_loads_vs_direct"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_benchmark_writes_its_metrics_and_where_it_ran(name: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, "-m", "bench", name, "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(file.read_text())
    assert set(result) == {"name", "commit", "machine", "seed", "figures", "bounds"}
    assert result["name"] == name
    assert METRICS[name] == set(result["bounds"])
    assert METRICS[name] <= set(result["figures"])
    for metric in METRICS[name]:
        assert metric in ran.stdout
