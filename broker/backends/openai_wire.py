"""Streamed answers in OpenAI's dialect: bytes in, pieces and the end out, without any I/O.

Rules: an answer has ended well when it said why it finished, or something and then `[DONE]`; any
other has failed, whatever the HTTP status was and however cleanly the body ended. One that comes
whole, from a server that passes over `stream`, is taken as one piece. An `error` inside the stream
is a failure. Ollama's own /v1 swallows the errors of its runner: what is left is an empty
chunk that names no model (recorded: 67_killed_mid_v1_chat). A tool call comes in parts and is
handed out whole; one that the length cut off is dropped. A character whose halves come in two
events is put together. What stands before a failure is handed out first.
Sources: platform.openai.com/docs/api-reference/chat-streaming; vllm/entrypoints/openai;
llama.cpp tools/server; reference/OLLAMA.md §1.8 and §2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from broker.backends.figures import COUNT_MAX, Count
from broker.backends.openai_errors import error_of_event
from broker.backends.server_sent_events import ERROR, Event, EventSplitter
from broker.backends.surrogates import Halves
from broker.core.content import Completion, FinishReason, Piece, ToolCall
from broker.core.errors import BackendFailed, BrokerError

# As much as an Ollama's line may have: a tool call that a server hands out whole can be long.
EVENT_BYTES_MAX: Final = 8_000_000

_DONE: Final = b"[DONE]"
# More calls than that in one answer are no answer; indices may be given in any order.
CALLS_MAX: Final = 1_024
_NS_PER_MS: Final = 1_000_000
_MS_MAX: Final = 2**63 / _NS_PER_MS / 2

_FINISH: Final = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _CallPart(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    """vLLM has said `reasoning_content` and says `reasoning`, as Ollama and LM Studio do;
    llama-server says `reasoning_content`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_CallPart] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None  # in its place, of an answer that comes whole
    text: str | None = None  # of /v1/completions
    index: int = 0
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Count | None = 0
    completion_tokens: Count | None = 0


class _Timings(msgspec.Struct, gc=False):
    """llama-server alone says how long it took."""

    prompt_ms: float | None = 0.0
    predicted_ms: float | None = 0.0


class Chunk(msgspec.Struct, gc=False):
    """What the chunks of both endpoints share."""

    choices: list[_Choice] | None = None
    model: str | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: object = None
    kind: str | None = msgspec.field(default=None, name="object")
    message: str | None = None  # beside object "error": vLLM before 0.10


# A decoder keeps no state between calls, so one serves every stream.
_decode: Final[Callable[[bytes], Chunk]] = msgspec.json.Decoder(Chunk).decode


class _Call:
    """A tool call that is being written."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id, self.name = "", ""
        self.arguments: list[str] = []

    def add(self, part: _CallPart) -> None:
        self.id = self.id or part.id or ""
        if part.function is not None:
            # Some servers repeat the name, or send an empty one, with every part.
            self.name = self.name or part.function.name or ""
            if part.function.arguments:
                self.arguments.append(part.function.arguments)

    def whole(self) -> ToolCall | None:
        """The call; None where its arguments are no JSON object."""
        text = "".join(self.arguments).strip() or "{}"
        if text == "null":
            text = "{}"
        try:
            msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            return None
        return ToolCall(self.id, self.name, text)


class OpenAiAnswerReader:
    """Reads one streamed answer of either endpoint.

    `feed` gives the pieces of one read in order. Once `completion` or `failure` is set the answer
    is over and more bytes mean nothing. `is_garbled` says that the failure is in the bytes, so that
    nothing which follows on the connection can be trusted.
    """

    __slots__ = (
        "_calls",
        "_events",
        "_finish_reason",
        "_halves",
        "_has_spoken",
        "_named_model",
        "_pieces",
        "_timings",
        "_usage",
        "completion",
        "failure",
        "is_garbled",
    )

    def __init__(self) -> None:
        self._events = EventSplitter(EVENT_BYTES_MAX)
        self._halves = Halves()
        self._calls: dict[int, _Call] = {}
        self._finish_reason: FinishReason | None = None
        self._has_spoken = False
        self._named_model = False  # a chunk of this answer named its model
        self._pieces = 0
        self._usage: _Usage | None = None
        self._timings: _Timings | None = None
        self.completion: Completion | None = None
        self.failure: BrokerError | None = None
        self.is_garbled = False

    @property
    def is_over(self) -> bool:
        return self.completion is not None or self.failure is not None

    @property
    def has_finished(self) -> bool:
        """Has it said why it finished? Then nothing that matters can be missing."""
        return self._finish_reason is not None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that these bytes complete; may be none."""
        if self.is_over:
            return []
        return self._read(self._events.feed(data))

    def end(self) -> list[Piece]:
        """The body is over: an event without its end counts, an answer that neither finished nor
        said `[DONE]` is a failure."""
        if self.is_over:
            return []
        pieces = self._read(self._events.end())
        if not self.is_over:
            if self.has_finished:
                self._complete([])  # those of this call were counted with the others
            else:
                self.failure = BackendFailed("the answer ended without its terminator")
        return pieces

    def _read(self, events: list[Event]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            if event.data == _DONE:
                self._finish(pieces)
                break
            chunk = self._chunk(event)
            if chunk is not None:
                self._take(event.kind, chunk, pieces)
            if self.is_over:
                break
        if self._events.problem and not self.is_over:
            self._garble(self._events.problem)
        self._pieces += len(pieces)
        self._has_spoken = self._has_spoken or bool(pieces)
        return pieces

    def _chunk(self, event: Event) -> Chunk | None:
        """What the event says; None where it cannot be read, which is a failure."""
        try:
            try:
                return _decode(event.data)
            except msgspec.DecodeError:
                mended = self._halves.mended(event.data)
                if mended == event.data:
                    raise
                return _decode(mended)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if event.kind == ERROR:
                self.failure = error_of_event(event.data.decode("utf-8", "replace"), False)
            else:
                self._garble(f"an event of the answer cannot be read: {error}")
            return None

    def _take(self, kind: str, chunk: Chunk, pieces: list[Piece]) -> None:
        if chunk.error is not None or kind == ERROR or chunk.kind == ERROR:
            has_spoken = self._has_spoken or bool(pieces)
            self.failure = error_of_event(chunk.error or {"message": chunk.message}, has_spoken)
            return
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        choice = next((each for each in chunk.choices or () if each.index == 0), None)
        if choice is None:
            return
        delta = choice.delta or _numbered(choice.message)
        text = choice.text or ""
        thinking = ""
        if delta is not None:
            text = delta.content or text
            thinking = delta.reasoning or delta.reasoning_content or ""
        if text or thinking:
            pieces.append(Piece(text, thinking))
        if delta is not None and delta.tool_calls:
            self._gather(delta.tool_calls, pieces)
        elif self._is_swallowed_error(chunk, choice, text or thinking):
            self.failure = BackendFailed("the server swallowed an error of its runner")
            return
        self._named_model = self._named_model or bool(chunk.model)
        if choice.finish_reason:
            self._finish_reason = _FINISH.get(choice.finish_reason, FinishReason.UNSAID)
            self._finish_calls(pieces)

    def _is_swallowed_error(self, chunk: Chunk, choice: _Choice, said: str) -> bool:
        counts = chunk.usage is not None and chunk.usage.completion_tokens
        is_empty = not said and not choice.finish_reason and not counts
        return is_empty and chunk.model == "" and self._named_model

    def _gather(self, parts: list[_CallPart], pieces: list[Piece]) -> None:
        """Adds to the calls that are being written. One is whole when the next begins."""
        for part in parts:
            if part.index not in self._calls:
                self._hand_out(pieces)
                if len(self._calls) >= CALLS_MAX:
                    self._garble(f"the answer calls more than {CALLS_MAX} tools")
                    return
                self._calls[part.index] = _Call()
            call = self._calls[part.index]
            if call is not _HANDED_OUT:
                call.add(part)

    def _hand_out(self, pieces: list[Piece]) -> None:
        """The calls that are whole. Those that are not may still go on: in turn, if servers mix."""
        for index, call in self._calls.items():
            whole = call.whole() if call is not _HANDED_OUT and call.arguments else None
            if whole is not None:
                pieces.append(Piece("", "", (whole,)))
                self._calls[index] = _HANDED_OUT

    def _finish_calls(self, pieces: list[Piece]) -> None:
        """All calls, as no more will come of them."""
        for index, call in self._calls.items():
            if call is _HANDED_OUT:
                continue
            whole = call.whole()
            if whole is not None:
                pieces.append(Piece("", "", (whole,)))
                self._calls[index] = _HANDED_OUT
            elif self._finish_reason is not FinishReason.LENGTH:
                self.failure = BackendFailed("the arguments of a tool call are no JSON object")
                return

    def _finish(self, pieces: list[Piece]) -> None:
        """`[DONE]`. It says that no more comes, and not that anything came."""
        self._finish_calls(pieces)
        if self.is_over:
            return
        if self.has_finished or self._has_spoken or pieces:
            self._complete(pieces)
        else:
            self.failure = BackendFailed("the answer ended without a word, and without a reason")

    def _garble(self, problem: str) -> None:
        self.failure = BackendFailed(problem)
        self.is_garbled = True

    def _complete(self, pieces: list[Piece]) -> None:
        usage, timings = self._usage or _Usage(), self._timings or _Timings()
        prompt_ns, output_ns = _ns(timings.prompt_ms), _ns(timings.predicted_ms)
        finish_reason = self._finish_reason or FinishReason.UNSAID
        # Some servers say `stop` when the model called a tool.
        if finish_reason is FinishReason.STOP and self._calls:
            finish_reason = FinishReason.TOOL_CALLS
        # A server that does not count is believed to send one token a piece, as nearly all do.
        said = self._pieces + len(pieces)
        counted = min(said, COUNT_MAX) if self._usage is None else 0
        self.completion = Completion(
            finish_reason=finish_reason,
            prompt_tokens=usage.prompt_tokens or 0,
            output_tokens=usage.completion_tokens or counted,
            prompt_duration_ns=prompt_ns,
            output_duration_ns=output_ns,
            total_duration_ns=prompt_ns + output_ns,
        )


_HANDED_OUT: Final = _Call()


def _numbered(message: _Delta | None) -> _Delta | None:
    """A whole message, whose calls are told apart by their places alone."""
    if message is not None:
        for place, call in enumerate(message.tool_calls or ()):
            call.index = place
    return message


def _ns(milliseconds: float | None) -> int:
    known = milliseconds or 0.0
    return int(known * _NS_PER_MS) if 0 < known < _MS_MAX else 0
