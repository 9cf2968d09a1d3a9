"""Asks the sensors at a stated rate and tells the engine what they say.

The rate is kept whatever they do: one that hangs is not asked again until it answers, and the
engine, which is told each time that the load is due, stops believing it by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog

from broker.core.sensing import SensorState
from broker.core.stimuli import LoadDue, Stimulus
from broker.monitors.worker import SensorThread

_log = structlog.get_logger(__name__)


class Reading(Protocol):
    """What every sensor says of itself."""

    @property
    def state(self) -> SensorState: ...

    @property
    def problem(self) -> str: ...


R = TypeVar("R", bound=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor(Generic[R]):
    """A sensor: how it is read, in a thread of its own; what is said where reading it raises;
    which stimulus tells the engine; what to give back in the end."""

    name: str
    read: Callable[[], R]
    failed: Callable[[str], R]
    told: Callable[[R], Stimulus]
    release: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPolicy:
    """How often sensors are asked, and when one that is silent is worth a word in the log."""

    interval_ns: int = 1_000_000_000
    stale_ns: int = 10_000_000_000

    def __post_init__(self) -> None:
        if min(self.interval_ns, self.stale_ns) <= 0:
            raise ValueError("intervals must be positive")


class Sampler:
    """`on_tick` are called once each interval, after the engine has looked at the load. `at_first`
    is told once, before anything else."""

    def __init__(
        self,
        sensors: Sequence[Sensor[Any]],
        policy: SamplingPolicy,
        feed: Callable[[Stimulus], None],
        monotonic_ns: Callable[[], int],
        sleep: Callable[[int], Awaitable[None]],
        on_tick: Iterable[Callable[[], None]] = (),
        at_first: Iterable[Stimulus] = (),
    ) -> None:
        self._sensors = sensors
        self._policy = policy
        self._feed = feed
        self._monotonic_ns = monotonic_ns
        self._sleep = sleep
        self._on_tick = tuple(on_tick)
        self._at_first = tuple(at_first)
        # The last crash of each that was logged, while it lasts.
        self._crashes: dict[Callable[[], None], str] = {}
        self._asked: dict[str, _Asked[Any]] = {}

    def ask(self, sensor: str) -> None:
        """Asks one of them now, before it is time; nothing where there is none of this name, or
        where it has not answered the time before."""
        asked = self._asked.get(sensor)
        if asked is not None:
            asked.ask()

    async def run(self) -> None:
        """Samples until cancelled."""
        for stimulus in self._at_first:
            self._feed(stimulus)
        self._asked = {
            each.name: _Asked(each, self._policy.stale_ns, self._feed, self._monotonic_ns)
            for each in self._sensors
        }
        try:
            due_ns = self._monotonic_ns()
            while True:
                for each in self._asked.values():
                    each.ask()
                self._feed(LoadDue())
                self._tick()
                # What was missed while the machine or the loop slept is not made up for.
                now_ns = self._monotonic_ns()
                due_ns = max(due_ns + self._policy.interval_ns, now_ns)
                await self._sleep(due_ns - now_ns)
        finally:
            for each in self._asked.values():
                each.close()
            self._asked = {}

    def _tick(self) -> None:
        for call in self._on_tick:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # a loop that ended would leave us blind
                crash = f"{type(error).__name__}: {error}"
                if self._crashes.get(call) != crash:
                    _log.error("what is called at each sample failed", exc_info=error)
                self._crashes[call] = crash
            else:
                self._crashes.pop(call, None)


class _Asked(Generic[R]):
    """A sensor while it is being asked, and what was last said of it in the log."""

    def __init__(
        self,
        sensor: Sensor[R],
        stale_ns: int,
        feed: Callable[[Stimulus], None],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._sensor = sensor
        self._stale_ns = stale_ns
        self._feed = feed
        self._monotonic_ns = monotonic_ns
        self._asked_ns = monotonic_ns()
        self._is_silent = False
        self._state = SensorState.OK
        self._thread = SensorThread(
            sensor.name, sensor.read, sensor.failed, self._answered, sensor.release
        )

    def ask(self) -> None:
        now_ns = self._monotonic_ns()
        if self._thread.ask():
            self._asked_ns = now_ns
        elif not self._is_silent and now_ns - self._asked_ns >= self._stale_ns:
            self._is_silent = True
            _log.warning("sensor does not answer", sensor=self._sensor.name)

    def close(self) -> None:
        self._thread.close()

    def _answered(self, reading: R) -> None:
        sensor = self._sensor.name
        if self._is_silent:
            self._is_silent = False
            _log.info("sensor answers again", sensor=sensor)
        if reading.state is not self._state:
            self._state = reading.state
            if reading.state is SensorState.OK:
                _log.info("sensor works", sensor=sensor)
            elif reading.state is SensorState.ABSENT:
                _log.info("sensor is absent", sensor=sensor, problem=reading.problem)
            else:
                _log.warning("sensor fails", sensor=sensor, problem=reading.problem)
        self._feed(self._sensor.told(reading))
