"""The benchmarks run, in their small size, and say what they promise to say."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import fairness, soak
from bench.result import Result

ROOT = Path(__file__).resolve().parents[2]
METRICS = {
    "path": {
        "generate_cpu_vs_bare",
        "token_cpu_vs_bare",
        "added_p50_vs_bare",
        "idle_cpu_percent",
        "idle_rss_mb",
    },
    "fleet": {"fleet_order_agrees", "fleet_loads_vs_direct"},
    "fairness": {"modest_wait_vs_alone"},
    "scheduling": {
        "goodput_1x2_rho09_vs_exhaustive",
        "goodput_2x4_rho09_vs_exhaustive",
        "goodput_1x2_rho09_vs_fifo",
        "goodput_2x4_rho09_vs_fifo",
        "goodput_2x4_rho20",
        "goodput_2x4_rho20_vs_exhaustive",
        "goodput_1x2_rho09_flexible_vs_exhaustive",
        "urgent_in_deadline",
        "urgent_cost_points",
        "load_share_vs_exhaustive",
        "wait_over_bound_max",
        "eta_coverage",
        "short_sojourn_vs_exhaustive",
        "engine_request_10k_vs_rpc",
    },
    "sessions": {
        "credit_sojourn_vs_none",
        "bursts_sojourn_vs_once",
        "prefixes_known_vs_nothing",
    },
    "models": {
        "list_at_start_vs_rpc",
        "list_filter_ms",
        "cache_write_stall_ms",
        "preload_waits_saved_percent",
        "preload_wasted_percent",
    },
    "pubsub": {"level_seen_ms", "fanout_token_cost_percent"},
    "monitors": {"sampling_cpu_percent"},
    "micro": {
        "heap_hold_100k_vs_heapq",
        "heap_hold_100k_vs_cpp",
        "bucket_vs_python",
        "engine_request_vs_rpc",
        "observe_request_vs_rpc",
        "dispatch_100k_vs_1k",
        "queued_request_bytes",
    },
}
RANGED = ("within", "below", "above")


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
    assert set(result) == {
        "name",
        "commit",
        "machine",
        "seed",
        "figures",
        "bounds",
        "floors",
        "not_measured",
    }
    assert result["name"] == name
    assert METRICS[name] == {*result["bounds"], *result["floors"]}
    assert METRICS[name] <= {*result["figures"], *result["not_measured"]}
    for metric in METRICS[name]:
        assert metric in ran.stdout


@pytest.mark.slow
def test_the_modest_feel_a_flood_less_than_where_the_first_come_is_served(tmp_path: Path) -> None:
    picture = tmp_path / "fairness.svg"
    result = asyncio.run(fairness.run(quick=True))
    figures = result.figures
    assert figures["ours_flood_flood_share"] < figures["fifo_flood_flood_share"]
    ours, fifo = (figures[f"{each}_flood_modest_sojourn_p50_s"] for each in ("ours", "fifo"))
    assert ours < fifo
    result.draw(picture)
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg")
    assert len(root.findall("{*}polyline")) == len(fairness.CURVES)


@pytest.mark.slow
def test_a_small_soak_ends_well_and_tells_its_growth() -> None:
    """Its own small size is a hundred thousand requests: too long for here."""
    result = asyncio.run(soak.measure(soak.Sizes(warm_up=300, requests=600)))
    assert result.bounds == {"rss_growth_mb": 5.0}
    assert result.figures["requests"] == 600
    grown = result.figures["rss_end_mb"] - result.figures["rss_warm_mb"]
    assert result.figures["rss_growth_mb"] == grown


def test_a_metric_is_held_to_its_side_of_the_bound() -> None:
    result = Result(
        name="any",
        seed=0,
        figures={
            "cost": 2.0,
            "dear": 3.0,
            "gain": 4.0,
            "poor": 1.0,
            "within": 0.8,
            "below": 0.5,
            "above": 1.0,
            "plain": 9.0,
        },
        bounds={"cost": 2.0, "dear": 2.0, "unknown": 1.0, **dict.fromkeys(RANGED, 0.9)},
        floors={"gain": 4.0, "poor": 4.0, **dict.fromkeys(RANGED, 0.7)},
        not_measured={"unknown": "there is no compiler"},
    )
    verdicts = {line.split()[0]: line.split()[1:] for line in result.render().splitlines()}
    assert verdicts["cost"][-1] == verdicts["gain"][-1] == "reached"
    assert verdicts["dear"][-1] == verdicts["poor"][-1] == "MISSED"
    assert verdicts["within"][-1] == "reached"
    assert verdicts["below"][-1] == verdicts["above"][-1] == "MISSED"
    assert verdicts["plain"] == ["9.000"]
    assert " ".join(verdicts["unknown"]) == "NOT MEASURED: there is no compiler"
