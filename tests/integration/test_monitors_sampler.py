"""The sampler with real threads: a sensor that hangs, fails or raises keeps nobody waiting.

Time is the test's own: each round of the sampler is let through by the test.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.core.sensing import GpuReading, HostReading, SensorState
from broker.core.stimuli import GpusSensed, HostSensed, LoadDue, Stimulus
from broker.monitors.gpu import GpuReader
from broker.monitors.sampler import Sampler, SamplingPolicy, Sensor
from tests.nvml_stub.stub import GIB, Call, NvmlStub

PATIENCE_S = 30.0
INTERVAL_NS = 1_000_000_000
STALE_NS = 3 * INTERVAL_NS


async def a_turn() -> None:
    """Lets the loop go round once."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_soon(over.set)
    await over.wait()


class Rounds:
    """A sampler that sleeps until the test says so, and what it told."""

    def __init__(
        self,
        *sensors: Sensor[HostReading] | Sensor[GpuReading],
        at_first: tuple[Stimulus, ...] = (),
    ) -> None:
        self.now_ns = 0
        self.told: list[Stimulus] = []
        self.ticks: list[int] = []  # how much was told before each
        self.slept_ns: list[int] = []
        self._go = asyncio.Semaphore(0)
        self._sleeps = asyncio.Semaphore(0)
        self.on_tick: list[Callable[[], None]] = [lambda: self.ticks.append(len(self.told))]
        self.sampler = Sampler(
            sensors,
            SamplingPolicy(interval_ns=INTERVAL_NS, stale_ns=STALE_NS),
            self._feed,
            lambda: self.now_ns,
            self._sleep,
            on_tick=(self._tick,),
            at_first=at_first,
        )

    def _feed(self, stimulus: Stimulus) -> None:
        self.told.append(stimulus)

    def _tick(self) -> None:
        for each in self.on_tick:
            each()

    async def _sleep(self, duration_ns: int) -> None:
        self.slept_ns.append(duration_ns)
        self._sleeps.release()
        await self._go.acquire()
        self.now_ns += duration_ns

    async def next_round(self) -> None:
        """Returns when the next round is asked and the sampler sleeps again."""
        self._go.release()
        async with asyncio.timeout(PATIENCE_S):
            await self._sleeps.acquire()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await a_turn()

    async def until_hosts(self, count: int) -> None:
        """Returns when the host's sensor has answered so often."""
        await self.until(lambda: len(self.hosts()) == count)

    def hosts(self) -> list[HostReading]:
        return [each.reading for each in self.told if isinstance(each, HostSensed)]

    def gpus(self) -> list[GpuReading]:
        return [each.reading for each in self.told if isinstance(each, GpusSensed)]

    def dues(self) -> int:
        return sum(isinstance(each, LoadDue) for each in self.told)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sampler.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._sleeps.acquire()
            yield
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


class HostSensor:
    """A host's sensor that says what the test sets, and waits while the test wants it to."""

    def __init__(self) -> None:
        self.reading = HostReading(state=SensorState.OK)
        self.error: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0
        self.threads: set[str] = set()
        self.released = threading.Event()

    def read(self) -> HostReading:
        self.asked += 1
        self.threads.add(threading.current_thread().name)
        assert self.may_answer.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return self.reading

    def sensor(self) -> Sensor[HostReading]:
        return Sensor(
            name="host",
            read=self.read,
            failed=lambda problem: HostReading(state=SensorState.FAILING, problem=problem),
            told=HostSensed,
            release=self.released.set,
        )


def gpu_sensor(reader: GpuReader) -> Sensor[GpuReading]:
    return Sensor(
        name="gpu",
        read=reader.read,
        failed=lambda problem: GpuReading(at_ns=0, state=SensorState.FAILING, problem=problem),
        told=GpusSensed,
        release=reader.close,
    )


async def test_each_interval_each_sensor_is_asked_once_and_the_load_is_due() -> None:
    host = HostSensor()
    rounds = Rounds(host.sensor())
    async with rounds.running():
        for count in (1, 2, 3):
            await rounds.until_hosts(count)
            assert (rounds.dues(), len(rounds.ticks), host.asked) == (count, count, count)
            await rounds.next_round()
    assert host.threads == {"sensor-host"}
    assert set(rounds.slept_ns) == {INTERVAL_NS}
    assert isinstance(rounds.told[rounds.ticks[0] - 1], LoadDue)


async def test_a_sensor_may_be_asked_before_it_is_time() -> None:
    host = HostSensor()
    rounds = Rounds(host.sensor())
    rounds.sampler.ask("host")  # it does not run yet
    async with rounds.running():
        await rounds.until_hosts(1)
        rounds.sampler.ask("host")
        rounds.sampler.ask("gpu")  # there is none
        await rounds.until_hosts(2)
        assert rounds.dues() == 1
    assert host.asked == 2


async def test_what_is_known_at_first_is_told_once_and_before_all_else() -> None:
    off = HostSensed(HostReading(state=SensorState.ABSENT, problem="it is switched off"))
    rounds = Rounds(at_first=(off,))
    async with rounds.running():
        await rounds.next_round()
    assert rounds.told == [off, LoadDue(), LoadDue()]


async def test_without_sensors_the_load_is_due_all_the_same() -> None:
    rounds = Rounds()
    async with rounds.running():
        await rounds.next_round()
        await rounds.next_round()
    assert rounds.told == [LoadDue()] * 3
    assert rounds.ticks == [1, 2, 3]
    assert not [each for each in threading.enumerate() if each.name.startswith("sensor-")]


async def test_rounds_that_were_missed_are_not_made_up_for() -> None:
    rounds = Rounds()
    async with rounds.running():
        rounds.now_ns += 100 * INTERVAL_NS  # the machine slept
        await rounds.next_round()
        await rounds.next_round()
        await rounds.next_round()
    assert rounds.dues() == 4
    assert rounds.slept_ns[-1] == INTERVAL_NS


async def test_a_call_of_nvml_that_blocks_holds_up_nobody_and_the_sensor_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, host = NvmlStub(tmp_path), HostSensor()
    stub.bind(monkeypatch)
    stub.add_card(used=GIB)
    reader = GpuReader(lambda pid: ("", False), lambda: rounds.now_ns)
    rounds = Rounds(host.sensor(), gpu_sensor(reader))
    with capture_logs() as logs:
        async with rounds.running():
            await rounds.until(lambda: len(rounds.gpus()) == 1)
            await rounds.until_hosts(1)
            stub.block(Call.MEMORY_V2)
            await rounds.next_round()
            await rounds.until_hosts(2)
            await rounds.until(lambda: stub.inside == 1)
            for count in range(3, 33):  # half a minute
                await rounds.next_round()
                await rounds.until_hosts(count)
            assert len(rounds.gpus()) == 1
            assert rounds.dues() == len(rounds.ticks) == 32
            assert (stub.inside, stub.calls(Call.MEMORY_V2)) == (1, 2)
            threads = [each.name for each in threading.enumerate()]
            assert threads.count("sensor-gpu") == 1
            stub.release()
            await rounds.until(lambda: len(rounds.gpus()) == 2)
            # What it says is as old as the question.
            assert rounds.gpus()[-1].at_ns == INTERVAL_NS
            await rounds.next_round()
            await rounds.until(lambda: len(rounds.gpus()) == 3)
            assert rounds.gpus()[-1].at_ns == rounds.now_ns
        await rounds.until(lambda: stub.calls(Call.SHUTDOWN) == 1)
    assert [each["event"] for each in logs] == ["sensor does not answer", "sensor answers again"]


async def test_the_end_does_not_wait_for_a_call_that_hangs() -> None:
    host = HostSensor()
    host.may_answer.clear()
    rounds = Rounds(host.sensor())
    async with rounds.running():
        await rounds.until(lambda: host.asked == 1)
    assert not host.released.is_set()
    host.may_answer.set()
    await rounds.until(host.released.is_set)
    assert rounds.hosts() == []  # what came after the end is told to nobody


async def test_a_sensor_that_raises_is_failing_and_asked_again() -> None:
    host = HostSensor()
    host.error = ValueError("what is this")
    rounds = Rounds(host.sensor())
    with capture_logs() as logs:
        async with rounds.running():
            await rounds.until_hosts(1)
            await rounds.next_round()
            await rounds.until_hosts(2)
            host.error = None
            await rounds.next_round()
            await rounds.until_hosts(3)
    assert [each.state for each in rounds.hosts()] == [
        SensorState.FAILING,
        SensorState.FAILING,
        SensorState.OK,
    ]
    assert rounds.hosts()[0].problem == "ValueError: what is this"
    assert [each["event"] for each in logs] == ["sensor fails", "sensor works"]


async def test_a_sensor_that_is_absent_is_logged_once() -> None:
    host = HostSensor()
    host.reading = HostReading(state=SensorState.ABSENT, problem="no such thing")
    rounds = Rounds(host.sensor())
    with capture_logs() as logs:
        async with rounds.running():
            for count in (1, 2, 3):
                await rounds.until_hosts(count)
                await rounds.next_round()
    assert [(each["event"], each["problem"]) for each in logs] == [
        ("sensor is absent", "no such thing")
    ]


async def test_what_is_called_each_time_may_fail_without_ending_the_samples() -> None:
    rounds = Rounds()
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise KeyError("odd")

    rounds.on_tick.append(fail)
    with capture_logs() as logs:
        async with rounds.running():
            await rounds.next_round()
            await rounds.next_round()
            rounds.on_tick.remove(fail)
            await rounds.next_round()
    assert (calls, rounds.dues()) == (3, 4)
    assert [each["event"] for each in logs] == ["what is called at each sample failed"]


def test_intervals_are_positive() -> None:
    with pytest.raises(ValueError):
        SamplingPolicy(interval_ns=0)
