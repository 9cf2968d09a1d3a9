"""What a client reads of its request: bounded, merged for slow readers, replayed to a new call.

Tokens go backend -> stream -> client without passing through the engine. The side that feeds never
waits: a client that reads slowly finds what has gathered merged into fewer messages, and one that
falls too far behind is told so and ends, instead of holding its slot for everybody.

Pieces are numbered once over all attempts of a request. Where an answer begins anew, those before
are void: they are dropped, the numbers count on, and each reader hears it at the place in the order
of events where it happened.
"""

from __future__ import annotations

import asyncio
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
from broker.runtime.pieces import Pieces, SoFar, merged


class Started(NamedTuple):
    """A backend has the request."""

    model: str
    backend: str
    substituted_for: str
    changes: tuple[str, ...]
    level: Level = Level.NORMAL
    attempt: int = 1  # of its attempts
    chosen_because: str = ""  # why this model, where its caller named none


class Requeued(NamedTuple):
    """The request waits again. Pieces with a number below `void_before` are void."""

    reason: str
    void_before: int = 0


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
    is_soft_met: bool | None = None  # was it by its soft deadline? None: it has none


Notice = TellQueued | Requeued | Started
StreamEvent = Notice | TellSlowDown | Pieces | Done


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
        "_void",
        "key",
        "outcome",
    )

    def __init__(self, key: RequestKey, bytes_max: int) -> None:
        self.key = key
        self._bytes_max = bytes_max
        self._pieces: list[Piece] = []
        self._base = 0  # number of the first piece still kept
        self._bytes_kept = 0
        self._notice: TellQueued | Requeued | None = None  # the last word while it waited
        self._void: Requeued | None = None  # the last word that made pieces void
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
    def void_before(self) -> int:
        """Pieces with a lower number are void."""
        return 0 if self._void is None else self._void.void_before

    @property
    def is_over(self) -> bool:
        """Will nothing more come?"""
        return self._done is not None or self._error is not None

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
        said = self._requeued(notice) if isinstance(notice, TellRequeued) else notice
        self._notice = said
        if self._subscription is not None:
            self._subscription.put(said, self.pieces_count)

    def _requeued(self, notice: TellRequeued) -> Requeued:
        self._started = self._on_first = None
        if not notice.voids_pieces:
            return Requeued(notice.reason)
        self._base = self.pieces_count
        self._pieces.clear()
        self._bytes_kept = 0
        self._void = Requeued(notice.reason, self._base)
        return self._void

    def start(self, started: Started, on_first: Callable[[], None]) -> None:
        """A backend has it now; `on_first` is called with its first pieces, before they go on."""
        self._started, self._on_first = started, on_first
        if self._subscription is not None:
            self._subscription.put(started, self.pieces_count)

    def feed(self, pieces: Sequence[Piece]) -> None:
        """Takes pieces from the backend. Raises ClientTooSlow when too much waits to be read."""
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            on_first()
        self._pieces.extend(pieces)
        for text, thinking, tool_calls in pieces:
            self._bytes_kept += len(text) + len(thinking)
            if tool_calls:
                self._bytes_kept += _bytes_of_calls(tool_calls)
        if self._bytes_kept > self._bytes_max:
            self._drop_read()
        if self._subscription is not None:
            self._subscription.wake()

    def _drop_read(self) -> None:
        """Forgets pieces that were read: from now on a new call cannot begin before them."""
        read = self._base
        if self._subscription is not None:  # which may not have heard yet that all before is void
            read = max(read, self._subscription.position)
        dropped = self._pieces[: read - self._base]
        for text, thinking, tool_calls in dropped:
            self._bytes_kept -= len(text) + len(thinking) + _bytes_of_calls(tool_calls)
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
            self._subscription.wake()

    # The side that reads

    def attach(self, resume_from: int = 0) -> Subscription:
        """A new reader, from piece `resume_from` on; where that one is void it is told, and begins
        after. The reader before it is told and ends."""
        self.check_resumable(resume_from)
        if self._subscription is not None:
            self._subscription.displace()
        subscription = Subscription(self, resume_from)
        # Who has all void pieces and none since has lost its call just before it was told.
        if self._void is not None and resume_from <= self._void.void_before:
            subscription.put(self._void, resume_from)
        if self._started is not None:
            subscription.put(self._started, resume_from)
        elif self._notice is not None and self._notice is not self._void:
            subscription.put(self._notice, resume_from)
        self._subscription = subscription
        return subscription

    def check_resumable(self, resume_from: int) -> None:
        """InvalidRequest unless a reader can begin with this piece."""
        first, last = self._base, self.pieces_count
        if first == self.void_before:
            first = 0  # the void ones before it are not sent, but may be asked for
        if not first <= resume_from <= last:
            problem = f"is {resume_from}; pieces {first} to {last} can be resumed"
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
        return merged(pieces[first:], position)

    def take_between(self, position: int, end: int) -> Pieces | None:
        """The same, of the pieces before `end`. None where they are void."""
        pieces = self._pieces[max(0, position - self._base) : max(0, end - self._base)]
        return merged(pieces, position) if pieces else None

    def so_far(self) -> SoFar:
        """What stands of the answer."""
        pieces = self._pieces
        return SoFar(
            "".join(each.text for each in pieces),
            "".join(each.thinking for each in pieces),
            any(each.tool_calls for each in pieces),
            self._base == self.void_before,
        )

    def ending(self) -> Done | BrokerError | None:
        return self._error or self._done


def _bytes_of_calls(calls: Sequence[ToolCall]) -> int:
    return sum(len(each.name) + len(each.arguments_json) for each in calls)


class Subscription:
    """One reader of a stream: an asynchronous iterator of events.

    It ends after Done, or by raising the BrokerError that ended the request, or TakenOver.
    """

    __slots__ = (
        "_displaced",
        "_notices",
        "_slow_down",
        "_stream",
        "_waiter",
        "is_over",
        "position",
    )

    def __init__(self, stream: ResponseStream, position: int) -> None:
        self._stream = stream
        self.position = position  # number of the next piece to read
        # What was said, each with the number of pieces that came before it. Few, and mostly none.
        self._notices: list[tuple[int, Notice]] = []
        self._slow_down: TellSlowDown | None = None  # the latest alone is worth reading
        self._waiter: asyncio.Future[None] | None = None
        self._displaced = False
        self.is_over = False  # Done was read

    @property
    def stream(self) -> ResponseStream:
        return self._stream

    @property
    def has_ended(self) -> bool:
        """Will nothing more come for this reader, however much is still to be read?"""
        return self._displaced or self._stream.is_over

    @property
    def is_behind(self) -> bool:
        """Do pieces wait that were not read?"""
        return self.position < self._stream.pieces_count

    def put(self, notice: Notice, before: int) -> None:
        """To be read once all pieces with a number below `before` were. Positions are conflated:
        only the latest is worth reading, so this stays short."""
        notices = self._notices
        if isinstance(notice, TellQueued) and notices and isinstance(notices[-1][1], TellQueued):
            notices.pop()
        notices.append((before, notice))
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
        self.wake()

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
            return self._next_notice()
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

    def _next_notice(self) -> Notice | Pieces:
        """The next notice, or first what came before it."""
        before, notice = self._notices[0]
        if before > self.position:
            pieces = self._stream.take_between(self.position, before)
            if pieces is not None:
                self.position += pieces.piece_count
                return pieces
        del self._notices[0]
        if isinstance(notice, Requeued):
            self.position = max(self.position, notice.void_before)
        return notice

    def wait(self) -> asyncio.Future[None]:
        """To be awaited when `poll` had nothing: done as soon as it may have. A bare future, since
        this is awaited once per token."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter
