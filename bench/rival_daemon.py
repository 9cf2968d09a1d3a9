"""The daemon with another rule in the place of its own, or on a faster clock: to be compared with.

    python -m bench.rival_daemon --config FILE --rule RULE --speed N

No configuration can do this: rivals are not for users.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.quick_loop import QuickClock, QuickLoop
from bench.scheduling_play import PATIENCE_NS
from broker.config.load import load
from broker.core.placement_rule import PlacementRule
from broker.daemon.main import Daemon, settle_memory
from broker.observability.logs import configure_logs
from broker.sim.rival_rules import Exhaustive, FixedPatience

LOG_GRACE_S = 1.0
OWN = "own"
RULES: Mapping[str, Callable[[], PlacementRule | None]] = {
    OWN: lambda: None,
    "exhaustive": Exhaustive,
    "patience": lambda: FixedPatience(PATIENCE_NS),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rival_daemon")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rule", choices=RULES, default=OWN)
    parser.add_argument("--speed", type=float, default=1.0)
    options = parser.parse_args()
    config = load(options.config, os.environ)
    settle_memory()
    clock = QuickClock(options.speed)
    log_writer = configure_logs(config.server.log_level, config.server.log_format)
    try:
        with asyncio.Runner(loop_factory=lambda: QuickLoop(clock)) as runner:
            daemon = Daemon(config, options.config, clock=clock, rule=RULES[options.rule]())
            return runner.run(daemon.run())
    finally:
        log_writer.close(LOG_GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
