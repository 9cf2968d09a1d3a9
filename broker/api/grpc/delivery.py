"""Ends the call of a client that does not take what its request has come to.

Two bounds, one timer for all calls, nothing per token and no timer per request:
- While a request runs, the engine bounds it; but a client that takes nothing while pieces wait for
  it holds a slot for an answer that goes nowhere. After `stall_timeout_s` its request is ended.
- Once it is over only the client decides how long the rest of the answer is kept and the call
  stays open; it must take something at least every `timeout_s`.
Whoever stands still is found at one of the looks after that, which are a quarter of the shorter
time apart. The handler and the answer are let go then; the status waits in the transport behind
what was sent, for a client that reads again or goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from broker.api.grpc.status import abort
from broker.core.errors import ClientTooSlow
from broker.core.requests import Outcome, RequestKey
from broker.runtime.streams import Subscription

_log = structlog.get_logger(__name__)

_LOOKS: Final = 4  # per timeout

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """How long a client may take nothing, of an answer that is over and of one that runs."""

    timeout_s: float = 60.0
    stall_timeout_s: float = 30.0


@dataclass(slots=True)
class _Delivery:
    """A call that is open. `seen` is how far its client had read at the last look, `since_s` when
    it was last seen to move, or to have nothing to take."""

    call: asyncio.Task[object]
    context: _Context
    since_s: float
    seen: int = -1
    was_over: bool = False


class Deliveries:
    """The calls whose handler runs. `end_slow` ends the request of one that stalls."""

    def __init__(
        self, limits: DeliveryLimits, end_slow: Callable[[Subscription, ClientTooSlow], None]
    ) -> None:
        self._limits = limits
        self._end_slow = end_slow
        self._interval_s = min(limits.timeout_s, limits.stall_timeout_s) / _LOOKS
        self._open: dict[Subscription, _Delivery] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, context: _Context, subscription: Subscription) -> None:
        """Bounds the delivery to the client of the running call; to be called within its task,
        which must `leave` in the end."""
        call = asyncio.current_task()
        if call is None:
            raise RuntimeError("there is no call: no task runs")
        loop = asyncio.get_running_loop()
        self._open[subscription] = _Delivery(call, context, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(self._interval_s, self._look)

    def leave(self, subscription: Subscription) -> None:
        """The handler is done with this subscription."""
        self._open.pop(subscription, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for subscription, delivery in list(self._open.items()):
            is_over, position = subscription.has_ended, subscription.position
            takes = position != delivery.seen or not (is_over or subscription.is_behind)
            if takes or is_over != delivery.was_over:
                delivery.seen, delivery.was_over, delivery.since_s = position, is_over, now_s
            elif now_s - delivery.since_s >= self._limit_s(is_over):
                self._end(delivery, subscription, is_over=is_over)
        self._timer = loop.call_later(self._interval_s, self._look) if self._open else None

    def _limit_s(self, is_over: bool) -> float:
        return self._limits.timeout_s if is_over else self._limits.stall_timeout_s

    def _end(self, delivery: _Delivery, subscription: Subscription, *, is_over: bool) -> None:
        del self._open[subscription]
        when = "after its request was over" if is_over else "while more of it waited"
        error = ClientTooSlow(
            f"the client took nothing of its answer for {self._limit_s(is_over):g} s {when}"
        )
        stream = subscription.stream
        outcome = stream.outcome if is_over else Outcome.FAILED
        if not is_over:
            self._end_slow(subscription, error)
        context, sent_pieces = delivery.context, subscription.position
        delivery.call.cancel()
        loop = asyncio.get_running_loop()
        delivery.call.add_done_callback(
            lambda _: _telling.add(
                loop.create_task(_tell(context, stream.key, error, outcome, sent_pieces))
            )
        )


# The loop itself holds its tasks weakly. Each ends with its call, and calls are bounded.
_telling: set[asyncio.Task[None]] = set()


async def _tell(
    context: _Context,
    key: RequestKey,
    error: ClientTooSlow,
    outcome: Outcome | None,
    sent_pieces: int,
) -> None:
    _log.warning("client too slow", agent_id=key[0], request_id=key[1], problem=error.message)
    try:
        # What it raises says that the status is on its way, or that the client went away.
        with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
            await abort(context, error, outcome=outcome, sent_pieces=sent_pieces)
    finally:
        _telling.difference_update(filter(None, (asyncio.current_task(),)))
