"""One call to a backend for one request, from its start to its proven end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from broker.core.content import (
    Completion,
    EmbedContent,
    Embeddings,
    FinishReason,
    GenerateContent,
    Piece,
)
from broker.core.effects import Answer, StartAttempt
from broker.core.errors import BrokerError, Cancelled, Internal
from broker.core.ports import Backend
from broker.core.stimuli import AttemptEnded, FirstToken, Stimulus
from broker.runtime.clock import Clock
from broker.runtime.streams import Done, ResponseStream, Started, Timings


@dataclass(slots=True)
class Errand:
    """A request while it is under way: what it carries, and the way back."""

    stream: ResponseStream
    content: GenerateContent | EmbedContent
    arrived_ns: int
    traceparent: str = ""
    load_wait_ns: int = 0  # of its wait, how long its model was being loaded
    done: Done | None = None

    def content_for(self, start: StartAttempt) -> GenerateContent | EmbedContent:
        """What the backend gets: the level may have cut the length of the answer."""
        content, tokens_max = self.content, start.output_tokens_max
        if tokens_max is None or isinstance(content, EmbedContent):
            return content
        return replace(content, options={**content.options, "num_predict": tokens_max})

    def answer(self, text: str, answer: Answer, now_ns: int) -> None:
        """The operator's default answer in place of a model's."""
        started = Started("", "", "", answer.changes, answer.level)
        self.stream.start(started, lambda: None)
        self.stream.feed([Piece(text, "", ())])
        times = Timings(
            queue_wait_ns=answer.queue_wait_ns,
            load_wait_ns=0,
            first_token_ns=now_ns - self.arrived_ns,
            per_token_ns=0,
            total_ns=now_ns - self.arrived_ns,
        )
        self.done = Done(
            "",
            Completion(finish_reason=FinishReason.STOP, prompt_tokens=0, output_tokens=0),
            times,
            is_cached=True,
        )


class Call:
    """One attempt: the moments of a backend call, and the way of its pieces.

    Ends by calling `on_over` exactly once, with how it ended. `run` does so as its last step;
    `abandon` is for a task that was cancelled before its first one. An answer without its
    terminator tells no count of its tokens: the pieces that came are the least it has cost.
    """

    __slots__ = (
        "_clock",
        "_errand",
        "_feed",
        "_first_ns",
        "_on_over",
        "_pieces_before",
        "_start",
    )

    def __init__(
        self,
        start: StartAttempt,
        errand: Errand,
        clock: Clock,
        feed: Callable[[Stimulus], None],
        on_over: Callable[[AttemptEnded], None],
    ) -> None:
        self._start = start
        self._errand = errand
        self._clock = clock
        self._feed = feed
        self._first_ns = 0
        self._pieces_before = errand.stream.pieces_count  # of an attempt before this one
        self._on_over: Callable[[AttemptEnded], None] | None = on_over

    async def run(self, backend: Backend) -> None:
        """Calls the backend. When this is over no byte of the answer is read any more."""
        start, errand = self._start, self._errand
        started = Started(
            start.model, start.backend, start.substituted_for, start.changes, start.level
        )
        errand.stream.start(started, self._first_came)
        try:
            result = await self._call(backend)
        except BrokerError as failure:
            self._cut_off(failure)
        except asyncio.CancelledError:
            self.abandon()
            raise
        except BaseException:
            self._cut_off(Internal("the broker failed this request"))
            raise
        else:
            errand.done = self._done(result)
            output_tokens = result.output_tokens if isinstance(result, Completion) else 0
            self._over(AttemptEnded(start.attempt, None, result.prompt_tokens, output_tokens))

    def abandon(self) -> None:
        """The task was cancelled. Nothing happens where the attempt is over already."""
        self._cut_off(Cancelled("aborted"))

    def _cut_off(self, error: BrokerError) -> None:
        """It is over without a terminator."""
        self._over(AttemptEnded(self._start.attempt, error, output_tokens=self._pieces_count()))

    def _over(self, ended: AttemptEnded) -> None:
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over(ended)

    async def _call(self, backend: Backend) -> Completion | Embeddings:
        start, content = self._start, self._errand.content_for(self._start)
        if isinstance(content, EmbedContent):
            return await backend.embed(start.model, content, num_ctx=start.num_ctx)
        return await backend.generate(
            start.model, content, num_ctx=start.num_ctx, on_pieces=self._errand.stream.feed
        )

    def _first_came(self) -> None:
        self._first_ns = self._clock.monotonic_ns()
        self._feed(FirstToken(self._start.attempt))

    def _pieces_count(self) -> int:
        """Pieces of this attempt so far."""
        return self._errand.stream.pieces_count - self._pieces_before

    def _done(self, result: Completion | Embeddings) -> Done:
        now_ns = self._clock.monotonic_ns()
        arrived_ns = self._errand.arrived_ns
        gaps = max(0, self._pieces_count() - 1)
        first_ns = self._first_ns or now_ns
        timings = Timings(
            queue_wait_ns=self._start.queue_wait_ns,
            load_wait_ns=self._start.load_wait_ns,
            first_token_ns=first_ns - arrived_ns,
            # The last piece came with the terminator or just before it: a clock is not read for
            # each of them.
            per_token_ns=(now_ns - first_ns) // gaps if gaps else 0,
            total_ns=now_ns - arrived_ns,
        )
        return Done(self._start.model, result, timings)
