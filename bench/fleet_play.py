"""Plays the tasks of a cell by way of one rival on a real clock, and writes down what became of
them, in the words of `scheduling_play.py` and the fleet's own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

from bench.fleet_agents import Way, collation, engine, nothing
from bench.fleet_machine import Machine, reading_ns
from bench.processes import Measured
from bench.progress import Progress
from bench.rival_daemon import OWN
from bench.scheduling_play import Ended
from broker.core.requests import Outcome, RequestKey
from broker.sim.workload import Task

# By the names of `scheduling`, which plays the same in virtual time.
WAYS: Mapping[str, Callable[[Machine], AbstractAsyncContextManager[Way]]] = {
    "broker": partial(engine, rule=OWN),
    "exhaustive": partial(engine, rule="exhaustive"),
    "collation": collation,
    "patience": partial(engine, rule="patience"),
    "fifo": partial(nothing, sees_loads=True),
    "fifo_blind": partial(nothing, sees_loads=False),
}


@dataclass(frozen=True, slots=True)
class Leg:
    """One run. `loading_share`: of the time until the last arrival, that in which a load was under
    way. `cores`: how much of a core each process took. `told_ns`: between which moments each would
    start, as a broker's first word said."""

    ended: tuple[Ended, ...]
    loads: int
    loading_share: float
    cores: Mapping[str, float]
    wall_s: float
    told_ns: Mapping[RequestKey, tuple[int, int]]


async def play(name: str, machine: Machine, tasks: Sequence[Task], progress: Progress) -> Leg:
    """Sends each task at its time and waits for all endings."""
    async with WAYS[name](machine) as way:
        fleet = _Fleet(machine.speed, way, progress)
        watched = {"server": machine.process, "broker": way.process}
        before = {what: _cpu_s(process) for what, process in watched.items()}
        own_s = time.process_time()
        playing = [asyncio.create_task(fleet.one(task)) for task in tasks]
        await asyncio.sleep(fleet.until_s(tasks[-1].at_ns))
        arrived = await machine.meter.loads()
        ended = await asyncio.gather(*playing)
        wall_s = fleet.gone_ns() / machine.speed / 1e9
        cores = {
            what: (_cpu_s(process) - before[what]) / wall_s
            for what, process in watched.items()
            if process is not None
        }
        cores["agents"] = (time.process_time() - own_s) / wall_s
        loads = await machine.meter.loads()
        told_ns = dict(way.told_ns)
    return Leg(
        ended=tuple(ended),
        loads=loads.begun,
        loading_share=arrived.under_way_ns / tasks[-1].at_ns,
        cores=cores,
        wall_s=wall_s,
        told_ns=told_ns,
    )


def _cpu_s(process: Measured | None) -> float:
    return 0.0 if process is None else process.cpu_s()


class _Fleet:
    """The fleet's clock, from the moment it is made, and its agents on it."""

    def __init__(self, speed: float, way: Way, progress: Progress) -> None:
        self._speed, self._way, self._progress = speed, way, progress
        self._began_ns = time.monotonic_ns()

    def gone_ns(self) -> int:
        return int((time.monotonic_ns() - self._began_ns) * self._speed)

    def until_s(self, at_ns: int) -> float:
        """How long we wait for a moment of the fleet's."""
        return max(0, at_ns - self.gone_ns()) / self._speed / 1e9

    async def one(self, task: Task) -> Ended:
        """What became of a task. It counts from when it was really sent. A slot is taken as long
        before the first token as reading the prompt takes."""
        await asyncio.sleep(self.until_s(task.at_ns))
        late_ns = self.gone_ns() - task.at_ns
        first_ns: list[int] = []
        outcome = await self._way.send(task, lambda: first_ns.append(self.gone_ns() - late_ns))
        ended_ns = self.gone_ns() - late_ns
        started_ns = max(task.at_ns, first_ns[0] - reading_ns(task)) if first_ns else -1
        model = task.model if first_ns else ""
        one = Ended(task, outcome, started_ns, ended_ns, model)
        self._progress.ended(is_in_time=one.is_in_time)
        return one


def count(leg: Leg, *outcomes: Outcome) -> int:
    return sum(each.outcome in outcomes for each in leg.ended)
