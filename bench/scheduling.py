"""Which model next, and whose request: the broker against its rivals, on the same requests.

In virtual time, on the very engine of the daemon and the very model behind `ollama-sim`. The first
3,000 requests of a trace (`--trace FILE`, else that of `bench/data`), five models with loads of 12,
8, 20, 6 and 15 s asked for as 5:3:2:2:1; an agent gives up when not started 60 s after it came.
`scheduling_cells.py` says what is drawn and what the broker is told, `scheduling_play.py` on what
it runs. Nobody is limited in rate, and no level rises: only order and models are compared.

Each figure is the median of five seeds; what compares two rivals, of five ratios of one seed each.

The rivals: *fifo* is Ollama with nothing in front, to whose favour agents see that a load is for
them and stay (`fifo_blind`: as real clients do, who end that load); *patience* and *exhaustive* are
the engine with another rule; *collation* is llama-swap's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import scheduling_bounds
from bench.bars import bars
from bench.result import Result
from bench.scheduling_cells import CELLS, REQUESTS, TRACE, draws, rows_of, tasks_of
from bench.scheduling_figures import (
    eta_coverage,
    eta_width,
    goodput,
    loads_over_bound,
    median_ratio,
    percentile,
    short_sojourn_ns,
    urgent,
    urgent_cost_points,
)
from bench.scheduling_play import (
    Play,
    Played,
    play_broker,
    play_collation,
    play_exhaustive,
    play_fifo,
    play_fifo_blind,
    play_patience,
)
from bench.scheduling_profile import KINDS
from bench.scheduling_turns import request_vs_rpc

SEEDS = (1, 2, 3, 4, 5)
RIVALS: Mapping[str, Play] = {
    "broker": play_broker,
    "exhaustive": play_exhaustive,
    "collation": play_collation,
    "patience": play_patience,
    "fifo": play_fifo,
    "fifo_blind": play_fifo_blind,
}
# Where not all of them play: a rival that knows no fallback, or no priority, does there as in the
# plain cell.
WHO = {
    "1x2_rho09_flexible": ("broker", "exhaustive"),
    "2x4_rho09_urgent": ("broker", "exhaustive"),
    "2x4_rho09_ahead": ("broker", "exhaustive"),
}
FLOORS = {
    "goodput_1x2_rho09_vs_exhaustive": 1.0,
    "goodput_2x4_rho09_vs_exhaustive": 1.0,
    "goodput_1x2_rho09_vs_fifo": 1.9,
    "goodput_2x4_rho09_vs_fifo": 1.3,
    "goodput_2x4_rho20": 0.55,
    "goodput_2x4_rho20_vs_exhaustive": 1.1,
    "goodput_1x2_rho09_flexible_vs_exhaustive": 1.2,
    "urgent_in_deadline": 0.9,
    "eta_coverage": 0.75,
}
BOUNDS = {
    "urgent_cost_points": 5.0,
    "load_share_vs_exhaustive": 1.05,
    "wait_over_bound_max": 1.0,
    "eta_coverage": 0.9,
    "short_sojourn_vs_exhaustive": 0.8,
    "engine_request_10k_vs_rpc": 0.2,
}
ETA_MEANT = 0.8  # the share of starts that an interval is meant to contain

Runs = Mapping[tuple[str, str], Sequence[Played]]  # (cell, rival) -> one for each seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is played."""

    seeds: tuple[int, ...] = SEEDS
    requests: int = REQUESTS
    queued: int = 10_000  # in the engine whose turns are timed
    turns: int = 6_000
    calls: int = 6_000
    rounds: int = 5


QUICK = Sizes(seeds=(1,), requests=250, queued=1_000, turns=300, calls=200, rounds=1)


async def run(*, quick: bool, trace: Path = TRACE) -> Result:
    """About eight minutes; some seconds if quick, which proves nothing."""
    sizes = QUICK if quick else Sizes()
    runs = play_all(sizes, trace)
    bound_seeds = sizes.seeds[:1] if quick else sizes.seeds
    bounds, bounds_table = scheduling_bounds.run(bound_seeds, rows_of(trace, sizes.requests))
    turns = await request_vs_rpc(
        queued=sizes.queued, requests=sizes.turns, calls=sizes.calls, rounds=sizes.rounds
    )
    figures = {**_required(runs), **bounds, **turns, **_others(runs)}
    return Result(
        name="scheduling",
        seed=sizes.seeds[0],
        figures=figures,
        picture=picture(figures),
        bounds=BOUNDS,
        floors=FLOORS,
        table=f"{table(runs)}\n\n{bounds_table}",
    )


def play_all(sizes: Sizes, trace: Path) -> dict[tuple[str, str], list[Played]]:
    """Plays every cell to everybody."""
    rows = rows_of(trace, sizes.requests)
    runs: dict[tuple[str, str], list[Played]] = {}
    for seed in sizes.seeds:
        drawn = draws(seed, len(rows))
        for cell in CELLS.values():
            tasks = tasks_of(cell, rows, drawn)
            for name in WHO.get(cell.name, RIVALS):
                runs.setdefault((cell.name, name), []).append(RIVALS[name](cell, tasks))
    return runs


def _required(runs: Runs) -> dict[str, float]:
    """The figures of the simulation that have a bound."""

    def goodputs(cell: str, rival: str) -> list[float]:
        return [goodput(one.ended) for one in runs[cell, rival]]

    def against(cell: str, rival: str, *, other_cell: str = "") -> float:
        return median_ratio(goodputs(cell, "broker"), goodputs(other_cell or cell, rival))

    base, under_urgent = runs["2x4_rho09", "broker"], runs["2x4_rho09_urgent", "broker"]
    costs = [
        urgent_cost_points(plain.ended, other.ended)
        for plain, other in zip(base, under_urgent, strict=True)
    ]
    return {
        **_estimates(runs),
        "goodput_1x2_rho09_vs_exhaustive": against("1x2_rho09", "exhaustive"),
        "goodput_2x4_rho09_vs_exhaustive": against("2x4_rho09", "exhaustive"),
        "goodput_1x2_rho09_vs_fifo": against("1x2_rho09", "fifo"),
        "goodput_2x4_rho09_vs_fifo": against("2x4_rho09", "fifo"),
        "goodput_2x4_rho20": statistics.median(goodputs("2x4_rho20", "broker")),
        "goodput_2x4_rho20_vs_exhaustive": against("2x4_rho20", "exhaustive"),
        "goodput_1x2_rho09_flexible_vs_exhaustive": against(
            "1x2_rho09_flexible", "exhaustive", other_cell="1x2_rho09"
        ),
        "urgent_in_deadline": statistics.median(goodput(urgent(one.ended)) for one in under_urgent),
        "urgent_cost_points": statistics.median(costs),
        "load_share_vs_exhaustive": max(
            median_ratio(
                [one.loading_share for one in runs[cell, "broker"]],
                [one.loading_share for one in runs[cell, "exhaustive"]],
            )
            for cell in ("1x2_rho09", "2x4_rho09")
        ),
        "short_sojourn_vs_exhaustive": median_ratio(
            [short_sojourn_ns(one.ended) for one in runs["2x4_rho09", "broker"]],
            [short_sojourn_ns(one.ended) for one in runs["2x4_rho09", "exhaustive"]],
        ),
    }


ETA_CELLS = ("1x2_rho09", "2x4_rho09")


def _estimates(runs: Runs) -> dict[str, float]:
    """How estimates came true in each cell, and as `eta_coverage` in the one where they did so
    least as they are meant to; how wide they were, and how many were told any."""
    figures: dict[str, float] = {}
    for cell in ETA_CELLS:
        played = runs[cell, "broker"]
        shares = [eta_coverage(one.ended, one.told_ns) for one in played]
        widths = [eta_width(one.ended, one.told_ns) for one in played]
        told = [len(one.told_ns) / len(one.ended) for one in played]
        figures[f"eta_coverage_{cell}"] = _median_known(shares)
        figures[f"eta_width_over_wait_{cell}"] = _median_known(widths)
        figures[f"eta_told_{cell}"] = statistics.median(told)
    shares_of = [figures[f"eta_coverage_{cell}"] for cell in ETA_CELLS]
    return {"eta_coverage": max(shares_of, key=lambda each: abs(each - ETA_MEANT)), **figures}


def _median_known(values: Sequence[float | None]) -> float:
    """NaN, which is within no bound, where there is nothing to go by."""
    known = [each for each in values if each is not None]
    return statistics.median(known) if known else float("nan")


def _others(runs: Runs) -> dict[str, float]:
    """What is only reported."""
    ahead, without = (
        [goodput(one.ended) for one in runs[cell, "broker"]]
        for cell in ("2x4_rho09_ahead", "2x4_rho09")
    )
    figures = {"goodput_2x4_rho09_ahead_vs_without": median_ratio(ahead, without)}
    for (cell, rival), played in runs.items():
        for figure, value in MEASURES.items():
            figures[f"{figure}_{cell}_{rival}"] = _median(played, value)
    return figures


def _wait_s(percent: int) -> Callable[[Played], float]:
    return lambda one: percentile([each.waited_ns / 1e9 for each in one.ended], percent)


MEASURES: Mapping[str, Callable[[Played], float]] = {
    "share_in_time": lambda one: goodput(one.ended),
    "loads": lambda one: float(one.loads),
    "loads_over_bound": loads_over_bound,
    "loading_share": lambda one: one.loading_share,
    "wait_p50_s": _wait_s(50),
    "wait_p99_s": _wait_s(99),
    "short_sojourn_s": lambda one: short_sojourn_ns(one.ended) / 1e9,
    "urgent_in_time": lambda one: goodput(urgent(one.ended)) if urgent(one.ended) else 0.0,
}


def _median(played: Sequence[Played], value: Callable[[Played], float]) -> float:
    return statistics.median(value(one) for one in played)


def table(runs: Runs) -> str:
    """For people; Markdown, as docs/ shows it."""
    lines = [
        "Medians of the seeds. In time: of all that came. Loads, and how many times the lower",
        "bound for what was served. Loading: share of the time. Waits of all, who left counts as",
        "long as it stayed; sojourn of requests below the median size.",
        "",
        "| cell | rival | in time | loads | x bound | loading | wait p50 / p99 | short sojourn |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (cell, rival), played in runs.items():
        good, loads, over, loading, p50, p99, short, _ = (
            _median(played, value) for value in MEASURES.values()
        )
        lines.append(
            f"| {cell} | {rival} | {good:.3f} | {loads:.0f} | {over:.2f} | {loading:.0%} "
            f"| {p50:.1f} / {p99:.1f} s | {short:.1f} s |"
        )
    return "\n".join([*lines, "", *_profile(runs)])


def picture(figures: Mapping[str, float]) -> str:
    """The share done in time, by cell and rival, of those cells that all of them played."""
    cells = [each for each in CELLS if each not in WHO]
    share = {
        (cell, rival): figures[f"share_in_time_{cell}_{rival}"]
        for cell in cells
        for rival in RIVALS
    }
    return bars("Done in time, of all that came", cells, list(RIVALS), share)


def _profile(runs: Runs) -> list[str]:
    """Where the time of the slots went."""
    lines = [
        "The time of all slots until the last arrival. Switching: a model is loaded or unloaded;",
        "draining: free, as theirs is to leave; waited for: free while others wait for another.",
        "",
        f"| cell | rival | {' | '.join(kind.replace('_', ' ') for kind in KINDS)} |",
        "|---|---|" + "---|" * len(KINDS),
    ]
    for (cell, rival), played in runs.items():
        if all(one.profile for one in played):
            shares = [statistics.median(one.profile[kind] for one in played) for kind in KINDS]
            cells = " | ".join(f"{share:.0%}" for share in shares)
            lines.append(f"| {cell} | {rival} | {cells} |")
    return lines
