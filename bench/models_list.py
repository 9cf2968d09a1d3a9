"""The list of models by itself, with as many as there may be: in a process of its own.

    python -m bench.models_list filter|write|build [--models 10000] [--variants 20] [--rounds 5]

`filter`: how long the worst ordinary question for a page of 100 takes, in milliseconds. `write`:
how long the loop waits at most while the list is kept, and while it is not. `build`: the same while
the library tells all of it. Each prints a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

import uvloop

from bench.models_data import facts_of, library_models
from broker.core.library import LibraryModel
from broker.daemon.main import settle_memory
from broker.models.gathering import Gathering
from broker.models.index import Availability, ModelIndex, ModelQuery, Order
from broker.models.slices import at_once, in_slices
from broker.state.model_cache import ModelCache

MODELS: Final = 10_000
VARIANTS: Final = 20
ON_BACKENDS: Final = 500
PAGE: Final = 100
BACKEND: Final = "upstream"
URL: Final = "http://127.0.0.1:9"  # nobody listens there

# How often the loop looks how late it is.
TICK_S: Final = 0.0005

ALL, MORE = Availability.ALL, Availability.DOWNLOADABLE
TOOLS = frozenset({"tools"})
QUESTIONS: Final = {
    "downloaded": ModelQuery(),
    "everything": ModelQuery(availability=ALL),
    "nothing": ModelQuery(availability=ALL, search="zzz"),
    "one word": ModelQuery(availability=ALL, search="coder"),
    "size in its name": ModelQuery(availability=ALL, search="8b"),
    "name and tag": ModelQuery(availability=ALL, search="llama:8b"),
    "all at once": ModelQuery(
        search="coder q4 8b",
        availability=MORE,
        capabilities=TOOLS,
        size_bytes_max=8_000_000_001,
        context_min=8_192,
        exclude_guards=True,
    ),
    "many hits": ModelQuery(
        search="model of", availability=ALL, capabilities=TOOLS, size_bytes_max=30_050_000_000
    ),
}


def gathered(models: Sequence[LibraryModel]) -> Gathering:
    """What the library told, and one backend that has some of it."""
    index = ModelIndex()
    gathering = Gathering(index, lambda: {BACKEND: URL}, lambda: time.time_ns() // 1_000_000)
    at_once(gathering.library(models))
    gathering.listed(BACKEND, facts_of(models, ON_BACKENDS))
    return gathering


def filter_ms(index: ModelIndex, rounds: int) -> dict[str, float]:
    """By question, in the worst order, the median; for the first page and for the second."""
    found: dict[str, float] = {}
    for (name, query), order in product(QUESTIONS.items(), Order):
        token = index.page(query, order, "", PAGE).next_token
        for after in {"", token}:
            took = [_page_ms(index, query, order, after) for _ in range(rounds)]
            found[name] = max(found.get(name, 0.0), statistics.median(took))
    return found


def _page_ms(index: ModelIndex, query: ModelQuery, order: Order, token: str) -> float:
    began = time.perf_counter()
    index.page(query, order, token, PAGE)
    return (time.perf_counter() - began) * 1e3


async def longest_wait_ms(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """(the longest that the loop was late while this was done, how long it took), in ms."""
    late_s = 0.0
    is_over = False

    async def tick() -> None:
        nonlocal late_s
        while not is_over:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            late_s = max(late_s, time.perf_counter() - due)

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(TICK_S)
    began = time.perf_counter()
    await work()
    took_s = time.perf_counter() - began
    is_over = True
    await ticking
    return late_s * 1e3, took_s * 1e3


async def stalls(
    work: Callable[[], Awaitable[object]], rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Medians over the rounds, each beside a wait of the same length in which nothing is done."""
    late, took, quiet = [], [], []
    for _ in range(rounds):
        before()
        late_ms, took_ms = await longest_wait_ms(work)
        late.append(late_ms)
        took.append(took_ms)
        quiet.append((await longest_wait_ms(partial(asyncio.sleep, took_ms / 1e3)))[0])
    return {
        "stall_ms": statistics.median(late),
        "stall_ms_max": max(late),
        "took_ms": statistics.median(took),
        "quiet_stall_ms": statistics.median(quiet),
    }


async def write(gathering: Gathering, rounds: int) -> dict[str, float]:
    """How long the loop waits while all of it is written, and how large the file is."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model_cache.json"
        goes_ms: list[float] = []
        begun_s = 0.0

        def rest(seconds: float) -> None:
            nonlocal begun_s
            goes_ms.append((time.thread_time() - begun_s) * 1e3)
            time.sleep(seconds)
            begun_s = time.thread_time()

        cache = ModelCache(file, sleep=rest)

        async def keep() -> None:
            if not await cache.write(*gathering.to_keep()):
                raise RuntimeError("the list was not written")

        found = await stalls(keep, rounds, before=goes_ms.clear)
        # What the writer computes in one go, by the processor's time: the part of a wait that is
        # its own doing, whatever else the machine does. The first one begins with the thread.
        found["go_ms_max"] = max(goes_ms[1:])
        return {**found, "file_mb": file.stat().st_size / 1e6}


async def build(
    gathering: Gathering, models: Sequence[LibraryModel], rounds: int
) -> dict[str, float]:
    """How long the loop waits while the library tells all of it, and it is another each time."""
    told = [tuple(models[1:]), tuple(models)]

    async def take() -> None:
        await in_slices(gathering.library(told[0]))

    return await stalls(take, rounds, before=told.reverse)


async def _main(options: argparse.Namespace) -> dict[str, float]:
    models = library_models(options.models, options.variants)
    gathering = gathered(models)
    settle_memory()
    if options.what == "filter":
        return filter_ms(gathering.index, options.rounds)
    if options.what == "write":
        return await write(gathering, options.rounds)
    return await build(gathering, models, options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.models_list")
    parser.add_argument("what", choices=["filter", "write", "build"])
    parser.add_argument("--models", type=int, default=MODELS)
    parser.add_argument("--variants", type=int, default=VARIANTS)
    parser.add_argument("--rounds", type=int, default=5)
    print(json.dumps(uvloop.run(_main(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
