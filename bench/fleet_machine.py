"""What the rivals of `fleet` are put before: a server over real sockets, and how to speak to it.

A fleet has its own clock: one of its seconds is `1 / speed` of ours. Sizes, loads and patience are
those of a cell of `scheduling`, in the fleet's seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from bench.processes import Measured, running
from bench.scheduling_cells import SECOND_NS, Cell
from bench.scheduling_play import CONTEXT, SIZE_BYTES
from bench.workload import DECODE_TOKENS_PER_S, MODELS, PREFILL_TOKENS_PER_S, FleetModel
from broker.sim.workload import Task

MEMORY_GB = 200
WORD = " word"  # a token of the simulator's; about one of a real model's
ANSWER_BYTES_MAX = 2**22  # of one line: the last one has the tokens of the whole prompt


@dataclass(frozen=True, slots=True)
class Loads:
    """So far: how many were begun, and for how long one was under way, in the fleet's time."""

    begun: int
    under_way_ns: int


class Wording(Protocol):
    """How a task is said to the server."""

    def model(self, task: Task) -> str: ...

    def prompt(self, task: Task) -> str: ...

    def output_max(self, task: Task) -> int: ...


class Meter(Protocol):
    """Looks at what the server does, from outside."""

    async def loads(self) -> Loads: ...

    async def loading(self) -> str | None:
        """The model that is being loaded now; None also where a server does not tell."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """A server with nothing loaded. `process` where it is ours."""

    url: str
    speed: float
    cell: Cell
    wording: Wording
    meter: Meter
    process: Measured | None


class SimulatedWording:
    """The simulated models are told the length of their answer by their prompt, which a broker does
    not read; they are asked for as much as the task asks for at most."""

    def model(self, task: Task) -> str:
        return task.model

    def prompt(self, task: Task) -> str:
        return f"{task.output_tokens} {task.request_id}{WORD * task.prompt_tokens}"

    def output_max(self, task: Task) -> int:
        return task.output_tokens_max


class SimulatedMeter:
    """The simulator tells."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def loads(self) -> Loads:
        state = await self._state()
        return Loads(state["runner_starts"], state["loading_ns"])

    async def loading(self) -> str | None:
        name: str | None = (await self._state())["loading"]
        return name

    async def _state(self) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._url}/sim/state") as answer,
        ):
            state: dict[str, Any] = await answer.json()
            return state


@asynccontextmanager
async def simulated(cell: Cell, speed: float) -> AsyncIterator[Machine]:
    """An `ollama-sim` of its own, with the models and the places of the cell."""
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / "models.toml"
        catalogue.write_text("".join(map(_entry, MODELS)))
        arguments = ["-m", "broker.sim.ollama_sim", "--port", "0", "--speed", str(speed)]
        arguments += ["--models", str(catalogue), "--num-parallel", str(cell.slots)]
        arguments += ["--max-loaded", str(cell.resident), "--memory-gb", str(MEMORY_GB)]
        arguments += ["--context-length", str(CONTEXT)]
        async with running(arguments, ready="listening on") as process:
            url = process.ready_line.split("listening on ")[1].split()[0]
            yield Machine(url, speed, cell, SimulatedWording(), SimulatedMeter(url), process)


def _entry(model: FleetModel) -> str:
    """As in `scheduling`: requests do not slow one another, so that rho means what it says."""
    rate = SIZE_BYTES / model.load_s
    return f"""
    [[model]]
    name = "{model.name}"
    size_bytes = {SIZE_BYTES}
    context_length_train = {CONTEXT}
    [model.speed]
    prefill_tokens_per_s = {PREFILL_TOKENS_PER_S}
    decode_tokens_per_s = {DECODE_TOKENS_PER_S}
    load_bytes_per_s = {rate}
    load_cached_bytes_per_s = {rate}
    spawn_ms = 0.0
    is_apart = true
    [model.says]
    kind = "told"
    """


def reading_ns(task: Task) -> int:
    """From a slot to the first token, which is the first that an agent sees."""
    seconds = task.prompt_tokens / PREFILL_TOKENS_PER_S + 1 / DECODE_TOKENS_PER_S
    return int(seconds * SECOND_NS)


def agents_session() -> aiohttp.ClientSession:
    """Agents are processes of their own: each call has its own connection, and no limit but its
    agent's."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=ANSWER_BYTES_MAX,
    )
