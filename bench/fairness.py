"""One agent floods with 1,000 requests at once while 130 send now and then: what do these feel?

In virtual time, on the engine itself and on two simple rules. Requests are drawn from the trace of
`bench/data`; each holds one of SLOTS slots for prompt/2500 + output/40 s. The modest come at random
(Poisson) at MODEST_RHO of what the slots serve, the same ones with and without the flood. All are
of one type and priority; no buckets; a queue of QUEUED_MAX.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.picture import Curve, chart
from bench.result import Result
from bench.schedulers import Fifo, Ours, Scheduler, Served, Strict, serve
from bench.workload import DECODE_TOKENS_PER_S, PREFILL_TOKENS_PER_S, SLOTS, Job, trace_rows

SEEDS = (1, 2, 3, 4, 5)
MODEST, FLOODER = 130, "flooder"
MODEST_RHO = 0.8
QUEUED_MAX = 5_000
PRIORITY, PRIORITY_CLAIMED = 5, 1
BIN_S = 240.0  # of the picture
BOUNDS = {"modest_wait_vs_alone": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is played. So many modest requests come while the flood is served in the capacity
    that they leave, so that their p99 is one under flood from the first to the last."""

    seeds: tuple[int, ...] = SEEDS
    warm_up: int = 500  # modest requests before the flood
    modest: int = 4_000  # and from the flood on: those that are looked at
    flood: int = 1_000


QUICK = Sizes(seeds=(1, 2), warm_up=50, modest=400, flood=100)


@dataclass(frozen=True, slots=True)
class Case:
    """A rule, and what the flooder does under it: its priority, or None for no flood."""

    name: str
    rule: str
    flood: str
    flood_priority: int | None
    make: Callable[[], Scheduler]


def _ours() -> Scheduler:
    return Ours(SLOTS, QUEUED_MAX)


def _fifo() -> Scheduler:
    return Fifo(SLOTS)


def _strict() -> Scheduler:
    return Strict(SLOTS)


CASES = (
    Case("ours_alone", "the broker", "none", None, _ours),
    Case("ours_flood", "the broker", "same priority", PRIORITY, _ours),
    Case("ours_flood_claims", "the broker", "claims priority 1", PRIORITY_CLAIMED, _ours),
    Case("fifo_alone", "first come, first served", "none", None, _fifo),
    Case("fifo_flood", "first come, first served", "any priority", PRIORITY, _fifo),
    Case("strict_alone", "strict priorities", "none", None, _strict),
    Case("strict_flood", "strict priorities", "same priority", PRIORITY, _strict),
    Case(
        "strict_flood_claims", "strict priorities", "claims priority 1", PRIORITY_CLAIMED, _strict
    ),
)
CURVES = (
    ("strict_flood_claims", "strict priorities, the flood claims 1", "#c0392b"),
    ("fifo_flood", "first come, first served (as Ollama)", "#d68910"),
    ("ours_flood", "the broker", "#1f618d"),
    ("ours_alone", "the broker, without the flood", "#7f8c8d"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One seed's requests. The flood comes at `flood_s`, and `contested_s` is how long it alone
    would fill all slots."""

    modest: list[Job]
    flood: list[Job]
    flood_s: float
    contested_s: float

    def jobs(self, flood_priority: int | None) -> list[Job]:
        """All in order of arrival; None: without the flood."""
        if flood_priority is None:
            return self.modest
        flood = [_at_priority(each, flood_priority) for each in self.flood]
        return sorted([*self.modest, *flood], key=lambda job: job.at_s)


@dataclass(frozen=True, slots=True)
class Played:
    """What became of the modest that came from the flood on, and of the flooder."""

    modest: list[Served]
    flood: list[Served]
    flood_share: float  # of the slots' time in the contested seconds


async def run(*, quick: bool) -> Result:
    """About half a minute; a few seconds if quick, which proves nothing."""
    sizes = QUICK if quick else Sizes()
    scenes = [_scene(seed, sizes) for seed in sizes.seeds]
    played = {each.name: [_play(scene, each) for scene in scenes] for each in CASES}
    ratios = [
        _percentile(_sojourns(flood.modest), 99) / _percentile(_sojourns(alone.modest), 99)
        for flood, alone in zip(played["ours_flood"], played["ours_alone"], strict=True)
    ]
    figures = {"modest_wait_vs_alone": statistics.median(ratios)}
    figures["modest_wait_vs_alone_worst"] = max(ratios)
    for name, runs in played.items():
        sojourns = [_sojourns(one.modest) for one in runs]
        for percent in (50, 99):
            figures[f"{name}_modest_sojourn_p{percent}_s"] = statistics.median(
                _percentile(each, percent) for each in sojourns
            )
        figures[f"{name}_flood_share"] = statistics.median(one.flood_share for one in runs)
    return Result(
        name="fairness",
        seed=sizes.seeds[0],
        figures=figures,
        bounds=BOUNDS,
        table=_table(played),
        picture=_picture(scenes, played),
    )


def _scene(seed: int, sizes: Sizes) -> Scene:
    chance = random.Random(seed)
    tokens = [(max(1, prompt), max(1, output)) for _, prompt, output in trace_rows()]
    mean_s = statistics.fmean(
        prompt / PREFILL_TOKENS_PER_S + output / DECODE_TOKENS_PER_S for prompt, output in tokens
    )
    rate_per_s = MODEST_RHO * SLOTS / mean_s
    at_s, modest = 0.0, []
    for number in range(sizes.warm_up + sizes.modest):
        at_s += chance.expovariate(rate_per_s)
        agent_id = f"modest-{chance.randrange(MODEST)}"
        modest.append(Job(number, at_s, agent_id, PRIORITY, "", *chance.choice(tokens)))
    flood_s = modest[sizes.warm_up].at_s
    flood = [
        Job(len(modest) + number, flood_s, FLOODER, PRIORITY, "", *chance.choice(tokens))
        for number in range(sizes.flood)
    ]
    contested_s = sum(each.service_s for each in flood) / SLOTS
    return Scene(modest, flood, flood_s, contested_s)


def _at_priority(job: Job, priority: int) -> Job:
    return Job(
        job.number,
        job.at_s,
        job.agent_id,
        priority,
        job.model,
        job.prompt_tokens,
        job.output_tokens,
    )


def _play(scene: Scene, case: Case) -> Played:
    served = serve(scene.jobs(case.flood_priority), case.make())
    flood = [each for each in served if each.job.agent_id == FLOODER]
    modest = [
        each for each in served if each.job.agent_id != FLOODER and each.job.at_s >= scene.flood_s
    ]
    from_s, until_s = scene.flood_s, scene.flood_s + scene.contested_s
    held_s = sum(
        max(0.0, min(each.ended_s, until_s) - max(each.started_s, from_s)) for each in flood
    )
    return Played(modest, flood, held_s / (scene.contested_s * SLOTS))


def _sojourns(served: Sequence[Served]) -> list[float]:
    return [each.sojourn_s for each in served]


def _percentile(values: Sequence[float], percent: int) -> float:
    """The nearest rank; 100 is the largest."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _table(played: dict[str, list[Played]]) -> str:
    """For people; Markdown, as docs/ shows it."""
    lines = [
        "Seconds as p50 / p95 / p99 / longest; each the median of the seeds. Share: of the slots'",
        "time while the flood alone would have filled them.",
        "",
        "| rule | flood | the modest wait | their sojourn | the flooder's sojourn | its share |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        runs = played[case.name]
        wait = _spread(runs, lambda one: [each.wait_s for each in one.modest])
        sojourn = _spread(runs, lambda one: _sojourns(one.modest))
        flooder, share = "-", "-"
        if case.flood_priority is not None:
            flooder = _spread(runs, lambda one: _sojourns(one.flood))
            share = f"{statistics.median(one.flood_share for one in runs):.0%}"
        lines.append(f"| {case.rule} | {case.flood} | {wait} | {sojourn} | {flooder} | {share} |")
    return "\n".join(lines)


def _spread(runs: Sequence[Played], values: Callable[[Played], list[float]]) -> str:
    found = [[_percentile(values(one), percent) for percent in (50, 95, 99, 100)] for one in runs]
    return " / ".join(f"{statistics.median(each):.1f}" for each in zip(*found, strict=True))


def _picture(scenes: Sequence[Scene], played: dict[str, list[Played]]) -> str:
    curves = []
    for name, label, colour in CURVES:
        bins: dict[int, list[float]] = {}
        for scene, one in zip(scenes, played[name], strict=True):
            for each in one.modest:
                place = int((each.job.at_s - scene.flood_s) / BIN_S)
                bins.setdefault(place, []).append(each.sojourn_s)
        points = [
            ((place + 0.5) * BIN_S / 60, _percentile(found, 95))
            for place, found in sorted(bins.items())
            if len(found) >= 20  # fewer have no 95th percentile
        ]
        curves.append(Curve(label, colour, points))
    return chart(
        "130 modest agents while one floods with 1,000 requests",
        "minutes since the flood at which a modest request came",
        "seconds until it was answered (p95)",
        curves,
    )
