"""A loop that really stands still, and a process that is really stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

from broker.runtime.watchdog import COMPUTED, STOPPED, Watchdog

STALL_MS = 80

_STOPPED_CODE = """
import asyncio, sys
from broker.runtime.watchdog import Watchdog

async def main():
    told = asyncio.get_running_loop().create_future()
    dog = Watchdog(200)
    dog.start(lambda stalled_ns, where: told.done() or told.set_result(where))
    print("ready", flush=True)
    print('told:', await told, flush=True)
    dog.stop()

asyncio.run(main())
"""


class _Dog:
    """A watchdog on this loop, and what it tells. A busy machine may starve the loop by itself."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self.dog = Watchdog(STALL_MS)
        self.dog.start(lambda stalled_ns, where: self.told.put_nowait((stalled_ns, where)))

    async def tells(self, words: str) -> tuple[int, str]:
        """The next standstill that was there."""
        while words not in (told := await self.told.get())[1]:
            pass
        return told

    def left(self, words: str) -> int:
        return sum(words in self.told.get_nowait()[1] for _ in range(self.told.qsize()))


async def test_a_standstill_is_told_with_the_place_where_it_stood() -> None:
    stage = _Dog()
    await asyncio.sleep(0)
    time.sleep(1.0)  # noqa: ASYNC251 - what the dog is for
    stalled_ns, where = await stage.tells("test_a_standstill_is_told")
    stage.dog.stop()
    assert stalled_ns >= STALL_MS * 1_000_000
    assert "test_watchdog.py:" in where


async def test_each_is_told_once_and_the_thread_ends_with_the_dog() -> None:
    stage, name = _Dog(), "test_each_is_told_once"
    for _ in range(2):
        time.sleep(1.0)  # noqa: ASYNC251
        await stage.tells(name)
    await asyncio.sleep(2 * STALL_MS / 1000)
    stage.dog.stop()
    assert stage.left(name) == 0
    assert all(each.name != "watchdog" for each in threading.enumerate())


async def test_a_long_computation_that_lets_no_thread_look_is_told_as_one() -> None:
    """A single call outside Python: the interpreter's lock is held throughout."""
    power, took_ns = 1_000_000, 0
    while took_ns < 8 * STALL_MS * 1_000_000:  # however fast this machine is
        power *= 2
        before_ns = time.monotonic_ns()
        3**power
        took_ns = time.monotonic_ns() - before_ns
    stage = _Dog()
    await asyncio.sleep(0)
    3**power
    assert (await stage.tells(COMPUTED))[0] >= STALL_MS * 1_000_000
    stage.dog.stop()


def test_a_process_that_was_stopped_is_told_as_that() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _STOPPED_CODE], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(2.0)
        os.kill(child.pid, signal.SIGCONT)
        told = [line for line in child.stdout if line.startswith("told:")]
        assert told == [f"told: {STOPPED}\n"]
        assert child.wait() == 0


async def test_a_loop_that_runs_is_left_alone() -> None:
    told = list[str]()
    dog = Watchdog(60_000)
    dog.start(lambda stalled_ns, where: told.append(where))
    for _ in range(100):
        await asyncio.sleep(0)
    dog._beat()
    dog.stop()
    assert told == []
