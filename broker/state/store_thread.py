"""One named thread for one store: its calls block nobody but it, and run one after the other.

It is a daemon thread, so that the process may end while a disk hangs. So many calls wait for it at
most; whoever comes beyond is told no.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeVar

R = TypeVar("R")

CALLS_MAX: Final = 64


class StoreBusy(Exception):
    """As many calls wait as may, or none may any more."""


class StoreThread:
    """See the module. The thread begins with the first call, and ends with `close`."""

    def __init__(self, name: str, calls_max: int = CALLS_MAX) -> None:
        self._name = name
        self._calls_max = calls_max
        self._waiting = 0
        self._is_closed = False
        self._calls: SimpleQueue[tuple[Callable[[], Any], Callable[..., None]] | None] = (
            SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    async def call(self, work: Callable[[], R]) -> R:
        """What `work` returns or raises there. A caller that is cancelled does not stop it."""
        if self._is_closed:
            raise StoreBusy(f"{self._name} is closed")
        if self._waiting >= self._calls_max:
            raise StoreBusy(f"{self._waiting} calls wait for {self._name} already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def deliver(result: R | None, error: BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: the process is ending
                loop.call_soon_threadsafe(settle, result, error)

        def settle(result: R | None, error: BaseException | None) -> None:
            self._waiting -= 1
            if answer.done():
                return  # nobody waits for it any more
            if error is None:
                answer.set_result(result)  # type: ignore[arg-type]  # an R where there is no error
            else:
                answer.set_exception(error)

        self._waiting += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((work, deliver))
        return await answer

    def close(self) -> None:
        """The thread ends as soon as its calls let it; nobody waits for that."""
        self._is_closed = True
        if self._thread is not None:
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            work, deliver = call
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  # the caller's to judge
                deliver(None, error)
            else:
                deliver(result, None)
