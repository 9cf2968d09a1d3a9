"""python -m bench NAME [--quick] [--json FILE] [--svg FILE]"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import uvloop

from bench import fairness, fleet, micro, monitors, path, pubsub, resilience, soak
from bench.result import Result


class Benchmark(Protocol):
    """A module of this package that can be run by its name."""

    def __call__(self, *, quick: bool) -> Awaitable[Result]: ...


BENCHMARKS: dict[str, Benchmark] = {
    "micro": micro.run,
    "fairness": fairness.run,
    "path": path.run,
    "fleet": fleet.run,
    "monitors": monitors.run,
    "pubsub": pubsub.run,
    "resilience": resilience.run,
    "soak": soak.run,
}


async def _run(
    names: list[str], *, quick: bool, json_file: Path | None, svg_file: Path | None
) -> None:
    for name in names:
        print(f"== {name}{' (quick)' if quick else ''}", flush=True)
        result = await BENCHMARKS[name](quick=quick)
        print(result.render(), flush=True)
        if json_file is not None:
            several = len(names) > 1
            result.write(json_file.with_stem(f"{json_file.stem}-{name}") if several else json_file)
        if svg_file is not None:
            result.draw(svg_file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Runs a benchmark.")
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--quick", action="store_true", help="small: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw fairness here")
    options = parser.parse_args()
    names = list(BENCHMARKS) if options.name == "all" else [options.name]
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with TemporaryDirectory() as folder, runner:
        os.environ["XDG_STATE_HOME"] = folder  # what the brokers here keep is nobody else's
        runner.run(_run(names, quick=options.quick, json_file=options.json, svg_file=options.svg))
    return 0


if __name__ == "__main__":
    sys.exit(main())
