"""What a client reads of its request: bounded, merged for slow readers, replayed to a new call.

Tokens go backend -> stream -> client without passing through the engine. The side that feeds never
waits: a client that reads slowly finds what has gathered merged into fewer messages, and one that
falls too far behind is told so and ends, instead of holding its slot for everybody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.core.content import Completion, Embeddings, Piece, ToolCall
from broker.core.effects import TellQueued, TellRequeued, TellSlowDown
from broker.core.errors import (
    BrokerError,
    ClientTooSlow,
    FieldProblem,
    InvalidRequest,
    TakenOver,
)
from broker.core.level import Level
from broker.core.requests import Outcome, RequestKey
from broker.core.value import value

# Pieces that gathered are merged up to this many bytes of text per message, well below what gRPC
# carries at once and far above a token.
MESSAGE_TEXT_BYTES_MAX = 64 * 1024


class Started(NamedTuple):
    """A backend has the request."""

    model: str
    backend: str
    substituted_for: str
    changes: tuple[str, ...]
    level: Level = Level.NORMAL


class Pieces(NamedTuple):
    """One or more pieces of the answer, merged. `seq` is the number of the first."""

    seq: int
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    piece_count: int


@value(kw_only=True)
class Timings:
    """Where the time of a request went, in nanoseconds."""

    queue_wait_ns: int
    load_wait_ns: int
    first_token_ns: int
    per_token_ns: int
    total_ns: int


class Done(NamedTuple):
    """The request is complete."""

    model: str
    result: Completion | Embeddings
    timings: Timings
    is_cached: bool = False  # not computed for this request


StreamEvent = TellQueued | TellSlowDown | TellRequeued | Started | Pieces | Done


class ResponseStream:
    """One request's way back to its client. At most one subscription reads it at a time."""

    __slots__ = (
        "_base",
        "_bytes_kept",
        "_bytes_max",
        "_done",
        "_error",
        "_notice",
        "_on_first",
        "_pieces",
        "_started",
        "_subscription",
        "key",
        "outcome",
    )

    def __init__(self, key: RequestKey, bytes_max: int) -> None:
        self.key = key
        self._bytes_max = bytes_max
        self._pieces: list[Piece] = []
        self._base = 0  # number of the first piece still kept
        self._bytes_kept = 0
        self._notice: TellQueued | TellRequeued | None = None  # the last word while it waited
        self._started: Started | None = None
        self._on_first: Callable[[], None] | None = None
        self._done: Done | None = None
        self._error: BrokerError | None = None
        self._subscription: Subscription | None = None
        self.outcome: Outcome | None = None  # how it ended, unless well

    @property
    def pieces_count(self) -> int:
        """Pieces that came so far."""
        return self._base + len(self._pieces)

    @property
    def started(self) -> Started | None:
        """Who has it, or had it last; None while it waits."""
        return self._started

    # The side that feeds; never waits

    def tell(self, notice: TellQueued | TellSlowDown | TellRequeued) -> None:
        if isinstance(notice, TellSlowDown):  # no state of the request: a later reader needs it not
            if self._subscription is not None:
                self._subscription.slow_down(notice)
            return
        self._notice = notice
        if isinstance(notice, TellRequeued):
            self._started = None
        if self._subscription is not None:
            self._subscription.put(notice)

    def start(self, started: Started, on_first: Callable[[], None]) -> None:
        """A backend has it now; `on_first` is called with its first pieces, before they go on."""
        self._started, self._on_first = started, on_first
        if self._subscription is not None:
            self._subscription.put(started)

    def feed(self, pieces: Sequence[Piece]) -> None:
        """Takes pieces from the backend. Raises ClientTooSlow when too much waits to be read."""
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            on_first()
        self._pieces.extend(pieces)
        for text, thinking, _ in pieces:
            self._bytes_kept += len(text) + len(thinking)
        if self._bytes_kept > self._bytes_max:
            self._drop_read()
        if self._subscription is not None:
            self._subscription.wake()

    def _drop_read(self) -> None:
        """Forgets pieces that were read: from now on a new call cannot begin before them."""
        read = self._subscription.position if self._subscription is not None else self._base
        dropped = self._pieces[: read - self._base]
        self._bytes_kept -= sum(len(each.text) + len(each.thinking) for each in dropped)
        del self._pieces[: len(dropped)]
        self._base = read
        if self._bytes_kept > self._bytes_max:
            raise ClientTooSlow(
                f"more than {self._bytes_max} bytes of the answer wait to be read by its client"
            )

    def finish(self, done: Done) -> None:
        self._done = done
        self._end()

    def fail(self, error: BrokerError, outcome: Outcome) -> None:
        self._error, self.outcome = error, outcome
        self._end()

    def _end(self) -> None:
        self._on_first = None  # vectors and what was cut off have no first piece
        if self._subscription is not None:
            self._subscription.end()

    # The side that reads

    def attach(self, resume_from: int = 0) -> Subscription:
        """A new reader, from piece `resume_from` on. The reader before it is told and ends."""
        self.check_resumable(resume_from)
        if self._subscription is not None:
            self._subscription.displace()
        subscription = Subscription(self, resume_from)
        if self._started is not None:
            subscription.put(self._started)
        elif self._notice is not None:
            subscription.put(self._notice)
        self._subscription = subscription
        return subscription

    def check_resumable(self, resume_from: int) -> None:
        """InvalidRequest unless a reader can begin with this piece."""
        if not self._base <= resume_from <= self.pieces_count:
            problem = f"is {resume_from}; pieces {self._base} to {self.pieces_count} can be resumed"
            raise InvalidRequest((FieldProblem(field="resume_from_seq", problem=problem),))

    def is_read_by(self, subscription: Subscription) -> bool:
        return self._subscription is subscription

    def detach(self, subscription: Subscription) -> None:
        """This reader reads no more. Each holds the other until then: what nobody lets go waits for
        the collector of cycles."""
        if self._subscription is subscription:
            self._subscription = None

    def take_from(self, position: int) -> Pieces | None:
        """What has gathered from piece `position` on, merged as far as order and size allow."""
        pieces = self._pieces
        first = position - self._base
        count = len(pieces) - first
        if count <= 0:
            return None
        if count == 1:
            text, thinking, tool_calls = pieces[first]
            return Pieces(position, text, thinking, tool_calls, 1)
        return _merge(pieces, first, position)

    def ending(self) -> Done | BrokerError | None:
        return self._error or self._done


def _merge(pieces: list[Piece], first: int, seq: int) -> Pieces:
    """In one message thinking comes before text and text before tool calls: where the order of the
    pieces is another, the message ends."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    size = count = 0
    for text, thinking, tool_calls in pieces[first:]:
        out_of_order = (thinking and (texts or calls)) or (text and calls)
        if count and (out_of_order or size >= MESSAGE_TEXT_BYTES_MAX):
            break
        if text:
            texts.append(text)
        if thinking:
            thoughts.append(thinking)
        calls.extend(tool_calls)
        size += len(text) + len(thinking)
        count += 1
    return Pieces(seq, "".join(texts), "".join(thoughts), tuple(calls), count)


class Subscription:
    """One reader of a stream: an asynchronous iterator of events.

    It ends after Done, or by raising the BrokerError that ended the request, or TakenOver.
    """

    __slots__ = (
        "_displaced",
        "_notices",
        "_on_end",
        "_slow_down",
        "_stream",
        "_waiter",
        "is_over",
        "position",
    )

    def __init__(self, stream: ResponseStream, position: int) -> None:
        self._stream = stream
        self.position = position  # number of the next piece to read
        self._notices: deque[TellQueued | TellRequeued | Started] = deque()
        self._slow_down: TellSlowDown | None = None  # the latest alone is worth reading
        self._waiter: asyncio.Future[None] | None = None
        self._displaced = False
        self._on_end: Callable[[], None] | None = None
        self.is_over = False  # Done was read

    @property
    def stream(self) -> ResponseStream:
        return self._stream

    def put(self, notice: TellQueued | TellRequeued | Started) -> None:
        """Positions are conflated: only the latest is worth reading, so this stays short."""
        last = self._notices[-1] if self._notices else None
        if isinstance(notice, TellQueued) and isinstance(last, TellQueued):
            self._notices.pop()
        self._notices.append(notice)
        self.wake()

    def slow_down(self, notice: TellSlowDown) -> None:
        """Takes the place of one that was not read yet."""
        self._slow_down = notice
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def displace(self) -> None:
        self._displaced = True
        self.end()

    def end(self) -> None:
        """Nothing more will come: what is left is to be read."""
        self.wake()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def when_ended(self, on_end: Callable[[], None]) -> None:
        """Has this called once when nothing more will come, however much is still to be read."""
        if self._displaced or self._stream.ending() is not None:
            on_end()
        else:
            self._on_end = on_end

    def forget_end(self) -> None:
        """Nobody wants to be called any more."""
        self._on_end = None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> StreamEvent:
        while True:
            event = self.poll()
            if event is not None:
                return event
            if self.is_over:
                raise StopAsyncIteration
            await self.wait()

    def poll(self) -> StreamEvent | None:
        """The next event if there is one now. Raises what ended the request."""
        if self._displaced:
            raise TakenOver("a newer call with the same request_id carries on")
        if self._notices:
            return self._notices.popleft()
        if self._slow_down is not None:
            notice, self._slow_down = self._slow_down, None
            return notice
        pieces = self._stream.take_from(self.position)
        if pieces is not None:
            self.position += pieces.piece_count
            return pieces
        if self.is_over:
            return None
        ending = self._stream.ending()
        if isinstance(ending, BrokerError):
            raise ending
        self.is_over = ending is not None
        return ending

    def wait(self) -> asyncio.Future[None]:
        """To be awaited when `poll` had nothing: done as soon as it may have. A bare future, since
        this is awaited once per token."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter
