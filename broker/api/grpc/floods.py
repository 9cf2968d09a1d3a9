"""What one connection may send, and one agent may have open.

gRPC bounds the streams and the pings of a connection (`server.py`). Here is what it does not bound:
how fast a connection opens calls, how long the bytes of a request may take to arrive, and how many
calls an agent has open over all its connections. Calls of health and reflection are not counted:
they cost nothing that is scarce.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import grpc

from broker.core.errors import CallRateLimited, CallsFull, ClientTooSlow

_Context = grpc.aio.ServicerContext[Any, Any]

# Connections that are remembered: more than the descriptors a process usually has.
PEERS_MAX: Final = 16_384

_LOOKS: Final = 4  # per timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodLimits:
    """What one connection may do. `request_timeout_s`: how long a request may take to come whole,
    from the opening of its call."""

    calls_per_s: float = 200.0
    calls_burst: float = 1_000.0
    request_timeout_s: float = 30.0


class CallRates:
    """A token bucket for each connection, as one number: when it will be full again.

    A full bucket is as good as none, so those are forgotten as others come; where too many are not
    full, the one that was used longest ago is.
    """

    def __init__(self, limits: FloodLimits, peers_max: int = PEERS_MAX) -> None:
        self._each_s = 1 / limits.calls_per_s
        self._burst_s = limits.calls_burst / limits.calls_per_s
        self._rule = f"{limits.calls_per_s:g} a second, {limits.calls_burst:g} at once"
        self._peers_max = peers_max
        self._full_at_s: dict[str, float] = {}  # the one used longest ago comes first

    def __len__(self) -> int:
        return len(self._full_at_s)

    def take(self, peer: str, now_s: float) -> None:
        """One call of this connection; CallRateLimited where that is too fast."""
        known = self._full_at_s
        full_at_s = max(now_s, known.pop(peer, now_s)) + self._each_s
        if full_at_s - now_s > self._burst_s:
            known[peer] = full_at_s - self._each_s  # what is refused takes nothing
            wait_ns = int((full_at_s - now_s - self._burst_s) * 1e9) + 1
            raise CallRateLimited(
                f"this connection opens calls too fast; it may open {self._rule}",
                retry_after_ns=wait_ns,
            )
        known[peer] = full_at_s
        self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        """Two at most: one comes at a time."""
        known = self._full_at_s
        for _ in range(2):
            oldest = next(iter(known))
            if known[oldest] > now_s and len(known) <= self._peers_max:
                return
            del known[oldest]


class Arrivals:
    """Calls whose request has not come whole yet. One timer for all ends those that take too
    long, so that a client which sends byte by byte holds its call for a while only."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._coming: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: _Context) -> object:
        """The request of the call whose task runs. ClientTooSlow where it does not come in time."""
        call = asyncio.current_task()
        if call is None:
            raise RuntimeError("there is no call: no task runs")
        loop = asyncio.get_running_loop()
        self._coming[call] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s / _LOOKS, self._look)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if call not in self._late:
                raise  # the client went away
            call.uncancel()
            raise ClientTooSlow(
                f"the request had not come whole after {self._timeout_s:g} s"
            ) from None
        finally:
            self._late.discard(call)
            del self._coming[call]

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        before_s = loop.time() - self._timeout_s
        for call, since_s in self._coming.items():  # the first that came comes first
            if since_s > before_s:
                break
            if call not in self._late:
                self._late.add(call)
                call.cancel()
        again = self._timeout_s / _LOOKS
        self._timer = loop.call_later(again, self._look) if self._coming else None


class OpenCalls:
    """How many calls that wait for work each agent has open."""

    def __init__(self, per_agent_max: int) -> None:
        self._per_agent_max = per_agent_max
        self._open: dict[str, int] = {}

    def enter(self, agent_id: str) -> None:
        """One more, which must `leave`. CallsFull where it has as many as may be."""
        count = self._open.get(agent_id, 0)
        if count >= self._per_agent_max:
            raise CallsFull(
                f"agent {agent_id!r} has {count} calls open, as many as one agent may have"
            )
        self._open[agent_id] = count + 1

    def leave(self, agent_id: str) -> None:
        count = self._open[agent_id] - 1
        if count:
            self._open[agent_id] = count
        else:
            del self._open[agent_id]


class Door:
    """What every call comes through before anybody looks at it."""

    def __init__(self, limits: FloodLimits) -> None:
        self._rates = CallRates(limits)
        self._arrivals = Arrivals(limits.request_timeout_s)

    async def receive(self, context: _Context) -> object:
        """The request of this call. CallRateLimited before any of it is read, ClientTooSlow."""
        self._rates.take(context.peer(), monotonic())
        return await self._arrivals.read(context)
