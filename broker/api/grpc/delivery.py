"""Ends the call of a client that does not take what its request has come to.

While a request runs its own deadline bounds it. Once it is over only the client decides how long
the rest of the answer is kept and the call stays open; so from then on it must take something at
least every `timeout_s`, and is ended within twice that. One timer for all calls, none per request.
The handler and the answer are let go then; the status waits in the transport behind what was sent,
for a client that reads again or goes away.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import structlog

from broker.api.grpc.status import abort
from broker.core.errors import ClientTooSlow
from broker.core.requests import RequestKey
from broker.runtime.streams import Subscription

_log = structlog.get_logger(__name__)


_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class _Delivery:
    """A call whose request is over. `seen` is how far its client had read at the last look, None
    before the first one."""

    call: asyncio.Task[object]
    context: _Context
    seen: int | None = None


class Deliveries:
    """The calls whose request is over and whose handler is not."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._open: dict[Subscription, _Delivery] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, context: _Context, subscription: Subscription) -> None:
        """Bounds the delivery to the client of the running call; to be called within its task,
        which must `leave` in the end."""
        call = asyncio.current_task()
        if call is None:
            raise RuntimeError("there is no call: no task runs")
        subscription.when_ended(partial(self._begin, call, context, subscription))

    def leave(self, subscription: Subscription) -> None:
        """The handler is done with this subscription, also where its request is not over yet."""
        subscription.forget_end()
        self._open.pop(subscription, None)

    def _begin(
        self, call: asyncio.Task[object], context: _Context, subscription: Subscription
    ) -> None:
        self._open[subscription] = _Delivery(call, context)
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._look)

    def _look(self) -> None:
        self._timer = None
        for subscription, delivery in list(self._open.items()):
            if delivery.seen == subscription.position:
                del self._open[subscription]
                self._end(delivery, subscription)
            else:
                delivery.seen = subscription.position
        if self._open:
            self._wait()

    def _end(self, delivery: _Delivery, subscription: Subscription) -> None:
        key, timeout_s = subscription.stream.key, self._timeout_s
        context, sent_pieces = delivery.context, subscription.position
        delivery.call.cancel()
        loop = asyncio.get_running_loop()
        delivery.call.add_done_callback(
            lambda _: _telling.add(loop.create_task(_tell(context, key, sent_pieces, timeout_s)))
        )


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
