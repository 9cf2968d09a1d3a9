"""A real Ollama as the server of `fleet`: the models that are there, as quick as they are measured.

How many it holds it does not tell: it is to be started for the cell, with OLLAMA_MAX_LOADED_MODELS
and OLLAMA_NUM_PARALLEL as that says. The fleet's clock is then as much faster than ours as these
models load faster than those of the cell do on average, but not faster than SPEED_MAX, and sizes
are scaled so that what a request takes alone, by the measured rates, is what it is to take on that
clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec

from bench.fleet_machine import ANSWER_BYTES_MAX, WORD, Loads, Machine
from bench.scheduling_cells import SECOND_NS, Cell
from bench.workload import DECODE_TOKENS_PER_S, MODELS, PREFILL_TOKENS_PER_S
from broker.backends.ollama_host import parse_host
from broker.sim.workload import Task

SPEED_MAX = 30.0  # what this machine itself costs counts so many times
LEG_S = 120.0  # about so long may one rival take
REQUESTS_MIN, REQUESTS_QUICK = 60, 20
LOOK_S = 0.1
PROBE_PROMPT_TOKENS, PROBE_OUTPUT_TOKENS = 256, 32
# Together they are within the smallest context that an Ollama gives by itself.
PROMPT_TOKENS_MAX, OUTPUT_TOKENS_MAX = 2_500, 1_000


class NoOllama(Exception):
    """There is none that could be played on; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealModel:
    """A model as it was measured alone, in our seconds."""

    name: str
    load_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """A server and its models, by the names of those that they play."""

    url: str
    cell: Cell
    models: Mapping[str, RealModel]
    speed: float

    def tasks(self, tasks: Sequence[Task], *, quick: bool) -> list[Task]:
        """As many as there is time for, of as many models as there are."""
        begun_ns = [each.at_ns / self.speed <= LEG_S * SECOND_NS for each in tasks]
        many = REQUESTS_QUICK if quick else max(REQUESTS_MIN, sum(begun_ns))
        names = list(self.models)
        place = {each.name: number for number, each in enumerate(MODELS)}
        return [replace(each, model=names[place[each.model] % len(names)]) for each in tasks[:many]]

    def words(self) -> list[str]:
        """What it was played on."""
        lines = [
            f"Ollama at {self.url}, to be started with OLLAMA_MAX_LOADED_MODELS="
            f"{self.cell.resident} and OLLAMA_NUM_PARALLEL={self.cell.slots}; the fleet's clock "
            f"runs {self.speed:.1f} times as fast as ours.",
            "",
        ]
        for plays, each in self.models.items():
            lines.append(
                f"- {each.name} as {plays}: loads in {each.load_s:.2f} s, reads "
                f"{each.prefill_tokens_per_s:.0f} and makes {each.decode_tokens_per_s:.0f} tokens/s"
            )
        return [*lines, ""]

    @asynccontextmanager
    async def machine(self) -> AsyncIterator[Machine]:
        """The server with nothing loaded."""
        async with _session() as session:
            server = _Server(self.url, session)
            await server.unload_all()
            meter = _Meter(server, self)
            looking = asyncio.create_task(meter.run())
            try:
                yield Machine(self.url, self.speed, self.cell, _Wording(self), meter, None)
            finally:
                looking.cancel()
                await asyncio.wait({looking})


async def find(address: str, cell: Cell) -> Found:
    """Measures what answers there; `address` is read as OLLAMA_HOST is. NoOllama where nothing
    does, or fewer than two models could be asked."""
    url = parse_host(address).client_url
    async with _session() as session:
        server = _Server(url, session)
        try:
            names = await server.names()
            if len(names) < 2:
                raise NoOllama(f"{url} has {len(names)} models that generate text: two are needed")
            measured = [await server.measure(name) for name in names[: len(MODELS)]]
            await server.unload_all()
        except (aiohttp.ClientError, KeyError, msgspec.DecodeError) as error:
            raise NoOllama(f"{url} does not serve as an Ollama does: {error}") from error
    played = sorted(MODELS[: len(measured)], key=lambda each: each.load_s)
    by_load = sorted(measured, key=lambda each: each.load_s)
    models = {one.name: other for one, other in zip(played, by_load, strict=True)}
    in_order = {each.name: models[each.name] for each in MODELS if each.name in models}
    speed = sum(each.load_s for each in played) / sum(each.load_s for each in measured)
    return Found(url, cell, in_order, min(speed, SPEED_MAX))


class _Wording:
    """Sizes as the model's own rates make them what they are meant to be. Nobody can tell a real
    model how long its answer is to be: it is asked for no more than that."""

    def __init__(self, found: Found) -> None:
        self._found = found

    def model(self, task: Task) -> str:
        return self._found.models[task.model].name

    def prompt(self, task: Task) -> str:
        rate = self._found.models[task.model].prefill_tokens_per_s / PREFILL_TOKENS_PER_S
        tokens = int(task.prompt_tokens * rate / self._found.speed)
        return f"{task.request_id}{WORD * max(1, min(tokens, PROMPT_TOKENS_MAX))}"

    def output_max(self, task: Task) -> int:
        rate = self._found.models[task.model].decode_tokens_per_s / DECODE_TOKENS_PER_S
        tokens = int(task.output_tokens * rate / self._found.speed)
        return max(1, min(tokens, OUTPUT_TOKENS_MAX))


class _Meter:
    """Counts the models that appear, each with the load that was measured: no Ollama tells more.
    A load that was given up is not seen."""

    def __init__(self, server: _Server, found: Found) -> None:
        self._server, self._speed = server, found.speed
        self._load_s = {each.name: each.load_s for each in found.models.values()}
        self._there: set[str] = set()
        self._begun = 0
        self._under_way_s = 0.0

    async def loads(self) -> Loads:
        return Loads(self._begun, int(self._under_way_s * self._speed * SECOND_NS))

    async def loading(self) -> str | None:
        return None

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            there = set(await self._server.residents())
            for name in there - self._there:
                self._begun += 1
                self._under_way_s += self._load_s.get(name, 0.0)
            self._there = there
            await asyncio.sleep(LOOK_S)


class _Server:
    """What is asked of it beside the fleet's work."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def names(self) -> list[str]:
        """Of the models that generate text, smallest first; one of those that are the same."""
        listed = (await self._get("/api/tags"))["models"]
        able = [each for each in listed if "completion" in each.get("capabilities", ["completion"])]
        able.sort(key=lambda each: (int(each["size"]), str(each["name"])))
        return list({each["digest"]: str(each["name"]) for each in reversed(able)}.values())[::-1]

    async def residents(self) -> list[str]:
        return [each["name"] for each in (await self._get("/api/ps"))["models"]]

    async def unload_all(self) -> None:
        while there := await self.residents():
            for name in there:
                await self._ask({"model": name, "keep_alive": 0, "stream": False})
            await asyncio.sleep(LOOK_S)

    async def measure(self, name: str) -> RealModel:
        """Its load from the page cache, as it is in a run, and how fast it reads and speaks."""
        load_s = 0.0
        for _ in range(2):
            await self.unload_all()
            began_s = time.monotonic()
            await self._ask({"model": name, "stream": False})
            load_s = time.monotonic() - began_s
        began_s = time.monotonic()
        first_s, last = 0.0, b""
        body = {
            "model": name,
            "prompt": WORD * PROBE_PROMPT_TOKENS,
            "options": {"num_predict": PROBE_OUTPUT_TOKENS},
        }
        async with self._session.post(f"{self._url}/api/generate", json=body) as answer:
            answer.raise_for_status()
            async for piece in answer.content:
                last = piece
                first_s = first_s or time.monotonic()
        said = msgspec.json.decode(last)
        decoding_s = max(1e-3, time.monotonic() - first_s)
        return RealModel(
            name=name,
            load_s=load_s,
            prefill_tokens_per_s=said["prompt_eval_count"] / max(1e-3, first_s - began_s),
            decode_tokens_per_s=max(1, said["eval_count"] - 1) / decoding_s,
        )

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._session.get(f"{self._url}{path}") as answer:
            answer.raise_for_status()
            document: dict[str, Any] = await answer.json()
            return document

    async def _ask(self, body: Mapping[str, Any]) -> None:
        async with self._session.post(f"{self._url}/api/generate", json=body) as answer:
            answer.raise_for_status()
            await answer.read()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), read_bufsize=ANSWER_BYTES_MAX
    )
