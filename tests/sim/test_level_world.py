"""The loop of load and level closed around the real engine: a simulated server, agents that ask for
more than it can do, others that take memory of its card. On the virtual clock."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from broker.core import invariants
from broker.core.effects import Effect, TellLevel
from broker.core.engine import Engine
from broker.core.level import DegradationPolicy, Level
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import GpusSensed, LoadDue, ModelSpec, Stimulus
from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Task
from broker.sim.world import Site, World
from tests.unit.core.sensed import card, gpus

SECOND_NS = 1_000_000_000
MINUTE_S = 60
SLOTS, QUEUED_MAX, PATIENCE_S = 2, 60, 600
TOKENS, TOKENS_PER_S = 1_024, 256  # of one answer, uncut: 4 s
SERVED_PER_S = SLOTS * TOKENS_PER_S / TOKENS
CUT_TO = 512
WAIT_TARGET_S = 120
DWELL_MAX_S = 240
BLOB = hashlib.sha256(b"blob").hexdigest()
DIGEST = hashlib.sha256(b"digest").hexdigest()


def start() -> OllamaModel:
    size_bytes = 1_000_000_000
    speed = Speed(
        prefill_tokens_per_s=10_000,
        decode_tokens_per_s=TOKENS_PER_S,
        batch_slowdown=0.0,
        load_bytes_per_s=size_bytes,
        load_cached_bytes_per_s=size_bytes,
        spawn_ms=0.0,
    )
    model = SimModel(
        name="m:latest",
        blob=BLOB,
        digest=DIGEST,
        size_bytes=size_bytes,
        parameter_count=1_000_000_000,
        architecture="llama",
        context_length_train=8_192,
        speed=speed,
    )
    settings = ServerSettings(
        num_parallel=SLOTS,
        memory_bytes=16 * GIB,
        context_length=4_096,
        quirks=Quirks(slot_leak_chance=0.0),
    )
    return OllamaModel(Catalogue([model]), settings, tokens="first_and_last")


@dataclass(slots=True)
class Watch:
    """Looks at the load each second, keeps what is told, and holds the engine to its laws."""

    engine: Engine
    loads: list[float] = field(default_factory=list)
    told: list[tuple[int, TellLevel]] = field(default_factory=list)  # by second

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        second = now_ns // SECOND_NS
        self.told += [(second, each) for each in effects if isinstance(each, TellLevel)]
        if isinstance(stimulus, LoadDue):
            invariants.check(self.engine)
            self.loads.append(self.engine.degradation.view(now_ns).load or 0.0)

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...

    def rises(self, since_s: int = 0) -> int:
        return sum(each.level > each.before for at, each in self.told if at >= since_s)

    @property
    def highest(self) -> Level:
        return max((each.level for _, each in self.told), default=Level.NORMAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    watch: Watch
    world: World

    @property
    def completed(self) -> int:
        return sum(each.outcome is Outcome.COMPLETED for each in self.world.stories.values())


def tasks(rho: float, seconds: int) -> list[Task]:
    """A constant stream, of all priorities in turn, from ten agents."""
    gap_ns = int(SECOND_NS / (rho * SERVED_PER_S))
    return [
        Task(
            at_ns=10 * SECOND_NS + number * gap_ns,
            agent_id=f"a{number % 10}",
            request_id=str(number),
            model="m",
            priority=1 + number * 7 % 10,
            prompt_tokens=16,
            output_tokens=TOKENS,
            patience_ns=PATIENCE_S * SECOND_NS,
        )
        for number in range(int(seconds * SECOND_NS / gap_ns))
    ]


def play(
    rho: float,
    *,
    offered_s: int,
    seconds: int,
    is_automatic: bool = True,
    foreign: Sequence[tuple[int, int, float]] = (),
) -> Played:
    """`foreign`: from second to second others hold this share of the card."""
    policy = EnginePolicy(
        backends=(BackendPolicy(name="s", is_local=True),),
        queue=QueuePolicy(queued_max=QUEUED_MAX, live_max=1_000),
        degradation=DegradationPolicy(
            is_automatic=is_automatic,
            output_tokens_max=CUT_TO,
            wait_target_ns=WAIT_TARGET_S * SECOND_NS,
            settle_ns=0,
        ),
    )
    spec = ModelSpec(name="m:latest", runner=BLOB, size_bytes=1_000_000_000, slots=SLOTS)
    engine = Engine(policy)
    watch = Watch(engine)
    world = World(engine, {"s": Site(start=start, specs=(spec,))}, judge=watch)
    world.add(tasks(rho, offered_s))
    for second in range(1, seconds):
        at_ns = second * SECOND_NS
        if foreign:
            share = next((each for since, until, each in foreign if since <= second < until), 0.0)
            used = card(100 * share + 1, total_gb=100, ours_gb=1, others_gb=100 * share)
            reading = gpus(used, at_ns=at_ns)
            world.command(at_ns, GpusSensed(reading))
        world.command(at_ns, LoadDue())
    world.timeline.run(seconds * SECOND_NS)
    return Played(watch=watch, world=world)


@pytest.mark.parametrize("rho", [0.5, 1.3, 2.5, 6.0])
def test_under_a_constant_load_only_probes_move_the_level(rho: float) -> None:
    offered_s = 40 * MINUTE_S
    played = play(rho, offered_s=offered_s, seconds=offered_s + 45 * MINUTE_S)
    watch = played.watch
    during = [at for at, each in watch.told if each.level > each.before and at < offered_s]
    learned = [at for at in during if at >= 20 * MINUTE_S]
    assert len(learned) <= 20 * MINUTE_S // DWELL_MAX_S + 1
    assert (watch.highest > Level.NORMAL) is (rho > 1)
    assert played.world.engine.level is Level.NORMAL
    assert watch.rises(since_s=offered_s + PATIENCE_S) == 0


@pytest.mark.parametrize("rho", [0.5, 1.3, 2.5, 6.0])
def test_shedding_raises_no_load_and_serves_no_fewer(rho: float) -> None:
    offered_s = 20 * MINUTE_S
    shedding = play(rho, offered_s=offered_s, seconds=offered_s)
    bearing = play(rho, offered_s=offered_s, seconds=offered_s, is_automatic=False)
    assert bearing.watch.told == []
    assert sum(shedding.watch.loads) <= sum(bearing.watch.loads)
    assert max(shedding.watch.loads) <= max(bearing.watch.loads)
    assert shedding.completed >= bearing.completed


def test_memory_that_others_take_and_give_back_leaves_no_level_behind() -> None:
    """What critical held back absolutely is worked off once it may run again."""
    taken = (5 * MINUTE_S, 10 * MINUTE_S, 0.97)
    played = play(0.4, offered_s=20 * MINUTE_S, seconds=40 * MINUTE_S, foreign=[taken])
    watch = played.watch
    assert watch.highest is Level.CRITICAL
    first = watch.told[0]
    assert (first[0], first[1].level) == (taken[0], Level.CRITICAL)
    assert "are used by others" in first[1].why
    assert played.world.engine.level is Level.NORMAL
    assert watch.rises() <= 3
    downs = [(each.before, each.level) for _, each in watch.told if each.level < each.before]
    assert all(before - after == 1 for before, after in downs)
    assert all(
        later - sooner >= 15
        for (sooner, _), (later, each) in pairwise(watch.told)
        if each.level < each.before
    )
    since_ns, until_ns = (second * SECOND_NS for second in taken[:2])
    held = [
        each
        for each in played.world.stories.values()
        if 4 <= each.task.priority <= 7 and since_ns + SECOND_NS < each.task.at_ns < until_ns
    ]
    assert len(held) > 10
    assert all(each.outcome is Outcome.COMPLETED for each in held)
    assert all(each.started_ns >= until_ns for each in held)
