"""The books of use: what was counted is kept every few seconds, and asked for.

What could not be kept waits in memory, within the recorder's bound, and is tried again; that is
told once. A broker that is killed loses what it counted since it last kept something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from broker.core.usage import (
    HOUR_NS,
    ModelHour,
    UsageAnswer,
    UsageHealth,
    UsageNotKept,
    UsageQuery,
    UsageStore,
)
from broker.models.usage import UsageRecorder

_log = structlog.get_logger(__name__)

# What the last of it may take when the broker stops.
CLOSE_TIMEOUT_S: Final = 2.0


class UsageBooks:
    """See the module. One call to the store at a time."""

    def __init__(
        self,
        recorder: UsageRecorder,
        store: UsageStore,
        unix_ns: Callable[[], int],
        sleep: Callable[[int], Awaitable[None]],
        flush_interval_ns: int,
        rows_max: int,
    ) -> None:
        self.recorder = recorder
        self._store = store
        self._unix_ns = unix_ns
        self._sleep = sleep
        self._flush_interval_ns = flush_interval_ns
        self._rows_max = rows_max
        self._lock = asyncio.Lock()
        self._tidied_hour = -1
        self._rows = 0
        self._failures = 0
        self._is_failing = False
        self._is_closed = False

    def health(self) -> UsageHealth:
        """How it is with them now."""
        return UsageHealth(rows=self._rows, waiting=self.recorder.pending, failures=self._failures)

    async def run(self) -> None:
        """Reads what was kept before, and keeps what is counted, until cancelled."""
        while True:
            await self.flush()
            await self._sleep(self._flush_interval_ns)

    async def flush(self) -> None:
        """Keeps what was counted so far. What cannot be kept waits on."""
        async with self._lock:
            if self._is_closed:
                return
            rows = self.recorder.take()
            # Cancelled here they are not put back: the store goes on with what it was given.
            try:
                if rows:
                    self._rows = await self._store.add(rows)
            except UsageNotKept as error:
                self.recorder.put_back(rows)
                self._fail(error)
                return
            try:
                await self._tidy()
            except UsageNotKept as error:
                self._fail(error)
                return
            if self._is_failing:
                self._is_failing = False
                _log.info("use is kept again")

    async def _tidy(self) -> None:
        """At the start, each hour, and when there is too much."""
        now_hour = self._unix_ns() // HOUR_NS
        if now_hour == self._tidied_hour and self._rows <= self._rows_max:
            return
        tidied = await self._store.tidy(now_hour)
        self._tidied_hour = now_hour
        self._rows = tidied.rows
        self.recorder.learn(tidied.totals)

    def _fail(self, error: UsageNotKept) -> None:
        self._failures += 1
        if not self._is_failing:
            self._is_failing = True
            _log.warning(
                "the use of models cannot be kept; it is counted on, and tried again",
                problem=str(error),
            )

    async def ask(self, query: UsageQuery) -> UsageAnswer:
        """Sums up what is kept and what waits. UsageNotKept where that cannot be read."""
        async with self._lock:
            return await self._store.ask(query, self.recorder.waiting())

    async def history(self, since_hour: int) -> tuple[ModelHour, ...]:
        """Requests for each model by the hour, of what is kept. UsageNotKept where that cannot be
        read."""
        async with self._lock:
            return await self._store.history(since_hour)

    async def close(self) -> None:
        """Keeps the last of it, if the disk lets that be in time."""
        with suppress(TimeoutError, UsageNotKept):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.flush()
                async with self._lock:
                    self._is_closed = True
                    await self._store.close()
