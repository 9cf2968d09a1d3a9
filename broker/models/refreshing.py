"""Asks the library when it is time, in the background, and keeps the list for the next run.

One question at a time: who asks while one is under way waits for its answer. A failure changes
nothing of what is known; it is told, and asked again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final

import structlog

from broker.core.errors import BrokerError
from broker.core.library import Library, Transfer
from broker.core.model_list import ListState
from broker.models.gathering import Gathering
from broker.models.library_rows import LibraryModels
from broker.models.query import LIBRARY, Freshness, SourceState
from broker.models.refresh import RefreshPolicy, age_ms, backoff_ms, freshness, wait_ms
from broker.models.slices import in_slices

_log = structlog.get_logger(__name__)

_MS: Final = 1_000_000
# How often the clock on the wall is looked at: it may be set, and a host sleep meanwhile.
LOOK_NS: Final = 600 * 1_000 * _MS
# Who sleeps by the other clock wakes a little later or sooner.
_LATE_MS: Final = 1_000


class Refreshing:
    """See the module. `library` None: there is none, and backends are all. `problems` names the
    backends that do not answer, and says why."""

    def __init__(
        self,
        gathering: Gathering,
        library: Library | None,
        policy: RefreshPolicy,
        *,
        backends: Callable[[], tuple[str, ...]],
        problems: Callable[[], Mapping[str, str]],
        unix_ms: Callable[[], int],
        sleep: Callable[[int], Awaitable[None]],
        chance: Random,
        file: str = "",
    ) -> None:
        self._gathering = gathering
        self._library = library
        self._policy = policy
        self._backends = backends
        self._problems = problems
        self._unix_ms = unix_ms
        self._sleep = sleep
        self._chance = chance
        self._file = file
        self._under_way: asyncio.Task[bool] | None = None
        self._wanted = asyncio.Event()
        self._failures = 0
        self._answers, self._failed_ever = 0, 0
        self._is_passing = True  # may the same question be answered soon?
        self._retry_after_ms = 0  # how long the library wants to be left alone
        self._next_unix_ms: int | None = None
        self._cost_ms = 0.0  # of the last answer: how long it kept the connection, or us, busy
        self.problem = ""
        self.transfer = Transfer()
        index = gathering.index
        index.sources = self.sources
        index.loads = self._loads

    def configure(self, policy: RefreshPolicy) -> None:
        """From now on this holds."""
        self._policy = policy
        self._wanted.set()

    async def run(self) -> None:
        """Asks the library until cancelled. What is fresh is left alone, but for a file, whose
        reading is free."""
        is_first = self._policy.is_local
        while self._library is not None:
            wait = 0 if is_first else self._wait_ms()
            is_first = False
            self._next_unix_ms = self._unix_ms() + wait
            if wait > 0 and await self._woken(wait):
                continue
            await self.refresh()

    def _wait_ms(self) -> int:
        if self._failures:
            wait = backoff_ms(
                self._failures,
                is_passing=self._is_passing,
                policy=self._policy,
                chance=self._chance,
            )
            return max(wait, self._retry_after_ms)
        age = age_ms(self._gathering.library_unix_ms, self._unix_ms())
        return wait_ms(age, self._policy, self._cost_ms, self._chance)

    async def watch_clock(self) -> None:
        """Until cancelled. Who waits until what is known is too old waits by a clock that stands
        still while the host sleeps, and does not hear that the other one was set."""
        while True:
            await self._sleep(LOOK_NS)
            due_unix_ms = self._next_unix_ms
            if due_unix_ms is None or self._failures or self.is_refreshing:
                continue
            now_unix_ms = self._unix_ms()
            age = age_ms(self._gathering.library_unix_ms, now_unix_ms)
            if age is None or now_unix_ms > due_unix_ms + _LATE_MS:
                self._wanted.set()

    async def _woken(self, wait: int) -> bool:
        """Sleeps for so long; True if something else holds before its end."""
        slept = asyncio.ensure_future(self._sleep(wait * _MS))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait({slept, wanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            slept.cancel()
            wanted.cancel()
        is_woken = self._wanted.is_set()
        self._wanted.clear()
        return is_woken

    async def refresh(self) -> bool:
        """Asks the library now, or waits for the answer to a question that is under way. False
        where it failed: `problem` says why, and what was known is known."""
        if self._library is None:
            return False
        if self._under_way is None:
            self._under_way = asyncio.ensure_future(self._ask(self._library))
            self._under_way.add_done_callback(self._over)
        return await asyncio.shield(self._under_way)

    def _over(self, _: asyncio.Task[bool]) -> None:
        self._under_way = None

    async def _ask(self, library: Library) -> bool:
        gathering = self._gathering
        began_ms = self._unix_ms()
        try:
            models = await library.models(LibraryModels(gathering.index.library))
            await in_slices(gathering.library(models))
        except BrokerError as error:
            self._failed(library, error.message, is_passing=error.retryable)
            self._retry_after_ms = (error.retry_after_ns or 0) // _MS
            return False
        except Exception as error:  # noqa: BLE001  # a loop that ended would never ask again
            _log.error("asking the library failed", library=library.name, exc_info=error)
            problem = f"the broker failed on its answer ({type(error).__name__}: {error})"
            self._failed(library, problem, is_passing=False)
            return False
        if self._failures or not self._answers:
            _log.info("the library answered", library=library.name, models=len(models))
        self._failures, self.problem = 0, ""
        self._answers += 1
        self.transfer = library.transfer
        took_ms = max(0, self._unix_ms() - began_ms)
        self._cost_ms = took_ms if self._policy.is_local else self.transfer.receiving_ns / 1e6
        return True

    def _failed(self, library: Library, problem: str, *, is_passing: bool) -> None:
        if problem != self.problem:
            _log.warning(
                "the library of models did not answer; what is known of it stays",
                library=library.name,
                problem=problem,
            )
        self._failures += 1
        self._retry_after_ms = 0
        self._failed_ever += 1
        self.problem, self._is_passing = problem, is_passing

    def close(self) -> None:
        """Asks nothing any more."""
        if self._under_way is not None:
            self._under_way.cancel()

    @property
    def is_refreshing(self) -> bool:
        return self._under_way is not None

    def sources(self, now_unix_ms: int) -> tuple[SourceState, ...]:
        """Where what is known comes from: the backends in their order, then the library, where
        anything was ever known of it."""
        problems = self._problems()
        states = [self._backend(each, problems, now_unix_ms) for each in self._backends()]
        if self._library is not None or len(self._gathering.index.library):
            states.append(self._library_state(now_unix_ms))
        return tuple(states)

    def _backend(self, name: str, problems: Mapping[str, str], now_unix_ms: int) -> SourceState:
        then = self._gathering.listed_unix_ms(name)
        age = age_ms(then, now_unix_ms)
        is_up = name not in problems and self._gathering.was_heard(name)
        return SourceState(
            name=name,
            up=is_up,
            age_ms=age,
            freshness=freshness(age, self._policy, is_empty=not self._gathering.knows(name)),
            problem=problems.get(name, "" if is_up else "it has not answered yet"),
        )

    def _library_state(self, now_unix_ms: int) -> SourceState:
        age = age_ms(self._gathering.library_unix_ms, now_unix_ms)
        is_empty = not len(self._gathering.index.library)
        problem = self.problem
        if self._library is None:
            problem = "there is none in the configuration: what was known of it stays"
        return SourceState(
            name=LIBRARY,
            up=not problem,
            age_ms=age,
            freshness=freshness(age, self._policy, is_empty=is_empty),
            problem=problem,
        )

    def _loads(self) -> bool:
        """Are sources being asked that nothing is known of, or nothing to go by?"""
        too_old = (Freshness.EMPTY, Freshness.EXPIRED)
        problems = self._problems()
        for state in self.sources(self._unix_ms()):
            if state.freshness in too_old:
                if state.name == LIBRARY:
                    if self._library is not None and self.is_refreshing:
                        return True
                elif state.name not in problems and not self._gathering.was_heard(state.name):
                    return True
        return False

    def state(self) -> ListState:
        """How it is now."""
        now_unix_ms = self._unix_ms()
        index = self._gathering.index
        ages = [age_ms(self._gathering.library_unix_ms, now_unix_ms)]
        if self._library is None:
            listed = (self._gathering.listed_unix_ms(each) for each in self._backends())
            ages = [age_ms(each, now_unix_ms) for each in listed]
        known = [each for each in ages if each is not None]
        age = max(known) if known and len(known) == len(ages) else None
        problems = [f"{name}: {why}" for name, why in sorted(self._problems().items())]
        waits = self._next_unix_ms is not None and not self.is_refreshing
        return ListState(
            downloaded=index.downloaded,
            downloadable=index.downloadable,
            freshness=freshness(age, self._policy, is_empty=not len(index)),
            age_ms=age,
            is_refreshing=self.is_refreshing,
            problem="; ".join([self.problem, *problems] if self.problem else problems),
            next_ms=max(0, (self._next_unix_ms or 0) - now_unix_ms) if waits else None,
            bytes_per_s=self.transfer.bytes_per_s,
            file=self._file,
            refreshed=self._answers,
            failed=self._failed_ever,
        )
