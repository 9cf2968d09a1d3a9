"""Where callers wait for a place in the window of `pacing`: on asyncio, and as plain threads.

A request keeps its place over reconnects, since the broker may still be at work on it, and gives it
back while it waits to be sent anew after a refusal, so that others may go meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc

from broker_client.errors import (
    BrokerError,
    ConnectionLost,
    DeadlineExpired,
    RequestUnknown,
    Unreachable,
    local_details,
)
from broker_client.pacing import PacePolicy, Pacing, Turn, Window
from broker_client.retry import NS_PER_S

Clock = Callable[[], int]
_P = TypeVar("_P")


def policy_of(pace: PacePolicy | bool | None) -> PacePolicy | None:
    """What a client's `pace` means: True the usual policy, False and None none."""
    if isinstance(pace, PacePolicy):
        return pace
    return PacePolicy() if pace else None


def too_late() -> DeadlineExpired:
    """The error where a deadline passes before there is a place; nothing was sent."""
    words = "the deadline passed while the request waited for this client's own pacing"
    return DeadlineExpired(local_details(grpc.StatusCode.DEADLINE_EXCEEDED, words))


def patience_s(deadline_ns: int | None, window: Window, now_ns: int) -> float:
    """How long to wait before looking again, where nobody wakes it: until the first may go though
    nobody ended, or the deadline."""
    wait_ns = window.changes_in_ns(now_ns)
    if deadline_ns is not None:
        wait_ns = min(wait_ns, max(0, deadline_ns - now_ns))
    return wait_ns / NS_PER_S


def keeps_its_place(error: BrokerError) -> bool:
    """May the broker still be at work on it, or was it until the connection was lost?"""
    return isinstance(error, ConnectionLost | Unreachable | RequestUnknown)


class _Place(ABC, Generic[_P]):
    """What a place is, however its pacer waits."""

    def __init__(self, pacer: _P, window: Window | None, priority: int) -> None:
        self._pacer = pacer
        self._window = window
        self._priority = priority
        self._turn: Turn | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    @abstractmethod
    def leave(self) -> None:
        """Gives it back, where it is held."""


class AsyncPacer:
    """A window on asyncio, for the calls of one client; without a policy there is always room."""

    def __init__(self, policy: PacePolicy | None, clock: Clock = time.monotonic_ns) -> None:
        self._window = None if policy is None else Window(policy)
        self._clock = clock
        self._wakers: dict[Turn, asyncio.Event] = {}

    @property
    def pacing(self) -> Pacing | None:
        """What it does now; None where it is switched off."""
        return None if self._window is None else self._window.pacing(self._clock())

    def place(self, priority: int) -> AsyncPlace:
        """For one request; to be taken before each try."""
        return AsyncPlace(self, self._window, priority)

    async def wait(self, turn: Turn, window: Window, deadline_ns: int | None) -> None:
        """Returns once the turn has a place; DeadlineExpired."""
        waker = self._wakers[turn] = asyncio.Event()
        try:
            while True:  # Ends with a place or at the deadline; each turn waits for one of them.
                self.wake()
                if turn.has_place:
                    return
                now_ns = self._clock()
                if deadline_ns is not None and now_ns >= deadline_ns:
                    raise too_late()
                try:
                    async with asyncio.timeout(patience_s(deadline_ns, window, now_ns)):
                        await waker.wait()
                except TimeoutError:
                    continue
        except BaseException:
            window.leave(turn)  # also a place that was given while the wait was cancelled
            self.wake()
            raise
        finally:
            del self._wakers[turn]

    def wake(self) -> None:
        """Lets go who may."""
        if self._window is not None:
            for turn in self._window.admit(self._clock()):
                self._wakers[turn].set()

    def now_ns(self) -> int:
        """By its clock."""
        return self._clock()


class AsyncPlace(_Place[AsyncPacer]):
    """One request's place in the window: `take` it before each try, leave it in the end."""

    async def take(self, deadline_ns: int | None) -> None:
        """Waits for it, where it is not held already; DeadlineExpired, and then nothing is held."""
        if self._window is None or self._turn is not None:
            return
        turn = self._window.enter(self._priority, self._pacer.now_ns())
        await self._pacer.wait(turn, self._window, deadline_ns)
        self._turn = turn

    def slow_down(self, retry_after_ms: int) -> None:
        """The broker asks for less."""
        if self._window is not None:
            self._window.slow_down(retry_after_ms, self._pacer.now_ns())

    def heed(self, error: BrokerError) -> BrokerError:
        """The try failed: gives the place back, unless the request may still be under way."""
        if self._window is not None and not keeps_its_place(error):
            self._window.refused(error, self._pacer.now_ns())
            self.leave()
        return error

    def complete(self) -> None:
        """It came to a good end."""
        if self._window is not None and self._turn is not None:
            self._window.complete(self._turn)
        self.leave()

    def leave(self) -> None:
        """Gives it back, where it is held."""
        if self._window is not None and self._turn is not None:
            self._window.leave(self._turn)
            self._turn = None
            self._pacer.wake()


class SyncPacer:
    """The same for plain threads."""

    def __init__(self, policy: PacePolicy | None, clock: Clock = time.monotonic_ns) -> None:
        self._window = None if policy is None else Window(policy)
        self._clock = clock
        # Guards the window. One for all who wait: who is let go is the window's to say.
        self.changed = threading.Condition()

    @property
    def pacing(self) -> Pacing | None:
        """What it does now; None where it is switched off."""
        with self.changed:
            return None if self._window is None else self._window.pacing(self._clock())

    def place(self, priority: int) -> SyncPlace:
        """For one request; to be taken before each try."""
        return SyncPlace(self, self._window, priority)

    def wait(self, turn: Turn, window: Window, deadline_ns: int | None) -> None:
        """Returns once the turn has a place; DeadlineExpired. With the lock held."""
        try:
            while True:  # Ends with a place or at the deadline; each turn waits for one of them.
                if window.admit(self._clock()):
                    self.changed.notify_all()
                if turn.has_place:
                    return
                now_ns = self._clock()
                if deadline_ns is not None and now_ns >= deadline_ns:
                    raise too_late()
                self.changed.wait(patience_s(deadline_ns, window, now_ns))
        except BaseException:
            window.leave(turn)
            self.changed.notify_all()
            raise

    def now_ns(self) -> int:
        """By its clock."""
        return self._clock()


class SyncPlace(_Place[SyncPacer]):
    """The same for plain threads."""

    def take(self, deadline_ns: int | None) -> None:
        """Waits for it, where it is not held already; DeadlineExpired, and then nothing is held."""
        if self._window is None or self._turn is not None:
            return
        with self._pacer.changed:
            turn = self._window.enter(self._priority, self._pacer.now_ns())
            self._pacer.wait(turn, self._window, deadline_ns)
        self._turn = turn

    def slow_down(self, retry_after_ms: int) -> None:
        """The broker asks for less."""
        with self._pacer.changed:
            if self._window is not None:
                self._window.slow_down(retry_after_ms, self._pacer.now_ns())

    def heed(self, error: BrokerError) -> BrokerError:
        """The try failed: gives the place back, unless the request may still be under way."""
        with self._pacer.changed:
            if self._window is not None and not keeps_its_place(error):
                self._window.refused(error, self._pacer.now_ns())
                self._end()
        return error

    def complete(self) -> None:
        """It came to a good end."""
        with self._pacer.changed:
            if self._window is not None and self._turn is not None:
                self._window.complete(self._turn)
            self._end()

    def leave(self) -> None:
        """Gives it back, where it is held."""
        with self._pacer.changed:
            self._end()

    def _end(self) -> None:
        if self._window is not None and self._turn is not None:
            self._window.leave(self._turn)
            self._turn = None
            self._pacer.changed.notify_all()
