"""Ends the call of a client that does not take what its request has come to.

While a request runs its own deadline bounds it. Once it is over only the client decides how long
the rest of the answer is kept and the call stays open; so from then on it must take something every
`timeout_s`. One timer per request, none per token. The handler and the answer are let go then; the
status waits in the transport behind what was sent, for a client that reads again or goes away.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import structlog

from broker.api.grpc.status import abort
from broker.core.errors import ClientTooSlow
from broker.core.requests import RequestKey
from broker.runtime.streams import Subscription

_log = structlog.get_logger(__name__)


_Context = grpc.aio.ServicerContext[Any, Any]


class Delivery:
    """Watches one call, from the end of its request to the end of its handler."""

    __slots__ = ("_call", "_context", "_seen", "_subscription", "_timeout_s", "_timer")

    def __init__(
        self,
        call: asyncio.Task[object],
        context: _Context,
        subscription: Subscription,
        timeout_s: float,
    ) -> None:
        self._call = call
        self._context = context
        self._subscription = subscription
        self._timeout_s = timeout_s
        self._seen = 0
        self._timer: asyncio.TimerHandle | None = None
        subscription.when_ended(self._begin)

    def _begin(self) -> None:
        self._wait()
        self._call.add_done_callback(self._handled)

    def _wait(self) -> None:
        self._seen = self._subscription.position
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._look)

    def _look(self) -> None:
        if self._subscription.position != self._seen:
            self._wait()
            return
        key, timeout_s = self._subscription.stream.key, self._timeout_s
        context, sent_pieces = self._context, self._subscription.position
        self._call.cancel()
        loop = asyncio.get_running_loop()
        self._call.add_done_callback(
            lambda _: _telling.add(loop.create_task(_tell(context, key, sent_pieces, timeout_s)))
        )

    def _handled(self, _: asyncio.Task[object]) -> None:
        if self._timer is not None:
            self._timer.cancel()


# The loop itself holds its tasks weakly. Each ends with its call, and calls are bounded.
_telling: set[asyncio.Task[None]] = set()


async def _tell(context: _Context, key: RequestKey, sent_pieces: int, timeout_s: float) -> None:
    problem = f"the client took nothing of its answer for {timeout_s} s after its request was over"
    _log.warning("client too slow", agent_id=key[0], request_id=key[1], problem=problem)
    try:
        # What it raises says that the status is on its way, or that the client went away.
        with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
            await abort(context, ClientTooSlow(problem), sent_pieces=sent_pieces)
    finally:
        _telling.difference_update(filter(None, (asyncio.current_task(),)))


def watch_delivery(context: _Context, subscription: Subscription, timeout_s: float) -> None:
    """Bounds the delivery to the client of the running call; to be called within its task."""
    call = asyncio.current_task()
    if call is None:
        raise RuntimeError("there is no call: no task runs")
    Delivery(call, context, subscription, timeout_s)
