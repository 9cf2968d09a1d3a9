"""Whose turn it is to be told: subscribers are woken a few at a time, so that tokens go first.

To wake a subscriber costs a message on the wire: 50 us or so, which a thousand at once would make a
stop of everything. So a turn of the loop wakes few of them. What cannot wait (a change of the
level) goes on with the next turn, behind what the loop has gathered meanwhile. What can wait pauses
between turns; meanwhile events gather, and one message then carries several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FanoutPolicy:
    """How many are woken in a turn, of those that cannot wait and of those that can, and the pause
    between two turns of the latter. docs/benchmarks.md says what they cost and what they were
    chosen by. The timers of uvloop count in whole milliseconds.
    """

    at_once_wakes_per_turn: int = 8
    wakes_per_turn: int = 2
    pause_s: float = 0.002


class Sleeper(Protocol):
    """One that can be woken."""

    def wake(self) -> None: ...


class Turns(Protocol):
    """Of an event loop, what is needed here."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], object], /) -> Any: ...

    def call_later(self, delay_s: float, callback: Callable[[], object], /) -> Any: ...


class Fanout:
    """Those to be woken, each once, in the order in which they were due."""

    __slots__ = ("_is_soon", "_last_s", "_policy", "_timer", "_turns", "_urgent", "_waiting")

    def __init__(self, policy: FanoutPolicy, turns: Turns) -> None:
        self._policy = policy
        self._turns = turns
        self._urgent: dict[Sleeper, None] = {}
        self._waiting: dict[Sleeper, None] = {}
        self._is_soon = False
        self._timer: Any = None
        self._last_s = float("-inf")

    def due(self, sleeper: Sleeper, *, at_once: bool) -> None:
        """It has something to take."""
        if at_once:
            self._waiting.pop(sleeper, None)
            self._urgent[sleeper] = None
            if not self._is_soon:
                self._is_soon = True
                self._turns.call_soon(self._urgent_turn)
        elif sleeper not in self._urgent:
            self._waiting[sleeper] = None
            if self._timer is None:
                self._begin()

    def forget(self, sleeper: Sleeper) -> None:
        """It is not to be woken any more."""
        self._urgent.pop(sleeper, None)
        self._waiting.pop(sleeper, None)

    def _begin(self) -> None:
        """The next turn of those that can wait: at once if the last one is long enough ago."""
        rest_s = self._last_s + self._policy.pause_s - self._turns.time()
        if rest_s > 0:
            self._timer = self._turns.call_later(rest_s, self._turn)
        else:
            self._timer = self._turns.call_soon(self._turn)

    def _urgent_turn(self) -> None:
        self._is_soon = False
        _wake(self._urgent, self._policy.at_once_wakes_per_turn)
        if self._urgent:
            self._is_soon = True
            self._turns.call_soon(self._urgent_turn)

    def _turn(self) -> None:
        self._timer = None
        self._last_s = self._turns.time()
        _wake(self._waiting, self._policy.wakes_per_turn)
        if self._waiting:
            self._begin()


def _wake(sleepers: dict[Sleeper, None], count: int) -> None:
    for _ in range(min(count, len(sleepers))):
        sleeper = next(iter(sleepers))
        del sleepers[sleeper]
        sleeper.wake()
