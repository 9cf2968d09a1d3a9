"""Paces what one client sends: how many of its requests may be under way at once. Pure: time is an
argument.

The window follows the rule by which TCP shares a line nobody measures (additive increase,
multiplicative decrease: D.-M. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms
for Congestion Avoidance in Computer Networks", Computer Networks and ISDN Systems 17, 1989; RFC
5681, section 3.1). A completed request widens it by 1/window, so that a window of requests adds
one. A broker that asks for less, by `slow_down` or by a refusal that says when to come again,
halves it, once in the time that it asked for. Two details are RFC 5681's and RFC 7661's: what is
halved is what was really under way (FlightSize), for the room that nobody used is not what filled
the broker; and a window is widened only by those who make use of it.

While the time of a `slow_down` runs nothing new is sent. Who waits is let go in the order of
priority, then of arrival; and one that has waited a while in which nobody was let go goes though
there is no room, for it may be asked from within the answer that it waits for. The waiting itself
is in `pacers`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import grpc

from broker_client.errors import BrokerError, QueueFull
from broker_client.retry import NS_PER_MS, NS_PER_S

PRIORITY_DEFAULT: Final = 5
# Turns that were given up may stay in the line beside as many again as wait.
LEFT_MAX: Final = 16
# Longer than most answers take; who asks from within an answer waits no longer for itself.
STALL_NS: Final = 20 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """The window: how many requests may be under way at first, and at most."""

    window: int = 64
    window_max: int = 1024

    def __post_init__(self) -> None:
        if not 1 <= self.window <= self.window_max:
            raise ValueError("window must be at least 1, and at most window_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """What a client's pacing does now: at most `window` requests under way, `under_way` of them
    are, `waiting` wait here for room; `held_s` for so long nothing new is sent, as the broker
    asked."""

    window: int
    under_way: int
    waiting: int
    held_s: float


class Turn:
    """One request's turn: it waits, then is under way, then over. Compared by who goes first."""

    __slots__ = ("has_place", "is_over", "key")

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.has_place = False
        self.is_over = False

    def __lt__(self, other: Turn) -> bool:
        return self.key < other.key


class Window:
    """The window and the line before it. Not for several threads at once."""

    def __init__(self, policy: PacePolicy) -> None:
        self._policy = policy
        self._size = float(policy.window)
        self._under_way = 0
        self._line: list[Turn] = []  # a heap; holds turns that are over until they come to the top
        self._waiting = 0
        self._arrivals = 0
        self._waited_for_since_ns = 0  # since then there was always somebody in the line
        self._admitted_ns = 0  # the last time that one was let go
        self._held_until_ns: int | None = None
        self._halved_until_ns: int | None = None

    def enter(self, priority: int, now_ns: int) -> Turn:
        """A new turn, at the end of its priority's line; `admit` lets it go."""
        self._arrivals += 1
        turn = Turn((priority or PRIORITY_DEFAULT, self._arrivals))
        if not self._waiting:
            self._waited_for_since_ns = now_ns
        heapq.heappush(self._line, turn)
        self._waiting += 1
        return turn

    def admit(self, now_ns: int) -> list[Turn]:
        """Those who may be sent now: they have a place from here on."""
        admitted: list[Turn] = []
        while self._line and (self._line[0].is_over or self._has_room(now_ns)):
            turn = heapq.heappop(self._line)
            if not turn.is_over:
                turn.has_place = True
                self._waiting -= 1
                self._under_way += 1
                self._admitted_ns = now_ns
                admitted.append(turn)
        return admitted

    def held_ns(self, now_ns: int) -> int:
        """For how long nothing new is sent."""
        return 0 if self._held_until_ns is None else max(0, self._held_until_ns - now_ns)

    def changes_in_ns(self, now_ns: int) -> int:
        """When the first in line may go though nobody ends, for one who waits."""
        if self._under_way < int(self._size):
            return self.held_ns(now_ns)
        return max(self.held_ns(now_ns), self._stalls_in_ns(now_ns))

    def leave(self, turn: Turn) -> None:
        """Ends a turn, whether it waits or is under way; once is enough, more does no harm."""
        if turn.is_over:
            return
        turn.is_over = True
        if turn.has_place:
            self._under_way -= 1
            return
        self._waiting -= 1
        if len(self._line) > 2 * self._waiting + LEFT_MAX:
            self._line = [each for each in self._line if not each.is_over]
            heapq.heapify(self._line)

    def complete(self, turn: Turn) -> None:
        """Ends a turn that came to a good end: there may be room for more."""
        if turn.has_place and not turn.is_over and 2 * self._under_way >= self._size:
            self._size = min(self._size + 1 / self._size, float(self._policy.window_max))
        self.leave(turn)

    def slow_down(self, retry_after_ms: int, now_ns: int) -> None:
        """The broker asks for less: nothing new for so long, then half as much at once."""
        until_ns = now_ns + retry_after_ms * NS_PER_MS
        self._held_until_ns = max(until_ns, self._held_until_ns or until_ns)
        self._halve(until_ns, now_ns)

    def refused(self, error: BrokerError, now_ns: int) -> None:
        """The broker turned something away; halves where that was for too much being sent."""
        if is_too_much(error) and error.retry_after_s is not None:
            self._halve(now_ns + round(error.retry_after_s * NS_PER_S), now_ns)

    def pacing(self, now_ns: int) -> Pacing:
        """What it does now."""
        return Pacing(
            window=int(self._size),
            under_way=self._under_way,
            waiting=self._waiting,
            held_s=self.held_ns(now_ns) / NS_PER_S,
        )

    def _halve(self, until_ns: int, now_ns: int) -> None:
        if self._halved_until_ns is not None and now_ns < self._halved_until_ns:
            return
        self._halved_until_ns = until_ns
        self._size = max(1.0, min(self._size, float(self._under_way)) / 2)

    def _has_room(self, now_ns: int) -> bool:
        if self.held_ns(now_ns):
            return False
        return self._under_way < int(self._size) or not self._stalls_in_ns(now_ns)

    def _stalls_in_ns(self, now_ns: int) -> int:
        """When the line will have stood still for too long."""
        return max(0, max(self._waited_for_since_ns, self._admitted_ns) + STALL_NS - now_ns)


def is_too_much(error: BrokerError) -> bool:
    """Was it refused because too much was sent? What is short for all alike, as a level or a
    breaker, is no matter of this agent's rate."""
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED or isinstance(error, QueueFull)
