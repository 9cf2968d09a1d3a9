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
    """A task group whose tasks fail alone: one that crashes is logged and the others go on.

    A broken invariant is different: it is a bug of the core, after which nothing it says can be
    trusted, so it ends the group and with it the daemon.
    """

    def __init__(self, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs `work` as a task. InvariantBroken where there would be too many: the limits of what
        may be under way bound them."""
        if len(self._tasks) >= self._tasks_max:
            work.close()
            raise InvariantBroken(f"more than {self._tasks_max} tasks")
        task = self._group.create_task(self._guard(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Work whose task was cancelled before its first step is still unopened: closing it then
        # says so to Python, and is nothing to work that has run.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _guard(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except InvariantBroken:
            raise
        except Exception:  # noqa: BLE001 the one place where a crash must not spread
            _log.exception("task crashed", task=name)

    def __len__(self) -> int:
        return len(self._tasks)
