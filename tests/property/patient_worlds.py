"""Small worlds of patient agents: drawn machines, work of any load up to 0.9, a virtual clock.

Models that do not fit together, agents of any priority that wait as long as it takes, sizes that
differ a hundredfold, arrivals one by one or in handfuls. Nothing fails, and nobody is held back:
that is what a bound on waiting is stated for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from broker.core.effects import Effect, TellQueued
from broker.core.engine import Engine
from broker.core.level import DegradationPolicy
from broker.core.placement import BackendPolicy
from broker.core.placement_rule import PlacementRule
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.record import Bound
from broker.core.requests import RequestKey
from broker.core.stimuli import ModelSpec, Stimulus
from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Task
from broker.sim.world import Site, World

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
STEP_NS = 600 * SECOND_NS
RHO_MAX = 0.9
READ_TOKENS_PER_S, WRITE_TOKENS_PER_S = 2_000.0, 50.0
SIZE_BYTES = 4_000_000_000
QUEUED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Machine:
    """What each seed has: so many servers that hold `resident` models of `slots` slots each, and
    models that take so long to load, asked for so often."""

    servers: int
    resident: int
    slots: int
    loads_s: tuple[float, ...]
    weights: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        return [f"model-{number}:latest" for number in range(len(self.loads_s))]

    @property
    def slots_in_all(self) -> int:
        return self.servers * min(self.resident, len(self.loads_s)) * self.slots


def draw_machine(chance: Random) -> Machine:
    models = chance.randint(2, 6)
    return Machine(
        servers=chance.choice((1, 1, 2)),
        resident=chance.randint(1, 2),
        slots=chance.randint(1, 4),
        loads_s=tuple(chance.choice((0.5, 3.0, 10.0, 20.0)) for _ in range(models)),
        weights=tuple(chance.choice((1, 1, 2, 5)) for _ in range(models)),
    )


def draw_tasks(chance: Random, machine: Machine, count: int, rho: float) -> list[Task]:
    """Work that takes up `rho` of all slots, in handfuls of up to `most`."""
    most, agents = chance.choice((1, 4, 10)), chance.randint(1, 12)
    at_ns, left, gap_s = SECOND_NS, 0, 0.0
    tasks = list[Task]()
    for number in range(count):
        if not left:
            left = chance.randint(1, most)
            at_ns += int(chance.expovariate(1) * gap_s * SECOND_NS)
            gap_s = 0.0
        prompt_tokens = chance.randint(1, 4_000)
        output_tokens = int(2 ** chance.uniform(1, 9))
        service_s = prompt_tokens / READ_TOKENS_PER_S + output_tokens / WRITE_TOKENS_PER_S
        gap_s += service_s / machine.slots_in_all / rho
        left -= 1
        tasks.append(
            Task(
                at_ns=at_ns,
                agent_id=f"agent-{chance.randrange(agents)}",
                request_id=str(number),
                model=chance.choices(machine.names, machine.weights)[0],
                priority=chance.randint(1, 10),
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                output_tokens_max=int(output_tokens * chance.uniform(1, 2.5)),
                patience_ns=DAY_NS,
            )
        )
    return tasks


class Bounds:
    """Notes the bound of each request as it is told for the first time where it stands."""

    def __init__(self, engine: Engine) -> None:
        self.of: dict[RequestKey, Bound | None] = {}
        self._engine = engine

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        for effect in effects:
            if type(effect) is TellQueued and effect.key not in self.of:
                self.of[effect.key] = self._engine.records[effect.key].bound

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...


@dataclass(frozen=True, slots=True)
class Waited:
    """How long one waited for its start, or has, and within which time it was to start."""

    task: Task
    wait_ns: int
    bound_ns: int | None
    why: str

    @property
    def is_kept(self) -> bool:
        return self.bound_ns is None or self.wait_ns <= self.bound_ns


def play(
    machine: Machine, tasks: Sequence[Task], until_ns: int, rule: PlacementRule | None = None
) -> list[Waited]:
    """What became of everybody until all have started, or until then. No `rule`: the product's."""
    catalogue = _catalogue(machine)
    specs = tuple(
        ModelSpec(name=each.name, runner=each.blob, size_bytes=each.size_bytes, slots=machine.slots)
        for each in catalogue
    )
    names = [f"server-{number}" for number in range(machine.servers)]
    policy = EnginePolicy(
        backends=tuple(BackendPolicy(name=each, resident_max=machine.resident) for each in names),
        queue=QueuePolicy(queued_max=QUEUED_MAX, queued_per_agent_max=QUEUED_MAX),
        degradation=DegradationPolicy(is_automatic=False),
    )
    start = partial(_start, machine, catalogue)
    engine = Engine(policy, rule)
    bounds = Bounds(engine)
    world = World(engine, {each: Site(start=start, specs=specs) for each in names}, judge=bounds)
    world.add(tasks)
    stories, timeline = world.stories, world.timeline
    while timeline.now_ns < until_ns and sum(x.attempts > 0 for x in stories.values()) < len(tasks):
        timeline.run(min(until_ns, timeline.now_ns + STEP_NS))
    found = list[Waited]()
    for task in tasks:
        story, bound = stories.get(task.key), bounds.of.get(task.key)
        if story is None or bound is None:
            continue  # it has not come yet
        has_started = story.attempts > 0
        wait_ns = (story.started_ns if has_started else timeline.now_ns) - task.at_ns
        found.append(Waited(task, wait_ns, bound.ns, bound.why))
    return found


def _start(machine: Machine, catalogue: Catalogue) -> OllamaModel:
    settings = ServerSettings(
        num_parallel=machine.slots,
        max_loaded_models=machine.resident,
        memory_bytes=200 * GIB,
        log_entries_max=100_000,
        quirks=Quirks(slot_leak_chance=0.0),
    )
    return OllamaModel(catalogue, settings, tokens="first_and_last")


def _catalogue(machine: Machine) -> Catalogue:
    return Catalogue(
        [
            SimModel(
                name=name,
                blob=f"{number + 1:064x}",
                digest=f"{number + 101:064x}",
                size_bytes=SIZE_BYTES,
                parameter_count=7_000_000_000,
                architecture="llama",
                context_length_train=8_192,
                speed=Speed(
                    prefill_tokens_per_s=READ_TOKENS_PER_S,
                    decode_tokens_per_s=WRITE_TOKENS_PER_S,
                    load_bytes_per_s=SIZE_BYTES / load_s,
                    load_cached_bytes_per_s=SIZE_BYTES / load_s,
                    spawn_ms=0.0,
                    is_apart=True,
                ),
            )
            for number, (name, load_s) in enumerate(
                zip(machine.names, machine.loads_s, strict=True)
            )
        ]
    )
