"""One generation from the client's side, without I/O: what to send, what arrives, what follows.

Both transports drive this same object: they ask it for the request to send, hand it each message,
and ask it what follows from an error. It counts the pieces received, so that a call which is made
again after a lost connection carries on where the old one stopped. The pieces must then come
without a gap and without a repeat; anything else would splice two answers, and is an error.
"""

from __future__ import annotations

import grpc

from broker_client.awareness import ResourceAwareness, is_degraded
from broker_client.errors import (
    BrokerError,
    ConnectionLost,
    DeadlineExpired,
    RequestUnknown,
    StreamBroken,
    local_details,
)
from broker_client.events import Chunk, Done, Event, Lowered, Requeued, Retrying, event_of
from broker_client.pb.broker.v1 import inference_pb2
from broker_client.retry import NS_PER_S, Attempts, RetryPolicy


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
        self._received = 0
        self._done: Done | None = None

    @property
    def request_id(self) -> str:
        """The request's id: for Cancel, and for the broker's logs."""
        return self._request.request_id

    def lower(self, awareness: ResourceAwareness, level: str) -> Lowered | None:
        """To be called before the first try only: all tries are one request. None where nothing
        is lowered."""
        changes = awareness.lower(self._request.options) if is_degraded(level) else ()
        return Lowered(level=level, changes=changes) if changes else None

    def request(self) -> inference_pb2.GenerateRequest:
        """What to send on the next try."""
        self._request.resume_from_seq = self._received
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
            if event.seq != self._received:
                raise self._broken(f"piece {event.seq} came where {self._received} was due")
            self._received += event.tokens
        elif isinstance(event, Requeued):
            if event.discard_before_seq > self._received:
                raise self._broken(f"piece {self._received} was void before it came")
            self._received = event.discard_before_seq
        elif isinstance(event, Done):
            self._done = event
            return None
        return event

    def finish(self) -> Done:
        """To be called when the stream ended with OK."""
        if self._done is None:
            raise self._broken("the stream ended well but without a done event")
        return self._done

    def fail(self, error: BrokerError, *, now_ns: int, chance: float) -> Done | Retrying:
        """What follows from an error: the end after all, another try, or the error raised."""
        if self._done is not None:
            # The answer is whole; what happened to the connection afterwards changes nothing.
            return self._done
        if isinstance(error, RequestUnknown) and self._request.resume_from_seq > 0:
            lost = "the connection was lost, and meanwhile the broker has dropped the request"
            raise ConnectionLost(local_details(error.code, lost)) from error
        delay_ns = self._attempts.delay_ns(
            error, received=self._received, now_ns=now_ns, chance=chance
        )
        return Retrying(error=error, delay_s=delay_ns / NS_PER_S)

    def _broken(self, what: str) -> StreamBroken:
        return StreamBroken(local_details(grpc.StatusCode.UNKNOWN, what))
