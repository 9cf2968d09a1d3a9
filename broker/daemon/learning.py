"""What the engine learns of the use of models, over restarts; and which hour it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import platformdirs

from broker.config.schema import Config
from broker.core.effects import Effect, KeepLearned
from broker.core.stimuli import PreloadLearned, WallClockSet
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver
from broker.runtime.supervisor import Supervisor
from broker.state.learned_habits import LearnedHabits, file_name

# How often the clock on the wall is looked at: it may be set, and summer begins.
LOOK_NS: Final = 600 * 1_000_000_000


def habits_file(config: Config) -> Path:
    """Where the broker of this configuration keeps what it has learned of the use of models."""
    folder = config.server.state_dir or platformdirs.user_state_dir("ollama-broker", False)
    return Path(folder) / file_name(config.server.grpc_address)


class Learning:
    """See the module. `driver` is asked for when it is needed first."""

    def __init__(
        self, config: Config, supervisor: Supervisor, clock: Clock, driver: Callable[[], Driver]
    ) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._driver = driver
        self._kept = LearnedHabits(habits_file(config))

    def performers(self) -> Mapping[type[Effect], Callable[[Any], None]]:
        """Who does what the engine wants of it."""
        return {KeepLearned: lambda effect: self._kept.keep(effect.learned)}

    def start(self) -> None:
        """Tells the engine what the broker before has learned, and the hour from now on."""
        self._tell_hour()
        learned = self._kept.read()
        if learned is not None:
            self._driver().feed(PreloadLearned(learned))
        self._supervisor.start(self._kept.run(), "learned-habits")
        self._supervisor.start(self._watch_hour(), "hour")

    async def _watch_hour(self) -> None:
        while True:
            await self._clock.sleep(LOOK_NS)
            self._tell_hour()

    def _tell_hour(self) -> None:
        unix_ns = self._clock.unix_ns()
        zone_ns = time.localtime(unix_ns / 1e9).tm_gmtoff * 1_000_000_000
        self._driver().feed(WallClockSet(unix_ns + zone_ns - self._clock.monotonic_ns()))
