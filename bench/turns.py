"""What the engine's turns cost, and what a queued request holds: one engine in one process.

    python -m bench.turns --queued 1000 --requests 5000 [--models 20] [--traced]

No RPC: stimuli go straight to `Engine.handle`. The fleet's 131 agents of three types with buckets
that never refuse, the seeds' bulkheads, all priorities, one model with SLOTS slots, or several that
take turns, each unloaded and loaded in no time. So many wait all the time; at each step one request
arrives, the oldest attempt ends, what is next starts and has its first token. A step is STEP_NS of
the engine's time, so that announcements come due as they would. Prints JSON: request_us (processor
time per step), held_bytes (per queued request).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections import deque
from hashlib import sha256
from sys import intern

import psutil

from bench.workload import AGENT_TYPES, SLOTS, Job, fleet_jobs
from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.effects import Effect, SetTimer, StartAttempt, Unload
from broker.core.effects import Load as LoadModel
from broker.core.engine import Engine
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import AttemptId, Criticality, RequestKind, RequestSpec
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    FirstToken,
    LoadEnded,
    ModelsListed,
    ModelSpec,
    Stimulus,
    TimerFired,
    UnloadEnded,
)
from broker.daemon.main import GC_THRESHOLD

SEED = 1
STEP_NS = 10_000_000  # 100 requests a second: many backends' worth, for each decides the engine
DEADLINE_NS = 10**15  # nothing expires
NEVER_REFUSED = BucketPolicy(per_minute=1e7)
BULKHEADS = {"opus": 10, "sonnet": 20, "critical": 5, "batch": 15}  # the seeds'
BACKEND, MODEL = "gpu", "fleet:latest"  # what is asked for where there is one model
BYTES_PER_TOKEN = 4


def policy(queued: int, *, is_told: bool) -> EnginePolicy:
    """The daemon's own, with room for what is to wait. `is_told`: those who wait hear of it."""
    queued_max = max(1_000, queued * 2)
    types = tuple(
        AgentTypePolicy(name=kind, match=(f"{kind}-*",), requests=NEVER_REFUSED)
        for kind, _ in AGENT_TYPES
    )
    return EnginePolicy(
        backends=(BackendPolicy(name=BACKEND),),
        queue=QueuePolicy(
            queued_max=queued_max,
            queued_per_agent_max=queued_max,
            queued_bytes_max=2**40,
            live_max=queued_max * 2,
            announce_interval_ns=1_000_000_000 if is_told else DEADLINE_NS,
        ),
        agents=AgentsPolicy(types=types, default_type="system", bulkheads=BULKHEADS),
    )


def spec_of(number: int, job: Job, model: str = MODEL) -> RequestSpec:
    """As the daemon makes it: an id and a fingerprint of its own, and names that are kept once."""
    fingerprint = sha256(number.to_bytes(8)).digest()
    return RequestSpec(
        key=(intern(job.agent_id), f"{fingerprint.hex()[:16]}-{number}"),
        fingerprint=fingerprint,
        kind=RequestKind.GENERATE,
        model=intern(model),
        priority=job.priority,
        criticality=Criticality.NORMAL,
        deadline_ns=DEADLINE_NS + number,
        size_bytes=job.prompt_tokens * BYTES_PER_TOKEN,
        preemptible=job.priority >= 8,
    )


class Load:
    """An engine and the stimuli that keep it busy."""

    def __init__(self, queued: int, *, is_told: bool, models: int = 1) -> None:
        self.engine = Engine(policy(queued, is_told=is_told))
        self._models = [MODEL, *(f"fleet-{number}:latest" for number in range(1, models))]
        self._jobs = fleet_jobs(SEED)
        self._drawn = 0
        self._now_ns = 1_000_000_000
        self._timer_ns = sys.maxsize
        self._running: deque[AttemptId] = deque()
        self._silent: list[AttemptId] = []  # those of them without a first token
        specs = [
            ModelSpec(name=name, runner=f"blob {name}", size_bytes=4_000_000_000, slots=SLOTS)
            for name in self._models
        ]
        self._feed(ModelsListed(BACKEND, tuple(specs)))
        self._feed(BackendSeen(BACKEND, True))
        self._feed(Arrived(self.draw()))

    def draw(self) -> RequestSpec:
        """The next request of the trace, which begins anew at its end."""
        self._drawn += 1
        job = self._jobs[self._drawn % len(self._jobs)]
        return spec_of(self._drawn, job, self._models[self._drawn % len(self._models)])

    def fill(self, queued: int) -> None:
        """Until so many wait. All at once: a flood, as fast as the engine takes it."""
        while self.engine.tally.queued < queued:
            self._now_ns += 1_000
            self._feed(Arrived(self.draw()))

    def step(self, spec: RequestSpec) -> None:
        """A request comes, another goes."""
        self._now_ns += STEP_NS
        if self._timer_ns <= self._now_ns:
            self._timer_ns = sys.maxsize
            self._feed(TimerFired())
        self._feed(Arrived(spec))
        job = self._jobs[self._drawn % len(self._jobs)]
        attempt = self._running.popleft()
        self._feed(AttemptEnded(attempt, None, job.prompt_tokens, job.output_tokens))
        for started in self._silent:
            self._feed(FirstToken(started))
        self._silent.clear()

    def _feed(self, stimulus: Stimulus) -> None:
        for effect in self.engine.handle(stimulus, self._now_ns):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        if type(effect) is StartAttempt:
            self._running.append(effect.attempt)
            self._silent.append(effect.attempt)
        elif type(effect) is SetTimer:
            self._timer_ns = effect.at_ns
        elif type(effect) is LoadModel:
            self._feed(LoadEnded(BACKEND, effect.runner))
        elif type(effect) is Unload:
            self._feed(UnloadEnded(BACKEND, effect.runner))


def _native_bytes(engine: Engine) -> int:
    """What tracemalloc does not see: memory taken from malloc itself. The queue's it does see."""
    return sys.getsizeof(engine.timers._heap) + sys.getsizeof(engine._quotas._buckets)


def measure(
    queued: int,
    requests: int,
    *,
    is_traced: bool = False,
    is_told: bool = True,
    models: int = 1,
) -> dict[str, float]:
    """See the module. Bytes are those of Python's objects and of the native parts if traced, else
    by how much the process has grown, which has the allocators' own needs in it."""
    load = Load(queued, is_told=is_told, models=models)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    process = psutil.Process()
    before = process.memory_info().rss
    if is_traced:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0] + _native_bytes(load.engine)
    load.fill(queued)
    gc.collect()
    after = process.memory_info().rss
    if is_traced:
        after = tracemalloc.get_traced_memory()[0] + _native_bytes(load.engine)
        tracemalloc.stop()
    figures = {"held_bytes": (after - before) / max(1, queued)}
    if requests:
        for spec in [load.draw() for _ in range(requests // 10)]:
            load.step(spec)
        specs = [load.draw() for _ in range(requests)]
        started_ns = time.process_time_ns()
        for spec in specs:
            load.step(spec)
        figures["request_us"] = (time.process_time_ns() - started_ns) / requests / 1e3
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, required=True, help="how many wait all the time")
    parser.add_argument("--requests", type=int, default=0, help="how many are measured")
    parser.add_argument("--models", type=int, default=1, help="how many are asked for in turn")
    parser.add_argument("--traced", action="store_true", help="count bytes with tracemalloc")
    parser.add_argument("--untold", action="store_true", help="announce nothing to what waits")
    options = parser.parse_args()
    figures = measure(
        options.queued,
        options.requests,
        is_traced=options.traced,
        is_told=not options.untold,
        models=options.models,
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
