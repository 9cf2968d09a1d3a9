"""Plays a workload through the real engine and simulated servers, and says what came of it.

Rules: everything follows from the workload, the servers, the policy and the seed; no clock is read.
The world ends when every request has ended: each has a deadline. The engine looks at its load every
second, as the daemon's sampler has it; sensors of host and GPU are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from broker.core.engine import Engine
from broker.core.policy import EnginePolicy
from broker.core.preloads import PreloadsView
from broker.core.requests import RequestKey
from broker.core.stimuli import LoadDue, WallClockSet
from broker.sim.fleet import Fleet, Job
from broker.sim.ollama_model_card import SimModel
from broker.sim.recording import Recording, Stretch
from broker.sim.sessions import SECOND_NS, Session, Sessions
from broker.sim.workload_day import wall_offset_ns
from broker.sim.workload_sites import GB, Backend, memory_bytes, models_of, site_of
from broker.sim.workload_spec import Workload
from broker.sim.world import World

LOOK_EVERY_NS: Final = SECOND_NS
STEPS_PER_WORD: Final = 2_000  # between two words on how far it has come

# Hears how many requests have ended, and about how many there will be.
Hear = Callable[[int, int], None]


class NeverEnds(Exception):
    """The world did not come to rest: a bug of the simulator or of the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A world at its end. `factor`: by how much time was stretched. `known_tokens`: how many of the
    tokens of prompts their servers had read before. `load_waits_ns`: how long requests waited while
    their models were loaded, those that did. `preloads`: loads ahead of need at the end, and
    `preloads_before` when what counts began."""

    jobs: tuple[Job, ...]
    stretches: tuple[Stretch, ...]
    models: tuple[SimModel, ...]
    backends: tuple[Backend, ...]
    loads_failed: int
    runner_starts: int
    factor: float
    capacity: int
    seed: int
    ended_ns: int
    assumed: tuple[str, ...]
    prompt_tokens: int
    known_tokens: int
    load_waits_ns: Mapping[RequestKey, int]
    preloads: PreloadsView
    preloads_before: PreloadsView


class Simulation:
    """One workload before some servers. Of `policy` everything holds but how much these servers
    can hold; servers that it does not name get what their own draft says. `make`: another engine,
    to compare with."""

    def __init__(
        self,
        workload: Workload,
        backends: Sequence[Backend],
        *,
        policy: EnginePolicy | None = None,
        seed: int | None = None,
        rho: float | None = None,
        make: Callable[[EnginePolicy], Engine] = Engine,
    ) -> None:
        self._make = make
        self._workload = workload
        self._backends = tuple(backends)
        self._models = models_of(workload.spec.models)
        self._seed = workload.spec.seed if seed is None else seed
        self._rho = workload.spec.rho if rho is None else rho
        known = {each.name: each for each in policy.backends} if policy is not None else {}
        backends_of_policy = tuple(
            replace(
                known.get(each.name, each.policy()),
                resident_max=each.resident_max,
                loaded_max=each.loaded_max,
                memory_bytes=each.memory_bytes,
            )
            for each in self._backends
        )
        base = policy or EnginePolicy(backends=backends_of_policy)
        self._policy = replace(base, backends=backends_of_policy, seed=self._seed)

    def play(
        self,
        hear: Hear | None = None,
        *,
        counts_from_ns: int = 0,
        look_every_ns: int = LOOK_EVERY_NS,
    ) -> Played:
        """To its end. WorkloadProblems where the workload cannot be played. `counts_from_ns`: what
        was before that is practice, for who reads `preloads_before`. `look_every_ns`: how often the
        engine looks at its load, which takes most of the time where little goes on."""
        sessions = Sessions(self._workload, self._models, self._seed)
        capacity = sum(each.slots * each.residents_of(self._models) for each in self._backends)
        planned, factor = sessions.planned(capacity, self._rho)
        until_ns = int(self._workload.spec.duration_s * SECOND_NS)
        fleet = Fleet(sessions, planned, seed=self._seed, until_ns=until_ns)
        recording = Recording({each.blob: each.name for each in self._models})
        world = World(
            self._make(self._policy),
            {each.name: site_of(each, self._models) for each in self._backends},
            judge=recording,
            on_end=fleet.ended,
        )
        world.feed(WallClockSet(wall_offset_ns(self._workload.spec)))
        fleet.begin(world)
        world.timeline.at(0, partial(_look, world, look_every_ns))
        before = [world.engine.preloads.view()]
        world.timeline.at(counts_from_ns, lambda: before.append(world.engine.preloads.view()))
        self._run(world, fleet, planned, hear)
        now_ns = world.timeline.now_ns
        recording.close(now_ns)
        assumed = [*self._workload.assumed, *self._too_large()]
        if sessions.unsized:
            assumed.append(
                f"{sessions.unsized} requests of the trace never ran: their sizes are those of "
                "others of the same model, drawn by the seed"
            )
        return Played(
            jobs=tuple(fleet.jobs),
            stretches=tuple(recording.stretches),
            models=self._models,
            backends=self._backends,
            loads_failed=recording.loads_failed,
            runner_starts=sum(each.model.runner_starts for each in world.servers.values()),
            factor=factor,
            capacity=capacity,
            seed=self._seed,
            ended_ns=now_ns,
            assumed=tuple(assumed),
            prompt_tokens=recording.prompt_tokens,
            known_tokens=recording.known_tokens,
            load_waits_ns=recording.load_waits_ns,
            preloads=world.engine.preloads.view(),
            preloads_before=before[-1],
        )

    def _too_large(self) -> Iterator[str]:
        for backend in self._backends:
            if backend.memory_bytes is None:
                continue
            has = f"{backend.name} has {backend.memory_bytes / GB:.3g} GB"
            for each in self._models:
                if memory_bytes(each) > backend.memory_bytes:
                    takes = f"{each.name} takes {memory_bytes(each) / GB:.3g} GB"
                    yield f"{takes} and {has}: part of it runs on the CPU, slowly"

    def _run(
        self, world: World, fleet: Fleet, planned: Sequence[Session], hear: Hear | None
    ) -> None:
        expected = sum(len(each.calls) for each in planned)
        steps = 0
        while not fleet.is_done:
            if not world.timeline.step(fleet.over_ns):
                raise NeverEnds(f"requests outlive their deadlines; seed {self._seed}")
            steps += 1
            if hear is not None and steps % STEPS_PER_WORD == 0:
                hear(fleet.jobs_ended, max(expected, len(fleet.jobs)))


def _look(world: World, every_ns: int) -> None:
    world.feed(LoadDue())
    world.timeline.after(every_ns, partial(_look, world, every_ns))
