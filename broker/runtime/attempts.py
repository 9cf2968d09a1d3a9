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
from broker.core.requests import AttemptId
from broker.core.stimuli import AttemptEnded, FirstToken, Stimulus
from broker.runtime.clock import Clock
from broker.runtime.continuing import can_continue, continued
from broker.runtime.streams import Done, ResponseStream, Started, Timings


@dataclass(slots=True)
class Errand:
    """A request while it is under way: what it carries, and the way back.

    `first_ns`: when the first piece that stands came; 0 before.
    """

    stream: ResponseStream
    content: GenerateContent | EmbedContent
    arrived_ns: int
    traceparent: str = ""
    attempt: AttemptId | None = None  # the one that it has now, or had last
    load_wait_ns: int = 0  # of its wait, how long its model was being loaded
    first_ns: int = 0
    pieces_before: int = 0  # those of attempts before the one that it has now, or had last
    done: Done | None = None

    @property
    def attempt_pieces(self) -> int:
        """Pieces of the attempt that it has now, or had last."""
        return self.stream.pieces_count - self.pieces_before

    def prepare(self, start: StartAttempt) -> None:
        """Another attempt will be made."""
        self.attempt, self.load_wait_ns = start.attempt, start.load_wait_ns
        self.pieces_before = self.stream.pieces_count
        if self.pieces_before == self.stream.void_before:
            self.first_ns = 0

    def begin(self, start: StartAttempt, on_first: Callable[[], None]) -> None:
        """It is made now; `on_first` is called with its first pieces."""
        started = Started(
            start.model,
            start.backend,
            start.substituted_for,
            start.changes,
            start.level,
            start.number,
            start.chosen_because,
        )
        self.stream.start(started, on_first)

    def content_for(self, start: StartAttempt) -> GenerateContent | EmbedContent:
        """What the backend gets: the level may have cut the length of the answer, and it may be
        asked to go on from the text so far."""
        content, tokens_max = self.content, start.output_tokens_max
        if isinstance(content, EmbedContent):
            return content
        if start.continues:
            content = continued(content, self.stream.so_far())
        if tokens_max is None:
            return content
        return replace(content, options={**content.options, "num_predict": tokens_max})

    def _pieces_kept(self) -> int:
        """Pieces of earlier attempts that stand."""
        return self.pieces_before - self.stream.void_before

    def whole(self, result: Completion | Embeddings) -> Completion | Embeddings:
        """What the answer has cost, with what stands of earlier attempts: only the last of them
        tells how many tokens it wrote."""
        kept = self._pieces_kept()
        if not kept or not isinstance(result, Completion):
            return result
        return replace(result, output_tokens=result.output_tokens + kept)

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
        "_start",
        "_verdict",
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
        self._verdict: BrokerError | None = None
        self._on_over: Callable[[AttemptEnded], None] | None = on_over
        errand.prepare(start)

    @property
    def attempt(self) -> AttemptId:
        return self._start.attempt

    @property
    def first_ns(self) -> int:
        """When its first piece came; 0 before."""
        return self._first_ns

    @property
    def pieces_count(self) -> int:
        """Its pieces so far."""
        return self._errand.attempt_pieces

    async def run(self, backend: Backend) -> None:
        """Calls the backend. When this is over no byte of the answer is read any more."""
        self._errand.begin(self._start, self._first_came)
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
            self._completed(result)

    def condemn(self, error: BrokerError) -> None:
        """It is being cut off for this reason, and not because its request was aborted."""
        self._verdict = error

    def abandon(self) -> None:
        """The task was cancelled. Nothing happens where the attempt is over already."""
        self._cut_off(self._verdict or Cancelled("aborted"))

    def _completed(self, result: Completion | Embeddings) -> None:
        now_ns, errand = self._clock.monotonic_ns(), self._errand
        errand.done = self._done(result, now_ns)
        output_tokens = slot_wait_ns = 0
        if isinstance(result, Completion):
            output_tokens, slot_wait_ns = result.output_tokens, _slot_wait_ns(result)
        self._over(
            AttemptEnded(
                self._start.attempt,
                None,
                result.prompt_tokens,
                output_tokens,
                errand.attempt_pieces,
                self._gap_ns(now_ns),
                slot_wait_ns,
            )
        )

    def _cut_off(self, error: BrokerError) -> None:
        """It is over without a terminator."""
        if self._on_over is None:
            return
        errand = self._errand
        content, pieces = errand.content, errand.attempt_pieces
        self._over(
            AttemptEnded(
                self._start.attempt,
                error,
                output_tokens=pieces,
                pieces=pieces,
                gap_ns=self._gap_ns(self._clock.monotonic_ns()),
                is_continuable=isinstance(content, GenerateContent)
                and can_continue(content, errand.stream.so_far()),
            )
        )

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
        if not self._errand.first_ns:
            self._errand.first_ns = self._first_ns
        self._feed(FirstToken(self._start.attempt))

    def _gap_ns(self, now_ns: int) -> int:
        """The mean time between its pieces. The last one came with the terminator or just before
        it: a clock is not read for each of them."""
        gaps = self._errand.attempt_pieces - 1
        return (now_ns - self._first_ns) // gaps if gaps > 0 and self._first_ns else 0

    def _done(self, result: Completion | Embeddings, now_ns: int) -> Done:
        errand = self._errand
        timings = Timings(
            queue_wait_ns=self._start.queue_wait_ns,
            load_wait_ns=self._start.load_wait_ns,
            first_token_ns=(errand.first_ns or now_ns) - errand.arrived_ns,
            per_token_ns=self._gap_ns(now_ns),
            total_ns=now_ns - errand.arrived_ns,
        )
        return Done(self._start.model, errand.whole(result), timings)


def _slot_wait_ns(result: Completion) -> int:
    """What the backend spent on nothing that it names; 0 where it names no total."""
    named_ns = result.load_duration_ns + result.prompt_duration_ns + result.output_duration_ns
    return max(0, result.total_duration_ns - named_ns)
