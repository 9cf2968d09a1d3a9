"""What a seed stands for: servers, models, agents, their tasks, and what goes wrong.

Swarm testing: the seed first decides which kinds of agents, of requests and of faults there are at
all; a world with everything in it finds less than many worlds with a few things each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from broker.core.breaker import BreakerPolicy
from broker.core.model_name import comparison_key
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.preload import PreloadPolicy
from broker.core.stimuli import ModelSpec
from broker.core.time_outs import TimeOutPolicy, TimeOuts
from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.workload import Task, hash_of
from broker.sim.world import Site
from broker.sim.world_faults import GENTLE, Fault, FaultKind
from tests.sim.draw_faults import draw_faults
from tests.sim.draw_tasks import (
    PATIENT_NS,
    draw_tasks,
    make_flexible,
    make_sessions,
    mark_preemptible,
)
from tests.sim.people import Order, draw_agents, draw_moves, draw_orders, draw_queue, has_moves

SECOND_NS: Final = 1_000_000_000
# Models are loaded ahead of need on the slightest hope.
EAGER: Final = PreloadPolicy(is_enabled=True, probability_min=0.05, margin=1.0, idle_ns=0)
USUAL_CTX: Final = 4096
CTX_MAX: Final = 16_384
# As the daemon has them: without, what is half open would be waited for as long as its caller does.
TIME_OUTS: Final = TimeOutPolicy(
    of_all=TimeOuts(first_token_ns=300 * SECOND_NS, token_gap_ns=300 * SECOND_NS)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDraft:
    """One server as it was drawn."""

    name: str
    policy: BackendPolicy
    models: tuple[SimModel, ...]
    settings: ServerSettings
    specs: dict[str, ModelSpec] = field(repr=False)  # by comparison key
    seed: int

    def start(self) -> OllamaModel:
        return OllamaModel(
            Catalogue(self.models), self.settings, self.seed, tokens="first_and_last"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a seed decides. `calm_ns`: all has arrived, and all faults are over."""

    seed: int
    policy: EnginePolicy
    sites: tuple[SiteDraft, ...]
    tasks: tuple[Task, ...]
    faults: tuple[Fault, ...]
    orders: tuple[Order, ...]
    calm_ns: int
    load_timeout_ns: int

    @property
    def is_gentle(self) -> bool:
        """Does nothing but the broker decide what the servers hold, and knows it all of them?"""
        return not self.moves_backends and all(each.kind in GENTLE for each in self.faults)

    @property
    def moves_backends(self) -> bool:
        """Is a backend not configured for a while?"""
        return has_moves(self.orders, self.policy)

    @property
    def kinds(self) -> frozenset[FaultKind]:
        return frozenset(each.kind for each in self.faults)

    @property
    def loses_models(self) -> bool:
        """May a model not be on disk, or its backend not be configured, for a while?"""
        return FaultKind.DELETED in self.kinds or self.moves_backends

    def first_turn_ns(self, at_ns: int) -> int:
        """The first moment from then on at which the broker is not stopped."""
        stops = [each for each in self.faults if each.kind is FaultKind.BROKER_STOPPED]
        for each in sorted(stops, key=lambda stop: stop.at_ns):
            if each.at_ns <= at_ns < each.end_ns:
                at_ns = each.end_ns
        return at_ns

    @property
    def model_names(self) -> list[str]:
        return sorted({model.name for site in self.sites for model in site.models})

    def site(self, name: str) -> SiteDraft:
        return next(each for each in self.sites if each.name == name)

    def world_sites(self) -> dict[str, Site]:
        return {
            each.name: Site(start=each.start, specs=tuple(each.specs.values()))
            for each in self.sites
        }

    def spec(self, backend: str, model: str) -> ModelSpec | None:
        return self.site(backend).specs.get(comparison_key(model))

    def is_exclusive(self, backend: str) -> bool:
        return self.site(backend).policy.exclusive

    def _any_spec(self, model: str) -> ModelSpec | None:
        specs = (self.spec(each.name, model) for each in self.sites)
        return next((each for each in specs if each), None)

    def num_ctx_max(self, model: str) -> int:
        spec = self._any_spec(model)
        return max(USUAL_CTX, spec.num_ctx_max) if spec else 0

    def runners(self, task: Task) -> frozenset[str]:
        """Those of all models that it accepts."""
        specs = (self._any_spec(each) for each in (task.model, *task.fallback_models))
        return frozenset(each.runner for each in specs if each)

    def line(self, task: Task) -> tuple[str, int]:
        """Where the task waits, if for its own model: the runner, and its context where that is not
        the usual one."""
        spec = self._any_spec(task.model)
        if spec is None:
            return "", 0
        if task.num_ctx_needed <= USUAL_CTX:
            return spec.runner, 0
        power = USUAL_CTX
        while power < task.num_ctx_needed:
            power *= 2
        return spec.runner, min(power, spec.num_ctx_max)

    def service_ns(self, task: Task) -> int:
        """What the task takes on a server that is busy with others in all its slots, at most."""
        seconds = task.prompt_tokens / 1000 + task.output_tokens / 10
        return int(seconds * SECOND_NS)

    def wave(self, at_ns: int) -> tuple[Task, ...]:
        """Patient requests for every model, all at once: what must be served when all is well."""
        names = self.model_names
        return tuple(
            Task(
                at_ns=at_ns + number,
                agent_id=f"wave-{number % 5}",
                request_id=f"wave-{number}",
                model=names[number % len(names)],
                priority=1 + number % 10,
                prompt_tokens=50,
                output_tokens=20 + number,
                patience_ns=PATIENT_NS,
            )
            for number in range(min(4 * len(names), self.policy.queue.queued_max))
        )


def draw(seed: int) -> Scenario:
    """The scenario of a seed, the same for ever."""
    chance = Random(seed)
    has_aliases, is_tight = chance.random() < 0.5, chance.random() < 0.3
    has_large = not is_tight and chance.random() < 0.4
    models = _draw_models(chance, has_aliases=has_aliases)
    count = chance.choice((1, 1, 2, 3))
    sites = tuple(
        _draw_site(chance, f"s{number}", models, is_tight=is_tight) for number in range(count)
    )
    horizon_ns = chance.randint(60, 400) * SECOND_NS
    names = sorted({model.name for site in sites for model in site.models})
    tasks = draw_tasks(chance, names, horizon_ns, has_large=has_large)
    tasks = mark_preemptible(Random(f"marks of {seed}"), tasks)
    places = [(site.name, [each.name for each in site.models]) for site in sites]
    faults = draw_faults(chance, places, horizon_ns)
    policy = EnginePolicy(
        backends=tuple(site.policy for site in sites),
        queue=draw_queue(chance),
        agents=draw_agents(chance),
        placement=PlacementPolicy(
            keep_alive_ns=chance.choice((20, 600)) * SECOND_NS,
            failed_load_hold_ns=chance.choice((5, 60)) * SECOND_NS,
            num_ctx_hold_ns=chance.choice((15, 600)) * SECOND_NS,
        ),
    )
    policy = replace(policy, time_outs=TIME_OUTS, breaker=_draw_breaker(chance))
    if Random(f"ahead in {seed}").random() < 0.3:
        policy = replace(policy, preload=EAGER)
    if not any(of.tokens or of.all_tokens for of in policy.agents.types):
        # Else what is reserved would depend on which of its models it waits for.
        tasks = make_flexible(Random(f"flexible in {seed}"), tasks, names)
    tasks = make_sessions(Random(f"sessions of {seed}"), tasks)
    agents = sorted({task.agent_id for task in tasks})
    moves = draw_moves(Random(f"moves of {seed}"), policy, horizon_ns)
    orders = (*draw_orders(chance, policy, agents, horizon_ns), *moves)
    calm_ns = max([horizon_ns, *(each.end_ns for each in faults)]) + SECOND_NS
    return Scenario(
        seed=seed,
        policy=policy,
        sites=sites,
        tasks=tasks,
        faults=faults,
        orders=tuple(sorted(orders, key=lambda each: each[0])),
        calm_ns=calm_ns,
        # Shorter than what Ollama waits: a load that says nothing is a sign that the server hangs.
        load_timeout_ns=Random(f"loads of {seed}").choice((60, 60, 600)) * SECOND_NS,
    )


def _draw_breaker(chance: Random) -> BreakerPolicy:
    return BreakerPolicy(
        failures=chance.choice((2, 5)),
        slow_ns=300 * SECOND_NS,
        open_ns=chance.choice((5, 60)) * SECOND_NS,
        open_ns_max=120 * SECOND_NS,
    )


def _draw_models(chance: Random, *, has_aliases: bool) -> list[SimModel]:
    models = []
    for number in range(chance.randint(2, 6)):
        size_bytes = chance.randint(2, 8) * GIB
        load_s = chance.randint(1, 20)
        model = SimModel(
            name=f"m{number}:latest",
            blob=f"{hash_of('blob', str(number)):064x}",
            digest=f"{hash_of('digest', str(number)):064x}",
            size_bytes=size_bytes,
            parameter_count=size_bytes,
            architecture="llama",
            kv_heads=1,
            layers=8,
            context_length_train=chance.choice((8192, 32_768)),
            speed=Speed(
                prefill_tokens_per_s=float(chance.choice((1000, 5000))),
                decode_tokens_per_s=float(chance.choice((40, 120))),
                batch_slowdown=chance.choice((0.0, 0.2)),
                load_bytes_per_s=size_bytes / load_s,
                load_cached_bytes_per_s=size_bytes / max(1, load_s // 3),
            ),
        )
        models.append(model)
        if has_aliases and chance.random() < 0.5:
            other = f"{hash_of('digest of alias', str(number)):064x}"
            models.append(replace(model, name=f"alias{number}:latest", digest=other))
    return models


def _draw_site(chance: Random, name: str, models: list[SimModel], *, is_tight: bool) -> SiteDraft:
    # All names of one file together: a request may run under another name of what it asked for.
    files = sorted({each.blob for each in models})
    there = {blob for blob in files if chance.random() < 0.8} or set(files)
    has = [each for each in models if each.blob in there]
    resident_max, slots = chance.randint(1, 3), chance.choice((1, 2, 4))
    # Tight: the bytes decide, not the count. What Ollama wants free beside a model is more than
    # what the model takes (it fills a GPU to 80 % and counts 768 MiB for a larger batch).
    planned_bytes = chance.randint(6, 16) * GIB
    memory_bytes = int((planned_bytes + GIB) / 0.8) if is_tight else 2048 * GIB
    # Where bytes decide, some servers hold one more: the next model is loaded ahead there.
    loaded_max = resident_max + (is_tight and slots > 1)
    specs = {
        comparison_key(each.name): ModelSpec(
            name=each.name,
            runner=each.blob,
            size_bytes=each.size_bytes,
            slots=slots,
            num_ctx=_usual_ctx(each),
            num_ctx_max=min(CTX_MAX, each.context_length_train),
        )
        for each in has
    }
    return SiteDraft(
        name=name,
        policy=BackendPolicy(
            name=name,
            resident_max=resident_max,
            loaded_max=loaded_max,
            memory_bytes=planned_bytes if is_tight else None,
            exclusive=chance.random() < 0.3,
            may_restart=slots > 1,  # by a command of the operator's, once it is wedged
        ),
        models=tuple(has),
        settings=ServerSettings(
            num_parallel=slots,
            max_loaded_models=loaded_max,
            context_length=USUAL_CTX,
            memory_bytes=memory_bytes,
            quirks=Quirks(slot_leak_chance=0.0),
        ),
        specs=specs,
        seed=chance.randrange(1 << 30),
    )


def _usual_ctx(model: SimModel) -> int | None:
    """Configured for half of the models, by their weights: all names of one have the same."""
    return USUAL_CTX if int(model.blob, 16) % 2 else None
