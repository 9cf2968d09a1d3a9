"""Samples this host as the broker does and nothing else, and says what that costs.

python -m bench.sampling SECONDS [--without]: prints as JSON milliseconds of processor time and of
the clock, how many samples there were, and how many processes this host has. `--without`: of no
sensor at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import psutil
import uvloop

from broker.config.machine import MonitorsConfig
from broker.core.sensing import SensorState
from broker.core.stimuli import GpusSensed, HostSensed, Stimulus
from broker.daemon.sensing import sampling
from broker.runtime.clock import LoopClock


class _Heard:
    """What the sensors said."""

    def __init__(self) -> None:
        self.hosts = 0
        self.gpus = 0

    def feed(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, HostSensed) and stimulus.reading.state is SensorState.OK:
            self.hosts += 1
        if isinstance(stimulus, GpusSensed) and stimulus.reading.gpus:
            self.gpus += 1


async def _sample(duration_s: float, config: MonitorsConfig) -> dict[str, float]:
    heard = _Heard()
    sampler = sampling(config, heard.feed, LoopClock())
    task = asyncio.create_task(sampler.run())
    try:
        await asyncio.sleep(config.interval_ms / 1_000 * 1.5)  # the first look is no usual one
        hosts, gpus = heard.hosts, heard.gpus
        cpu_ns, clock_ns = time.process_time_ns(), time.monotonic_ns()
        await asyncio.sleep(duration_s)
        cpu_ns, clock_ns = time.process_time_ns() - cpu_ns, time.monotonic_ns() - clock_ns
    finally:
        task.cancel()
    return {
        "cpu_ms": cpu_ns / 1e6,
        "clock_ms": clock_ns / 1e6,
        "host_samples": heard.hosts - hosts,
        "gpu_samples": heard.gpus - gpus,
        "processes": len(psutil.pids()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sampling")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--without", action="store_true")
    options = parser.parse_args()
    config = MonitorsConfig(host=not options.without, gpu=not options.without)
    print(json.dumps(uvloop.run(_sample(options.seconds, config))))


if __name__ == "__main__":
    main()
