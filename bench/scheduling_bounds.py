"""The bound on waiting, a part of `scheduling`: patient agents, the bound as stated as each came.

Agents of the trace that never give up, at three loads on both machines; only the broker plays, as
nobody else states a bound. What counts is the largest wait over its bound, of all requests of all
seeds. A bound of a year would be kept as well: how far above the waits it lies is told beside it,
and how many were told any.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import product

from bench.scheduling_cells import Cell, draws, tasks_of
from bench.scheduling_figures import percentile, wait_over_bound_max
from bench.scheduling_play import Played, play_broker
from broker.sim.trace_row import TraceRow

MACHINES = ((1, 2), (2, 4))  # models that fit, slots of each
RHOS = (0.5, 0.7, 0.9)
CELLS = tuple(
    Cell(
        name=f"{resident}x{slots}_rho{rho * 10:02.0f}_patient",
        resident=resident,
        slots=slots,
        rho=rho,
        is_patient=True,
    )
    for (resident, slots), rho in product(MACHINES, RHOS)
)
STATED_MIN = 0.5  # of all requests: else that none is broken says little

Runs = dict[str, list[Played]]  # by cell, one for each seed


def play_all(seeds: Sequence[int], rows: Sequence[TraceRow]) -> Runs:
    """Plays every cell to the broker."""
    runs: Runs = {}
    for seed in seeds:
        drawn = draws(seed, len(rows))
        for cell in CELLS:
            runs.setdefault(cell.name, []).append(play_broker(cell, tasks_of(cell, rows, drawn)))
    return runs


def figures(runs: Runs) -> dict[str, float]:
    """The largest wait over its bound of all, and what there is to know of each cell. NaN, which is
    within no bound, where too few were told one."""
    found: dict[str, float] = {}
    for cell, played in runs.items():
        found[f"wait_over_bound_{cell}"] = max(worst(one) for one in played)
        found[f"wait_bound_stated_{cell}"] = min(stated(one) for one in played)
        found[f"wait_p99_over_bound_p50_{cell}"] = statistics.median(tight(one) for one in played)
    is_told = all(found[f"wait_bound_stated_{cell}"] >= STATED_MIN for cell in runs)
    largest = max(found[f"wait_over_bound_{cell}"] for cell in runs)
    return {"wait_over_bound_max": largest if is_told else float("nan"), **found}


def worst(played: Played) -> float:
    """The largest wait over its bound."""
    return wait_over_bound_max(played.ended, played.bound_ns)


def stated(played: Played) -> float:
    """How many were told a bound."""
    return len(played.bound_ns) / len(played.ended)


def tight(played: Played) -> float:
    """The wait that one in a hundred exceeds over the usual bound: 1 would be tight."""
    waits = [float(each.waited_ns) for each in played.ended if each.task.key in played.bound_ns]
    bounds = list(played.bound_ns.values())
    return percentile(waits, 99) / statistics.median(bounds) if bounds else 0.0


def table(runs: Runs) -> str:
    """For people; Markdown, as docs/ shows it."""
    lines = [
        "Patient agents. Told: how many, in the seed with fewest. Bounds and waits: medians of the",
        "seeds. Wait over bound: the largest of all seeds.",
        "",
        "| cell | told a bound | bound p50 / p99 | wait p50 / p99 / max | wait over bound |",
        "|---|---|---|---|---|",
    ]
    for cell, played in runs.items():
        bounds = [_percentiles_s(one.bound_ns.values(), 50, 99) for one in played]
        waits = [_percentiles_s((x.waited_ns for x in one.ended), 50, 99, 100) for one in played]
        lines.append(
            f"| {cell} | {min(stated(one) for one in played):.0%} | {_joined(bounds)} s "
            f"| {_joined(waits)} s | {max(worst(one) for one in played):.2f} |"
        )
    return "\n".join(lines)


def _percentiles_s(times_ns: Iterable[int], *percents: int) -> list[float]:
    times_s = [each / 1e9 for each in times_ns]
    return [percentile(times_s, percent) for percent in percents]


def _joined(of_seeds: Sequence[Sequence[float]]) -> str:
    return " / ".join(f"{statistics.median(each):,.0f}" for each in zip(*of_seeds, strict=True))


def run(seeds: Sequence[int], rows: Sequence[TraceRow]) -> tuple[dict[str, float], str]:
    """The figures, and the table."""
    runs = play_all(seeds, rows)
    return figures(runs), table(runs)
