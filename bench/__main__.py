"""python -m bench NAME [--quick] [--json FILE] [--svg FILE] [--trace FILE] [--ollama [URL]]"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import uvloop

from bench import (
    fairness,
    fleet,
    micro,
    models,
    monitors,
    path,
    pubsub,
    resilience,
    scheduling,
    sessions,
    soak,
)
from bench.fleet_ollama import NoOllama
from bench.result import Result
from broker.sim.workload_problem import WorkloadProblems


class Benchmark(Protocol):
    """A module of this package that can be run by its name."""

    def __call__(self, *, quick: bool) -> Awaitable[Result]: ...


BENCHMARKS: dict[str, Benchmark] = {
    "micro": micro.run,
    "fairness": fairness.run,
    "path": path.run,
    "fleet": fleet.run,
    "models": models.run,
    "monitors": monitors.run,
    "pubsub": pubsub.run,
    "resilience": resilience.run,
    "scheduling": scheduling.run,
    "sessions": sessions.run,
    "soak": soak.run,
}


async def _run(
    benchmarks: Mapping[str, Benchmark],
    *,
    quick: bool,
    json_file: Path | None,
    svg_file: Path | None,
) -> None:
    for name, benchmark in benchmarks.items():
        print(f"== {name}{' (quick)' if quick else ''}", flush=True)
        result = await benchmark(quick=quick)
        print(result.render(), flush=True)
        if json_file is not None:
            several = len(benchmarks) > 1
            result.write(json_file.with_stem(f"{json_file.stem}-{name}") if several else json_file)
        if svg_file is not None:
            result.draw(svg_file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Runs a benchmark.")
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--quick", action="store_true", help="small: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw fairness or scheduling here")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="play this to scheduling")
    parser.add_argument(
        "--ollama",
        nargs="?",
        const=os.environ.get("OLLAMA_HOST", ""),
        metavar="URL",
        help="play fleet on a real Ollama, OLLAMA_HOST's without URL; its models are loaded and "
        "unloaded",
    )
    options = parser.parse_args()
    names = list(BENCHMARKS) if options.name == "all" else [options.name]
    benchmarks = {name: BENCHMARKS[name] for name in names}
    if options.trace is not None:
        if "scheduling" not in benchmarks:
            parser.error("--trace is for scheduling")
        benchmarks["scheduling"] = partial(scheduling.run, trace=options.trace)
    if options.ollama is not None:
        if "fleet" not in benchmarks:
            parser.error("--ollama is for fleet")
        benchmarks["fleet"] = partial(fleet.run, ollama=options.ollama)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with TemporaryDirectory() as folder, runner:
        # What the brokers here keep is nobody else's.
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = folder
        try:
            runner.run(
                _run(benchmarks, quick=options.quick, json_file=options.json, svg_file=options.svg)
            )
        except (WorkloadProblems, NoOllama) as wrong:
            print(wrong, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
