"""Keeps the list of models for the next run: a while after it changed, and as the broker leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from broker.core.kept_models import ListKeeper
from broker.models.gathering import Gathering

_S: Final = 1_000_000_000

# Changes within this are one write: a broker that starts hears of all backends at about the same
# time. The same lies between two writes, so that a disk is not busy with a list that changes often.
GATHER_NS: Final = 2 * _S
# How old what is kept says to be is brought up to date so often where nothing changes.
TIMES_NS: Final = 600 * _S
# What a write may take as the broker leaves.
FLUSH_S: Final = 3.0


class Keeping:
    """See the module."""

    def __init__(
        self, gathering: Gathering, keeper: ListKeeper, sleep: Callable[[int], Awaitable[None]]
    ) -> None:
        self._gathering = gathering
        self._keeper = keeper
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._is_unkept = False  # the last write failed
        self.writes = 0
        gathering.on_gathered(self._changed.set)

    def read(self) -> None:
        """What the last run knew; to be called before anybody is asked or served."""
        kept = self._keeper.read()
        if kept is not None:
            self._gathering.begin_with(kept)

    async def run(self) -> None:
        """Writes until cancelled. What is being written then is written to its end."""
        while True:
            if await self._is_changed_in_time():
                await self._sleep(GATHER_NS)
                await self._written()
            elif self._is_unkept:  # the disk may have room again
                await self._written()
            else:
                _, times = self._gathering.to_keep()
                await self._keeper.write_times(times)

    async def _is_changed_in_time(self) -> bool:
        changed = asyncio.ensure_future(self._changed.wait())
        slept = asyncio.ensure_future(self._sleep(TIMES_NS))
        try:
            await asyncio.wait({changed, slept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            slept.cancel()
        return self._changed.is_set()

    async def _written(self) -> None:
        """One write at a time, whoever wants it."""
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())
            self._writing.add_done_callback(self._over)
        await asyncio.shield(self._writing)

    def _over(self, _: asyncio.Task[None]) -> None:
        self._writing = None

    async def _write(self) -> None:
        self._changed.clear()
        models, times = self._gathering.to_keep()
        self._is_unkept = not await self._keeper.write(models, times)
        self.writes += 1

    async def close(self) -> None:
        """Writes what has changed since, if that takes no longer than it may; what was written
        before is good all the same."""
        try:
            async with asyncio.timeout(FLUSH_S):
                if self._writing is not None:
                    await self._written()
                if self._changed.is_set() or self._is_unkept:
                    await self._written()
        except TimeoutError:
            return
