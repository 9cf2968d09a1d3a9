"""One generation from the client's side, without I/O: what to send, what arrives, what follows.

Both transports drive this same object: they ask it for the request to send, hand it each message,
and ask it what follows from an error. It counts the pieces received, so that a call which is made
again after a lost connection carries on where the old one stopped. The pieces must then come
without a gap and without a repeat; anything else would splice two answers, and is an error.

A broker that was restarted knows nothing of the request. What had no piece yet is sent anew, under
the same request_id. Where pieces had come, `on_interruption` says what may be done: with "restart"
and "continue" the request is sent anew and what came is void, for only the broker that is gone had
what going on from the text so far takes; else it is lost. The new broker counts from 0; what the
caller sees counts on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import grpc

from broker_client.awareness import ResourceAwareness, is_degraded
from broker_client.errors import (
    BrokerError,
    ConnectionLost,
    DeadlineExpired,
    ErrorDetails,
    RequestUnknown,
    StreamBroken,
    local_details,
)
from broker_client.events import Chunk, Done, Event, Lowered, Requeued, Retrying, event_of
from broker_client.pb.broker.v1 import inference_pb2
from broker_client.retry import NS_PER_S, Attempts, RetryPolicy

MAY_BEGIN_ANEW: Final = (
    inference_pb2.ON_INTERRUPTION_RESTART,
    inference_pb2.ON_INTERRUPTION_CONTINUE,
)


class Generation:
    """The state of one generation over all its tries."""

    def __init__(
        self,
        request: inference_pb2.GenerateRequest,
        *,
        policy: RetryPolicy,
        deadline_ns: int | None,
    ) -> None:
        self._request = request
        self._attempts = Attempts(policy, deadline_ns=deadline_ns)
        self._due = 0  # the number of the next piece, as the caller counts
        self._offset = 0  # what the caller's numbers are ahead of this broker's
        self._void = 0  # pieces with a lower number are void
        self._done: Done | None = None

    @property
    def request_id(self) -> str:
        """The request's id: for Cancel, and for the broker's logs."""
        return self._request.request_id

    @property
    def priority(self) -> int:
        """As it was asked for; 0: not said."""
        return self._request.priority

    @property
    def deadline_ns(self) -> int | None:
        """When all tries end; None: never."""
        return self._attempts.deadline_ns

    def lower(self, awareness: ResourceAwareness, level: str) -> Lowered | None:
        """To be called before the first try only: all tries are one request. None where nothing
        is lowered."""
        changes = awareness.lower(self._request.options) if is_degraded(level) else ()
        return Lowered(level=level, changes=changes) if changes else None

    def request(self) -> inference_pb2.GenerateRequest:
        """What to send on the next try."""
        self._request.resume_from_seq = self._due - self._offset
        return self._request

    def timeout_s(self, now_ns: int) -> float | None:
        """The gRPC time-out of the next try; DeadlineExpired where no time is left."""
        left_s = self._attempts.timeout_s(now_ns)
        if left_s == 0:
            raise DeadlineExpired(
                local_details(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            )
        return left_s

    def take(self, message: inference_pb2.GenerateEvent) -> Event | None:
        """The event for the caller. None for `done`, which `finish` gives, and unknown kinds."""
        event = event_of(message)
        if isinstance(event, Chunk):
            event = replace(event, seq=event.seq + self._offset) if self._offset else event
            if event.seq != self._due:
                raise self._broken(f"piece {event.seq} came where {self._due} was due")
            self._due += event.tokens
        elif isinstance(event, Requeued):
            return self._requeued(event)
        elif isinstance(event, Done):
            self._done = event
            return None
        return event

    def finish(self) -> Done:
        """To be called when the stream ended with OK."""
        if self._done is None:
            raise self._broken("the stream ended well but without a done event")
        return self._done

    def fail(self, error: BrokerError, *, now_ns: int, chance: float) -> Done | Retrying | Requeued:
        """What follows from an error: the end after all, another try after a while, or at once
        where it is `Requeued`, or the error raised."""
        if self._done is not None:
            # The answer is whole; what happened to the connection afterwards changes nothing.
            return self._done
        if isinstance(error, RequestUnknown) and self._request.resume_from_seq > 0:
            return self._begin_anew(error)
        delay_ns = self._attempts.delay_ns(
            error, received=self._due - self._offset, now_ns=now_ns, chance=chance
        )
        return Retrying(error=error, delay_s=delay_ns / NS_PER_S)

    def _requeued(self, event: Requeued) -> Requeued:
        """Void pieces that were not sent any more are due no more."""
        if not event.discard_before_seq:
            return event
        self._void = max(self._void, event.discard_before_seq + self._offset)
        self._due = max(self._due, self._void)
        return replace(event, discard_before_seq=self._void)

    def _begin_anew(self, error: RequestUnknown) -> Requeued:
        """Bounded, since pieces came: each time a connection must have been lost before."""
        if self._request.on_interruption not in MAY_BEGIN_ANEW:
            lost = "the connection was lost, and meanwhile the broker has dropped the request"
            standing = self._due - self._void
            details = ErrorDetails(code=error.code, message=lost, sent_pieces=standing)
            raise ConnectionLost(details) from error
        self._offset = self._void = self._due
        return Requeued(
            reason="the broker has lost the request, maybe by a restart; it is sent anew",
            discard_before_seq=self._due,
        )

    def _broken(self, what: str) -> StreamBroken:
        return StreamBroken(local_details(grpc.StatusCode.UNKNOWN, what))
