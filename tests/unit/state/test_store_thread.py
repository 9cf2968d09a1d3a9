"""One thread for one store: in order, bounded, and with nobody waiting for what they left."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from broker.state.store_thread import StoreBusy, StoreThread

PATIENCE_S = 30.0


async def test_calls_run_in_their_order_in_one_thread_of_that_name() -> None:
    thread = StoreThread("a-store")
    ran: list[int] = []

    def work(number: int) -> str:
        ran.append(number)
        return threading.current_thread().name

    names = await asyncio.gather(*(thread.call(partial(work, each)) for each in range(9)))
    assert ran == list(range(9))
    assert set(names) == {"a-store"}
    thread.close()


async def test_what_a_call_raises_is_its_callers() -> None:
    thread = StoreThread("a-store")
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    assert await thread.call(lambda: 7) == 7
    thread.close()


async def test_so_many_wait_and_whoever_comes_beyond_is_told_no() -> None:
    thread = StoreThread("a-store", calls_max=2)
    may_go = threading.Event()
    waiting = [asyncio.ensure_future(thread.call(may_go.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StoreBusy, match="2 calls wait for a-store already"):
        await thread.call(lambda: None)
    may_go.set()
    assert await asyncio.gather(*waiting) == [True, True]
    assert await thread.call(lambda: 7) == 7
    thread.close()


async def test_a_caller_that_leaves_does_not_stop_its_call() -> None:
    thread = StoreThread("a-store", calls_max=1)
    may_go, ran = threading.Event(), threading.Event()

    def work() -> None:
        may_go.wait(PATIENCE_S)
        ran.set()

    caller = asyncio.ensure_future(thread.call(work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(StoreBusy):  # its call is still there
        await thread.call(lambda: None)
    may_go.set()
    assert await asyncio.to_thread(ran.wait, PATIENCE_S)
    thread.close()


async def test_a_closed_one_takes_no_more() -> None:
    thread = StoreThread("a-store")
    assert await thread.call(lambda: 7) == 7
    thread.close()
    with pytest.raises(StoreBusy, match="a-store is closed"):
        await thread.call(lambda: 7)
    StoreThread("never-used").close()
