"""What loading models before anybody asks is worth, on days whose hours differ, and what it costs.

Each workload is played twice from one seed, side by side: without and with it. The first days are
for learning and count for nothing. Virtual time: the engine is the daemon's, the servers are
simulated. What is counted, and why so, docs/benchmarks.md says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from broker.core.policy import EnginePolicy
from broker.core.preload import PreloadPolicy
from broker.sim.recording import StretchKind
from broker.sim.report import wait_ns
from broker.sim.sessions import SECOND_NS
from broker.sim.simulation import Simulation
from broker.sim.workload_file import read_workload
from broker.sim.workload_sites import backends_of, models_of

ROOT: Final = Path(__file__).resolve().parents[1]
DIURNAL: Final = ROOT / "packaging" / "diurnal.example.toml"
CROWDED: Final = ROOT / "bench" / "data" / "crowded.toml"
UNIFORM: Final = ROOT / "bench" / "data" / "uniform.toml"

DAY_NS: Final = 86_400 * SECOND_NS

# Of the levels nothing is measured here, and ten days have many seconds.
LOOK_EVERY_NS: Final = 60 * SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long a workload is played, and how often: a week for learning its days, and some of the
    next one."""

    seeds: tuple[int, ...] = (1, 2, 3)
    days_learned: int = 7
    days: int = 10


QUICK: Final = Length(seeds=(1,), days_learned=1, days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """One workload to be played from one seed."""

    file: Path
    seed: int
    length: Length
    is_ahead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What came of the days that count. `waits`: those of requests that waited for a load; `ahead`:
    loads that nobody had asked for, with those that were ended for others; `unused`: of these."""

    requests: int
    all_waits_ns: tuple[int, ...]
    waits_ns: tuple[int, ...]
    loads: int
    ahead: int
    unused: int


def play(game: Game) -> Tally:
    """Plays it to its end."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # whoever measured before had one core
    workload = read_workload(game.file)
    spec = workload.spec.model_copy(update={"duration_s": game.length.days * 86_400.0})
    backends = backends_of(spec.backends, models_of(spec.models))
    policy = EnginePolicy(
        backends=tuple(each.policy() for each in backends),
        preload=PreloadPolicy(is_enabled=game.is_ahead),
    )
    counts_from_ns = game.length.days_learned * DAY_NS
    played = Simulation(replace(workload, spec=spec), backends, policy=policy, seed=game.seed).play(
        counts_from_ns=counts_from_ns, look_every_ns=LOOK_EVERY_NS
    )
    jobs = [each for each in played.jobs if each.asked_ns >= counts_from_ns]
    waits = {each.last.task.key: wait_ns(each) or 0 for each in jobs}
    ahead, before = played.preloads, played.preloads_before
    return Tally(
        requests=len(jobs),
        all_waits_ns=tuple(waits.values()),
        waits_ns=tuple(waits[key] for key in played.load_waits_ns if key in waits),
        loads=sum(
            each.kind is StretchKind.LOADING and each.begin_ns >= counts_from_ns
            for each in played.stretches
        ),
        ahead=ahead.made + ahead.aborted - before.made - before.aborted,
        unused=ahead.wasted + ahead.aborted - before.wasted - before.aborted,
    )


async def figures(*, quick: bool) -> dict[str, float]:
    """All figures; some minutes, some seconds if quick, of one day after one other."""
    length = QUICK if quick else Length()
    files = [DIURNAL] if quick else [DIURNAL, CROWDED, UNIFORM]
    games = [
        Game(file=file, seed=seed, length=length, is_ahead=is_ahead)
        for file in files
        for seed in (length.seeds if file is DIURNAL else length.seeds[:1])
        for is_ahead in (False, True)
    ]
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        tallies = await asyncio.gather(*(loop.run_in_executor(pool, play, each) for each in games))
    found: dict[str, float] = {}
    for file in files:
        sides = {
            is_ahead: [
                tally
                for game, tally in zip(games, tallies, strict=True)
                if game.file is file and game.is_ahead is is_ahead
            ]
            for is_ahead in (False, True)
        }
        name = "" if file is DIURNAL else f"{file.stem}_"
        found |= {f"preload_{name}{key}": value for key, value in compared(sides).items()}
    return found


def compared(sides: dict[bool, list[Tally]]) -> dict[str, float]:
    """With loading ahead of need against without, over all seeds together."""
    without, ahead = _sum(sides[False]), _sum(sides[True])
    return {
        "waits_saved_percent": _saved(len(without.waits_ns), len(ahead.waits_ns)),
        "wasted_percent": 100.0 * ahead.unused / max(1, ahead.ahead),
        "wait_time_saved_percent": _saved(sum(without.waits_ns), sum(ahead.waits_ns)),
        "waits_without": float(len(without.waits_ns)),
        "made": float(ahead.ahead),
        "loads_ratio": ahead.loads / max(1, without.loads),
        "mean_wait_ratio": _mean(ahead.all_waits_ns) / max(1.0, _mean(without.all_waits_ns)),
        "mean_wait_ms_without": _mean(without.all_waits_ns) / 1e6,
        "mean_wait_ms": _mean(ahead.all_waits_ns) / 1e6,
        "p95_wait_ms_without": _rank(without.all_waits_ns, 0.95) / 1e6,
        "p95_wait_ms": _rank(ahead.all_waits_ns, 0.95) / 1e6,
        "p99_wait_ms_without": _rank(without.all_waits_ns, 0.99) / 1e6,
        "p99_wait_ms": _rank(ahead.all_waits_ns, 0.99) / 1e6,
    }


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        requests=sum(each.requests for each in tallies),
        all_waits_ns=tuple(wait for each in tallies for wait in each.all_waits_ns),
        waits_ns=tuple(wait for each in tallies for wait in each.waits_ns),
        loads=sum(each.loads for each in tallies),
        ahead=sum(each.ahead for each in tallies),
        unused=sum(each.unused for each in tallies),
    )


def _saved(without: float, ahead: float) -> float:
    return 100.0 * (1.0 - ahead / without) if without else 0.0


def _mean(waits_ns: Sequence[int]) -> float:
    return sum(waits_ns) / max(1, len(waits_ns))


def _rank(waits_ns: Sequence[int], share: float) -> float:
    return sorted(waits_ns)[max(0, ceil(share * len(waits_ns)) - 1)] if waits_ns else 0.0
