"""The rivals of `scheduling` on a real clock: the same requests over real sockets, to processes.

The server is `ollama-sim`, its clock sped up and the broker's with it (`quick_loop.py`); the daemon
is the real one, with its own rule or a rival's in its place. Agents give up when they have waited
for a minute of the fleet's time. Then the very same requests are played in virtual time, and the
order of the rivals is compared: what was found by simulation is to be so on a clock, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import combinations

from bench.fleet_machine import Machine, simulated
from bench.fleet_ollama import Found, find
from bench.fleet_play import WAYS, Leg, count, play
from bench.progress import Progress
from bench.result import Result
from bench.scheduling import RIVALS
from bench.scheduling_cells import CELLS, TRACE, draws, rows_of, tasks_of
from bench.scheduling_figures import eta_coverage, goodput, percentile
from bench.scheduling_play import Ended, Played
from broker.core.requests import Outcome
from broker.sim.workload import Task

SEED = 1
CELL = replace(CELLS["1x2_rho09"], has_pauses=True)  # as ollama-sim has
REQUESTS, SPEED = 800, 36.0
REQUESTS_QUICK, SPEED_QUICK = 40, 60.0
BOUNDS = {"fleet_loads_vs_direct": 0.6}
FLOORS = {"fleet_order_agrees": 1.0}
# Rivals are apart whose shares in time differ by more than this in virtual time.
APART = 0.02
BLIND = "fifo_blind"  # Ollama alone, with clients as they are
UNSEEN = "all loads of Ollama alone were given up, and no Ollama shows those"

Place = Callable[[], AbstractAsyncContextManager[Machine]]


async def run(*, quick: bool, ollama: str | None = None) -> Result:
    """About nine minutes; half a minute if quick, which proves nothing. `ollama`: the address of
    a real one to play on, whose models are then loaded and unloaded."""
    requests = REQUESTS_QUICK if quick else REQUESTS
    rows = rows_of(TRACE, requests)
    tasks = tasks_of(CELL, rows, draws(SEED, len(rows)))
    if ollama is None:
        speed = SPEED_QUICK if quick else SPEED
        legs = await _play_all(list(WAYS), lambda: simulated(CELL, speed), tasks)
        return _result(speed, tasks, legs)
    found = await find(ollama, CELL)
    tasks = found.tasks(tasks, quick=quick)
    legs = await _play_all(_without_kindness(), found.machine, tasks)
    return _result(found.speed, tasks, legs, found)


def _without_kindness() -> list[str]:
    """No client of a real Ollama sees whom a load is for."""
    return [name for name in WAYS if name != "fifo"]


async def _play_all(names: Sequence[str], place: Place, tasks: Sequence[Task]) -> dict[str, Leg]:
    """One after the other, each before a server with nothing loaded."""
    progress, legs = Progress(len(names)), {}
    for name in names:
        async with place() as machine:
            progress.begin(name, len(tasks))
            legs[name] = await play(name, machine, tasks, progress)
            progress.over()
    return legs


def _result(
    speed: float, tasks: Sequence[Task], legs: Mapping[str, Leg], found: Found | None = None
) -> Result:
    virtual = {name: RIVALS[name](CELL, tasks) for name in legs}
    real_shares = {name: goodput(leg.ended) for name, leg in legs.items()}
    virtual_shares = {name: goodput(played.ended) for name, played in virtual.items()}
    figures = {
        "fleet_order_agrees": float(not turned_round(real_shares, virtual_shares)),
        "requests": float(len(tasks)),
        "speed": speed,
    }
    if legs[BLIND].loads:
        ratio = _loads_per_in_time(legs["broker"]) / _loads_per_in_time(legs[BLIND])
        figures["fleet_loads_vs_direct"] = ratio
    figures |= _estimates(legs["broker"], virtual["broker"])
    for name in legs:
        if name != "broker":
            figures[f"goodput_vs_{name}"] = _ratio(real_shares, name)
            figures[f"virtual_goodput_vs_{name}"] = _ratio(virtual_shares, name)
    for name, leg in legs.items():
        figures |= {f"{figure}_{name}": value for figure, value in _figures(leg).items()}
        figures[f"virtual_share_in_time_{name}"] = virtual_shares[name]
        figures[f"virtual_loads_{name}"] = float(virtual[name].loads)
    return Result(
        name="fleet",
        seed=SEED,
        figures=figures,
        bounds=BOUNDS,
        floors=FLOORS,
        not_measured={} if legs[BLIND].loads else {"fleet_loads_vs_direct": UNSEEN},
        table="\n".join([*(found.words() if found else []), *table(legs, virtual)]),
    )


def turned_round(real: Mapping[str, float], virtual: Mapping[str, float]) -> list[tuple[str, str]]:
    """Each two that are apart in virtual time, and the other way round on the real clock."""
    return [
        (one, other)
        for one, other in combinations(virtual, 2)
        if abs(virtual[one] - virtual[other]) > APART
        and (virtual[one] - virtual[other]) * (real[one] - real[other]) <= 0
    ]


def _estimates(leg: Leg, played: Played) -> dict[str, float]:
    """The share that started inside the interval that they were told first, where any were told."""
    shares = {
        "eta_coverage": eta_coverage(leg.ended, leg.told_ns),
        "virtual_eta_coverage": eta_coverage(played.ended, played.told_ns),
    }
    return {figure: share for figure, share in shares.items() if share is not None}


def _ratio(shares: Mapping[str, float], rival: str) -> float:
    return shares["broker"] / shares[rival] if shares[rival] else float("inf")


def _loads_per_in_time(leg: Leg) -> float:
    return leg.loads / max(1, sum(each.is_in_time for each in leg.ended))


def _figures(leg: Leg) -> dict[str, float]:
    return {
        "share_in_time": goodput(leg.ended),
        "loads": float(leg.loads),
        "loading_share": leg.loading_share,
        "wait_p50_s": _wait_s(leg.ended, 50),
        "wait_p99_s": _wait_s(leg.ended, 99),
        "cores": sum(leg.cores.values()),
        "wall_s": leg.wall_s,
    }


def _wait_s(ended: Sequence[Ended], percent: int) -> float:
    return percentile([each.waited_ns / 1e9 for each in ended], percent)


def table(legs: Mapping[str, Leg], virtual: Mapping[str, Played]) -> list[str]:
    """For people; Markdown, as docs/ shows it. Each figure on the real clock, then in virtual
    time."""
    lines = [
        "On the real clock / in virtual time. In time: of all that came. Loading: share of the",
        "time. Waits of all, who left counts as long as it stayed. Cores: what each process took.",
        "",
        "| rival | in time | loads | loading | wait p50 | p99 | gave up | refused, failed "
        "| cores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, leg in legs.items():
        other = virtual[name]
        waits = " | ".join(
            f"{_wait_s(leg.ended, percent):.1f} / {_wait_s(other.ended, percent):.1f} s"
            for percent in (50, 99)
        )
        cores = ", ".join(f"{what} {share:.2f}" for what, share in leg.cores.items())
        gave_up = count(leg, Outcome.CANCELLED, Outcome.EXPIRED)
        lines.append(
            f"| {name} | {goodput(leg.ended):.3f} / {goodput(other.ended):.3f} "
            f"| {leg.loads} / {other.loads} "
            f"| {leg.loading_share:.0%} / {other.loading_share:.0%} | {waits} | {gave_up} "
            f"| {count(leg, Outcome.REFUSED)}, {count(leg, Outcome.FAILED)} | {cores} |"
        )
    return lines
