"""Every task of the broker lives here: named, bounded in number, and never lost without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

from broker.core.errors import InvariantBroken

_log = structlog.get_logger(__name__)


class Supervisor:
    """Starts tasks, hears of their ends, and ends with none of them left.

    Not a TaskGroup, which ends all of its tasks when one of them fails: here one that crashes is
    logged and the others go on. What must not go on after a bug of the core is the daemon, and the
    driver tells it so.
    """

    def __init__(self, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs `work` as a task. InvariantBroken where there would be too many: the limits of what
        may be under way bound them."""
        if len(self._tasks) >= self._tasks_max:
            work.close()
            raise InvariantBroken(f"more than {self._tasks_max} tasks")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("task crashed", task=task.get_name(), exc_info=error)

    def __len__(self) -> int:
        return len(self._tasks)
