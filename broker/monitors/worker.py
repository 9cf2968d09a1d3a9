"""One thread for one sensor: a call that hangs keeps nobody waiting but this thread.

It is a daemon thread, so that the process may end while a call hangs. At most one question is under
way: whoever asks meanwhile is told no, and nothing piles up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

R = TypeVar("R")


class SensorThread(Generic[R]):
    """Asks `read` in its own thread and hands what it says to `deliver`, in the loop's. `failed`
    makes an answer of an error that `read` did not foresee. `release` is called as the thread
    ends."""

    def __init__(
        self,
        name: str,
        read: Callable[[], R],
        failed: Callable[[str], R],
        deliver: Callable[[R], None],
        release: Callable[[], None] | None = None,
    ) -> None:
        self._read = read
        self._failed = failed
        self._deliver = deliver
        self._release = release
        self._questions: SimpleQueue[bool] = SimpleQueue()
        self._is_asked = False
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"sensor-{name}", daemon=True)
        self._thread.start()

    def ask(self) -> bool:
        """Asks once more; False where the call before has not come back."""
        if self._is_asked or self._is_closed:
            return False
        self._is_asked = True
        self._questions.put(True)
        return True

    def close(self) -> None:
        """No answer is delivered from now on. The thread ends as soon as its call lets it; nobody
        waits for that."""
        if not self._is_closed:
            self._is_closed = True
            self._questions.put(False)

    def _run(self) -> None:
        while self._questions.get():
            try:
                answer = self._read()
            except Exception as error:  # noqa: BLE001  # a sensor that fails is an answer
                answer = self._failed(f"{type(error).__name__}: {error}")
            with suppress(RuntimeError):  # the loop was closed meanwhile: the process is ending
                self._loop.call_soon_threadsafe(self._answered, answer)
        if self._release is not None:
            self._release()

    def _answered(self, answer: R) -> None:
        self._is_asked = False
        if not self._is_closed:
            self._deliver(answer)
