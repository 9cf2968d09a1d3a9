"""Who is next on a server with some slots, in virtual time: the engine, and what it is held to.

`serve` plays jobs against a scheduler; a job takes its slot for its `service_s`, whoever else runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.workload import Job
from broker.core.effects import Effect, Refuse, StartAttempt
from broker.core.engine import Engine
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import AttemptId, Criticality, RequestKey, RequestKind, RequestSpec
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    LoadEnded,
    ModelsListed,
    ModelSpec,
    ResidentsSeen,
)

_NS = 1_000_000_000
_NEVER_NS = 10**18  # beyond the end of every run
_BACKEND, _RUNNER = "gpu", "blob"


@dataclass(frozen=True, slots=True)
class Served:
    """A job, when it got its slot, and when it was done; in seconds, as its arrival."""

    job: Job
    started_s: float
    ended_s: float

    @property
    def wait_s(self) -> float:
        return self.started_s - self.job.at_s

    @property
    def sojourn_s(self) -> float:
        return self.ended_s - self.job.at_s


class Scheduler(Protocol):
    """Each call returns the jobs that start now."""

    def arrive(self, job: Job, now_s: float) -> list[Job]: ...

    def end(self, job: Job, now_s: float) -> list[Job]: ...


def serve(jobs: Sequence[Job], scheduler: Scheduler) -> list[Served]:
    """Plays the jobs, which are in order of arrival, until the last is done."""
    started_s: dict[int, float] = {}
    ends: list[tuple[float, int, Job]] = []
    served = []

    def start(started: list[Job], now_s: float) -> None:
        for job in started:
            started_s[job.number] = now_s
            heapq.heappush(ends, (now_s + job.service_s, job.number, job))

    def end_until(until_s: float) -> None:
        while ends and ends[0][0] <= until_s:
            now_s, _, job = heapq.heappop(ends)
            served.append(Served(job, started_s[job.number], now_s))
            start(scheduler.end(job, now_s), now_s)

    for job in jobs:
        end_until(job.at_s)
        start(scheduler.arrive(job, job.at_s), job.at_s)
    end_until(float("inf"))
    if len(served) != len(jobs):
        raise RuntimeError(f"{len(served)} of {len(jobs)} jobs were served")
    return served


class Strict:
    """The better priority first, always; within one, first come, first served. Where all have one
    priority this is what Ollama does."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: list[tuple[int, int, Job]] = []
        self._arrived = 0

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        self._arrived += 1
        heapq.heappush(self._waiting, (job.priority, self._arrived, job))
        return self._start()

    def end(self, job: Job, now_s: float) -> list[Job]:
        self._free += 1
        return self._start()

    def _start(self) -> list[Job]:
        started = []
        while self._free and self._waiting:
            self._free -= 1
            started.append(heapq.heappop(self._waiting)[2])
        return started


class Fifo(Strict):
    """First come, first served, whatever a request says of itself."""

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        self._arrived += 1
        heapq.heappush(self._waiting, (0, self._arrived, job))
        return self._start()


class Ours:
    """The broker's engine, one model resident. No buckets, no bulkheads, deadlines far away; what
    its timers do (announcements, renewals) moves no request, so they are left out."""

    def __init__(self, slots: int, queued_max: int) -> None:
        self._engine = Engine(
            EnginePolicy(
                backends=(BackendPolicy(name=_BACKEND),),
                queue=QueuePolicy(
                    queued_max=queued_max,
                    queued_per_agent_max=queued_max,
                    queued_bytes_max=2**40,
                    live_max=queued_max * 2,
                ),
            )
        )
        self._jobs: dict[RequestKey, Job] = {}
        self._attempts: dict[int, AttemptId] = {}
        self._load(slots)

    def _load(self, slots: int) -> None:
        """Has the model loaded, as a first request makes it."""
        model = ModelSpec(name="m:latest", runner=_RUNNER, size_bytes=1, slots=slots)
        handle = self._engine.handle
        handle(ModelsListed(_BACKEND, (model,)), 0)
        handle(BackendSeen(_BACKEND, True), 0)
        handle(ResidentsSeen(_BACKEND, (), 0), 0)
        first = Job(-1, 0.0, "first", 5, "m:latest", 1, 1)
        self.arrive(first, 0.0)
        handle_ended = handle(LoadEnded(_BACKEND, _RUNNER), 0)
        self._started(handle_ended)
        self.end(first, 0.0)

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        spec = RequestSpec(
            key=(job.agent_id, str(job.number)),
            fingerprint=job.number.to_bytes(8, signed=True),
            kind=RequestKind.GENERATE,
            model="m:latest",
            priority=job.priority,
            criticality=Criticality.NORMAL,
            deadline_ns=_NEVER_NS,
            size_bytes=job.prompt_tokens * 4,
        )
        self._jobs[spec.key] = job
        return self._started(self._engine.handle(Arrived(spec), int(now_s * _NS)))

    def end(self, job: Job, now_s: float) -> list[Job]:
        attempt = self._attempts.pop(job.number)
        ended = AttemptEnded(attempt, None, job.prompt_tokens, job.output_tokens)
        return self._started(self._engine.handle(ended, int(now_s * _NS)))

    def _started(self, effects: list[Effect]) -> list[Job]:
        started = []
        for effect in effects:
            if isinstance(effect, Refuse):
                raise RuntimeError(f"a request was refused: {effect.error.message}")
            if isinstance(effect, StartAttempt):
                job = self._jobs.pop(effect.key)
                self._attempts[job.number] = effect.attempt
                started.append(job)
        return started
