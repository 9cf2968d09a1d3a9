"""What feeling the machine costs: processor time of sampling host and GPU, in percent of one core.

A process that samples at the default interval and does nothing else, against the same one without
sensors, on a machine with a few hundred processes more and an Ollama with two runners. Before the
tests' stand-in for NVML: what a real driver takes for an answer comes on top.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import output_of
from bench.result import Result
from tests.nvml_stub.stub import GIB, NvmlStub

SEED = 0  # nothing is drawn
BOUNDS = {"sampling_cpu_percent": 0.5}

# It starts two runners, says which, and waits.
OLLAMA = (
    "import subprocess, sys\n"
    "runners = [subprocess.Popen([sys.argv[1], '600']) for _ in range(2)]\n"
    "print(*(each.pid for each in runners), flush=True)\n"
    "sys.stdin.read()\n"
    "for each in runners: each.kill(); each.wait()\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    measured_s: float = 90.0
    crowd: int = 300  # processes beside those that are there


QUICK = Sizes(measured_s=2.0, crowd=100)


async def run(*, quick: bool) -> Result:
    """Measures; takes about two minutes, a few seconds if quick."""
    sizes = QUICK if quick else Sizes()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stub = NvmlStub(folder / "nvml")
        stack.enter_context(_crowd(sizes.crowd))
        for pid in stack.enter_context(_ollama(folder)):
            stub.add_card(total=80 * GIB, used=20 * GIB).run((pid, 20 * GIB))
        seconds = str(sizes.measured_s)
        sides = ["-m", "bench.sampling", seconds], ["-m", "bench.sampling", seconds, "--without"]
        environment = stub.environment()
        with_it, without = [
            json.loads(each)
            for each in await asyncio.gather(
                *(output_of(side, environment=environment) for side in sides)
            )
        ]
    if not with_it["host_samples"] or not with_it["gpu_samples"]:
        raise RuntimeError(f"the sensors said nothing: {with_it}")
    percent = {
        name: side["cpu_ms"] / side["clock_ms"] * 100
        for name, side in (("with", with_it), ("without", without))
    }
    return Result(
        name="monitors",
        seed=SEED,
        figures={
            "sampling_cpu_percent": percent["with"] - percent["without"],
            "sample_cpu_us": (with_it["cpu_ms"] - without["cpu_ms"])
            / with_it["host_samples"]
            * 1_000,
            "host_samples": with_it["host_samples"],
            "gpu_samples": with_it["gpu_samples"],
            "processes": with_it["processes"],
        },
        bounds=BOUNDS,
    )


@contextmanager
def _crowd(count: int) -> Iterator[None]:
    """So many processes that do nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_ending(subprocess.Popen(["sleep", "600"])))
        yield


@contextmanager
def _ollama(folder: Path) -> Iterator[list[int]]:
    """What looks like a server with two runners; these runners' process ids."""
    names = {"ollama": sys.executable, "llama-server": shutil.which("sleep") or "sleep"}
    for name, program in names.items():
        (folder / name).symlink_to(Path(program).resolve())
    server = subprocess.Popen(
        [str(folder / "ollama"), "-I", "-S", "-c", OLLAMA, str(folder / "llama-server")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdout is not None
        yield [int(pid) for pid in server.stdout.readline().split()]


@contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()
