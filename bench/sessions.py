"""What sessions and shared beginnings of prompts gain: simulated, with and without, side by side.

`credit`: one server of SLOTS slots at rho 0.9. Workers have sessions of 4 to 12 calls, one after
the other, each of which gives up if it is not started within 60 s, and then the whole is lost;
askers send single requests. Played without the credit, with it, and with it where workers say how
many calls there will be.

`prefixes`: two servers, forty kinds of agents, of which each begins all its prompts with the same
6,000 tokens, so that one server cannot keep them all; half have sessions. Played with an engine
that is told neither sessions nor beginnings, sessions alone, or both: how much of what prompts hold
the servers had read before.

`bursts`: one server; every ten minutes two dozen beginnings that are new come, each in four
requests of as many agents, all mixed. Played with an engine that weighs what waits anew when its
beginning was read, and with one that does not.
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace

from bench.result import Result
from bench.workload import DECODE_TOKENS_PER_S, PREFILL_TOKENS_PER_S
from broker.core.effects import Effect
from broker.core.engine import Engine
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.record import Record
from broker.core.requests import Outcome
from broker.core.resizing import Resizing
from broker.core.stimuli import Arrived, Stimulus
from broker.sim.fleet import Job
from broker.sim.simulation import Played, Simulation
from broker.sim.trace_row import Trace, TraceKind, TraceRow
from broker.sim.workload import BLOCK_TOKENS
from broker.sim.workload_sites import backends_of, models_of
from broker.sim.workload_spec import AgentsDraft, BackendDraft, ModelDraft, Workload, WorkloadSpec

SEEDS = (1, 2, 3, 4, 5)
RHO = 0.9
SLOTS = 4
GIVES_UP_S = 60.0
SECOND_NS = 1_000_000_000
# Prompts are read by one slot after the other: of such long ones four slots bear no more than this.
PREFIXES_RHO = 0.4
KINDS = 40
SHARED_TOKENS = 6_000

# The bursts: how many, how far apart, of how many beginnings, of so many blocks, for how many each.
BURSTS = 6
BURST_EVERY_S = 600
BEGINNINGS = 24
BEGINNING_BLOCKS = 12
SHARERS = 4
BURST_SLOTS = (1, 2, 4)
# Of whole sessions with the credit, over those without; of bursts that are weighed anew over those
# that are not, with the slots that gain least.
BOUNDS = {"credit_sojourn_vs_none": 0.9, "bursts_sojourn_vs_once": 0.95}
# Of what prompts hold, read before where both are told, over where neither is.
FLOORS = {"prefixes_known_vs_nothing": 1.1}

Make = Callable[[EnginePolicy], Engine]


class _Untold(Engine):
    """An engine that is told neither sessions nor what prompts begin with."""

    def handle(self, stimulus: Stimulus, now_ns: int) -> list[Effect]:
        if isinstance(stimulus, Arrived):
            stimulus = Arrived(replace(stimulus.spec, session_id="", prefixes=()))
        return super().handle(stimulus, now_ns)


class _ToldSessions(Engine):
    """One that is not told what prompts begin with."""

    def handle(self, stimulus: Stimulus, now_ns: int) -> list[Effect]:
        if isinstance(stimulus, Arrived):
            stimulus = Arrived(replace(stimulus.spec, prefixes=()))
        return super().handle(stimulus, now_ns)


class _NotAnew(Resizing):
    def was_read(self, record: Record) -> None:
        """What waits keeps the size that it came with."""


class _WeighsOnce(Engine):
    """One that weighs each request when it comes, and never again."""

    def __init__(self, policy: EnginePolicy) -> None:
        super().__init__(policy)
        self._resizing = _NotAnew(self.backlog, self._prefixes, self.estimates)


@dataclass(frozen=True, slots=True)
class Credit:
    """One seed of `credit`. Sojourns are of whole sessions that came to their end, in seconds;
    `lost_calls`: for each session, those that were answered in one that did not."""

    done_share: float
    sojourn_mean_s: float
    sojourn_p99_s: float
    lost_calls: float
    asker_done_share: float
    asker_sojourn_s: float


@dataclass(frozen=True, slots=True)
class Shared:
    """One seed of `prefixes`, or of `bursts`."""

    known_share: float  # of all tokens of prompts
    sojourn_mean_s: float  # of single calls


_CREDIT_MEASURES = [each.name for each in fields(Credit)]
_SHARED_MEASURES = [each.name for each in fields(Shared)]


async def run(*, quick: bool) -> Result:
    """Some minutes; half a minute if quick, which proves nothing."""
    seeds, hours = ((1,), 0.5) if quick else (SEEDS, 4.0)
    credit = {
        name: [_credit(seed, hours, credit_s, tells=tells) for seed in seeds]
        for name, credit_s, tells in (
            ("none", 0.0, False),
            ("untold", 30.0, False),
            ("told", 30.0, True),
        )
    }
    shared = {
        name: [_shared(seed, hours / 8, make) for seed in seeds]
        for name, make in (("nothing", _Untold), ("sessions", _ToldSessions), ("both", Engine))
    }
    bursts = {
        f"{slots}_{name}": [_bursts(seed, 2 if quick else BURSTS, slots, make) for seed in seeds]
        for slots in BURST_SLOTS
        for name, make in (("once", _WeighsOnce), ("anew", Engine))
    }
    figures: dict[str, float] = {}
    for name, runs in credit.items():
        for measure in _CREDIT_MEASURES:
            values = [getattr(each, measure) for each in runs]
            figures[f"credit_{name}_{measure}"] = statistics.fmean(values)
    for cell, cases in (("prefixes", shared), ("bursts", bursts)):
        for name, those in cases.items():
            for measure in _SHARED_MEASURES:
                values = [getattr(each, measure) for each in those]
                figures[f"{cell}_{name}_{measure}"] = statistics.fmean(values)
    return Result(
        name="sessions",
        seed=seeds[0],
        figures={**_gains(figures), **figures},
        bounds=BOUNDS,
        floors=FLOORS,
        table=_table(credit, shared, bursts),
    )


def _gains(figures: Mapping[str, float]) -> dict[str, float]:
    """What is claimed of each: as ratios, of means of the same seeds."""
    sojourn = {name: figures[f"credit_{name}_sojourn_mean_s"] for name in ("none", "untold")}
    known = {name: figures[f"prefixes_{name}_known_share"] for name in ("nothing", "both")}
    of_bursts = (
        figures[f"bursts_{slots}_anew_sojourn_mean_s"]
        / figures[f"bursts_{slots}_once_sojourn_mean_s"]
        for slots in BURST_SLOTS
    )
    return {
        "credit_sojourn_vs_none": sojourn["untold"] / sojourn["none"],
        "bursts_sojourn_vs_once": max(of_bursts),
        "prefixes_known_vs_nothing": known["both"] / known["nothing"],
    }


def _credit(seed: int, hours: float, credit_s: float, *, tells: bool) -> Credit:
    agents = (
        AgentsDraft(
            name="worker",
            loop="open",
            count=12,
            every_s=600.0,
            calls=(4, 12),
            call_gap_s=1.0,
            adds_tokens=100,
            tells_calls=tells,
            prompt_tokens=(200, 1_500),
            output_tokens=(50, 400),
            gives_up_s=GIVES_UP_S,
        ),
        AgentsDraft(
            name="asker",
            loop="open",
            count=100,
            every_s=1_000.0,
            prompt_tokens=(100, 3_000),
            output_tokens=(20, 600),
            gives_up_s=GIVES_UP_S,
        ),
    )
    queue = QueuePolicy(session_credit_ns=int(credit_s * SECOND_NS))
    played = _play(_spec(seed, hours, RHO, 1, agents), queue, Engine)
    whole, asked = _sessions(played.jobs, many=True), _sessions(played.jobs, many=False)
    done = [each for each in whole if _is_done(each)]
    lost = sum(job.last.outcome is Outcome.COMPLETED for each in whole for job in each)
    lost -= sum(len(each) for each in done)
    sojourns = sorted(map(_sojourn_s, done))
    return Credit(
        done_share=len(done) / len(whole),
        sojourn_mean_s=statistics.fmean(sojourns),
        sojourn_p99_s=sojourns[int(len(sojourns) * 0.99)],
        lost_calls=lost / len(whole),
        asker_done_share=sum(map(_is_done, asked)) / len(asked),
        asker_sojourn_s=statistics.fmean(map(_sojourn_s, asked)),
    )


def _shared(seed: int, hours: float, make: Make) -> Shared:
    agents = tuple(
        AgentsDraft(
            name=f"kind{number}",
            loop="open",
            count=3,
            every_s=300.0,
            calls=(1, 8) if number % 2 else (1, 1),
            call_gap_s=2.0,
            adds_tokens=100,
            shared_tokens=SHARED_TOKENS,
            prompt_tokens=(100, 1_500),
            output_tokens=(20, 200),
        )
        for number in range(KINDS)
    )
    return _read(_play(_spec(seed, hours, PREFIXES_RHO, 2, agents), QueuePolicy(), make))


def _bursts(seed: int, bursts: int, slots: int, make: Make) -> Shared:
    agents = (AgentsDraft(name="agent", loop="trace", deadline_s=3_600.0),)
    hours = bursts * BURST_EVERY_S / 3_600
    spec = _spec(seed, hours, None, 1, agents, slots=slots)
    chance, rows = random.Random(seed), list[TraceRow]()
    for burst in range(bursts):
        begins = list(range(BEGINNINGS)) * SHARERS
        chance.shuffle(begins)
        for place, begin in enumerate(begins):
            first = ((burst * BEGINNINGS) + begin) * BEGINNING_BLOCKS
            rows.append(
                TraceRow(
                    arrival_ns=burst * BURST_EVERY_S * SECOND_NS + place * SECOND_NS // 100,
                    prompt_tokens=BEGINNING_BLOCKS * BLOCK_TOKENS + chance.randint(100, 1_500),
                    output_tokens=chance.randint(20, 200),
                    agent=f"agent{place}",
                    blocks=tuple(range(first, first + BEGINNING_BLOCKS)),
                )
            )
    trace = Trace(source="bench sessions", kind=TraceKind.CSV, rows=tuple(rows))
    return _read(_play(spec, QueuePolicy(), make, trace))


def _read(played: Played) -> Shared:
    ended = [each.last for each in played.jobs if each.last.outcome is Outcome.COMPLETED]
    return Shared(
        known_share=played.known_tokens / played.prompt_tokens,
        sojourn_mean_s=statistics.fmean(
            (each.ended_ns - each.task.at_ns) / SECOND_NS for each in ended
        ),
    )


def _spec(
    seed: int,
    hours: float,
    rho: float | None,
    servers: int,
    agents: tuple[AgentsDraft, ...],
    slots: int = SLOTS,
) -> WorkloadSpec:
    model = ModelDraft(
        name="m:latest",
        size_gb=5.0,
        load_s=6.0,
        prefill_tokens_per_s=PREFILL_TOKENS_PER_S,
        decode_tokens_per_s=DECODE_TOKENS_PER_S,
        batch_slowdown=0.0,
    )
    return WorkloadSpec(
        seed=seed,
        duration_s=hours * 3_600,
        rho=rho,
        models=(model,),
        backends=(BackendDraft(name="gpu", count=servers, resident_max=1, slots=slots),),
        agents=agents,
    )


def _play(spec: WorkloadSpec, queue: QueuePolicy, make: Make, trace: Trace | None = None) -> Played:
    backends = backends_of(spec.backends, models_of(spec.models))
    policy = EnginePolicy(backends=tuple(each.policy() for each in backends), queue=queue)
    workload = Workload(source="bench sessions", spec=spec, trace=trace, assumed=())
    return Simulation(workload, backends, policy=policy, make=make).play()


def _sessions(jobs: Iterable[Job], *, many: bool) -> list[list[Job]]:
    """The calls of each session that has several of them, or just one."""
    found: dict[tuple[str, int], list[Job]] = defaultdict(list)
    for job in jobs:
        if (len(job.session.calls) > 1) is many:
            found[job.session.agent_id, job.session.number].append(job)
    return list(found.values())


def _is_done(calls: Sequence[Job]) -> bool:
    is_whole = len(calls) == len(calls[0].session.calls)
    return is_whole and calls[-1].last.outcome is Outcome.COMPLETED


def _sojourn_s(calls: Sequence[Job]) -> float:
    return (calls[-1].last.ended_ns - calls[0].asked_ns) / SECOND_NS


def _table(
    credit: Mapping[str, Sequence[Credit]],
    shared: Mapping[str, Sequence[Shared]],
    bursts: Mapping[str, Sequence[Shared]],
) -> str:
    """For people; Markdown, as docs/ shows it."""
    lines = [
        "| credit | sessions done | sojourn, mean / p99 | calls lost | askers done, sojourn |",
        "|---|---|---|---|---|",
    ]
    for name, runs in credit.items():
        columns = zip(*(astuple(each) for each in runs), strict=True)
        done, mean_s, p99_s, lost, asker, asker_s = (statistics.fmean(each) for each in columns)
        lines.append(
            f"| {name} | {done:.1%} | {mean_s:.0f} / {p99_s:.0f} s | {lost:.2f} | "
            f"{asker:.1%}, {asker_s:.1f} s |"
        )
    for head, cases in (("told", shared), ("slots, weighed", bursts)):
        lines += ["", f"| {head} | tokens known | sojourn of a call |", "|---|---|---|"]
        for name, those in cases.items():
            known = statistics.fmean(each.known_share for each in those)
            sojourn_s = statistics.fmean(each.sojourn_mean_s for each in those)
            lines.append(f"| {name.replace('_', ', ')} | {known:.1%} | {sojourn_s:.2f} s |")
    return "\n".join(lines)
