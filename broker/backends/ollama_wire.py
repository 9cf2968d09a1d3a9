"""Ollama's streamed answers: bytes in, pieces and the end out, without any I/O.

Rules: an answer is lines of JSON, cut anywhere by the network; only `done` ends one well, whatever
the HTTP status was and however cleanly the body ended. A line with an `error` is a failure. What
stands before a failure is handed out first. Sources: reference/OLLAMA.md §1.1, §1.3, §1.4, §2, §6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from broker.backends.figures import Count, Nanoseconds
from broker.backends.ollama_errors import error_of_line
from broker.core.content import Completion, FinishReason, Piece, ToolCall
from broker.core.errors import BackendFailed

# Ollama's own client takes no longer line (api/client.go: maxBufferSize).
LINE_BYTES_MAX: Final = 8_000_000

_FINISH: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class LineTooLong(ValueError):
    """A line went on past the limit."""


class LineSplitter:
    """Cuts a stream of bytes into lines, wherever its parts are cut. Empty lines are left out."""

    __slots__ = ("_bytes_max", "_held")

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._held = bytearray()  # the line that has begun and not ended

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends; raises LineTooLong."""
        held = self._held
        if not held and len(data) <= self._bytes_max and data.find(b"\n") == len(data) - 1:
            return [data[:-1]] if len(data) > 1 else []  # one whole line, as nearly every read is
        lines = data.split(b"\n")
        rest = lines.pop()
        if held:
            # The buffer grows in place, so that a long line in short parts is not copied each time.
            if not lines:
                held += rest
                rest = b""
            else:
                held += lines[0]
                lines[0] = bytes(held)
                held.clear()
        if rest:
            held += rest
        if len(held) > self._bytes_max or any(len(line) > self._bytes_max for line in lines):
            raise LineTooLong
        return [line for line in lines if line]

    def end(self) -> bytes:
        """What stands after the last line end: a line too, when the stream is over."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    # As text, because its order is the model's and must be kept.
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct, gc=False):
    function: _Function
    id: str = ""


class _Line(msgspec.Struct, gc=False):
    """What the lines of /api/generate and /api/chat share. A figure of 0 is left out by Ollama."""

    done: bool = False
    done_reason: str = ""
    error: object = None
    total_duration: Nanoseconds = 0
    load_duration: Nanoseconds = 0
    prompt_eval_count: Count = 0
    prompt_eval_duration: Nanoseconds = 0
    eval_count: Count = 0
    eval_duration: Nanoseconds = 0


class GenerateLine(_Line, gc=False):
    """One line of /api/generate. `context` is not declared, so that it is never decoded."""

    response: str = ""
    thinking: str = ""
    tool_calls: list[_Call] | None = None


class _ChatMessage(msgspec.Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_Call] | None = None


class ChatLine(_Line, gc=False):
    """One line of /api/chat."""

    message: _ChatMessage | None = None


# Decoders keep no state between calls, so one of each serves every stream.
_decode_generate: Final[Callable[[bytes], GenerateLine]] = msgspec.json.Decoder(GenerateLine).decode
_decode_chat: Final[Callable[[bytes], ChatLine]] = msgspec.json.Decoder(ChatLine).decode

_NOTHING: Final = _ChatMessage()


class AnswerReader:
    """Reads one streamed answer of either endpoint.

    `feed` gives the pieces of one read in order. Once `completion` or `failure` is set the answer
    is over and more bytes mean nothing. `is_garbled` says that the failure is in the bytes, so that
    nothing which follows on the connection can be trusted.
    """

    __slots__ = ("_called", "_chat", "_lines", "completion", "failure", "is_garbled")

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._lines = LineSplitter()
        self._called = False  # the model called a tool, in whichever line
        self.completion: Completion | None = None
        self.failure: BackendFailed | None = None
        self.is_garbled = False

    @property
    def is_over(self) -> bool:
        return self.completion is not None or self.failure is not None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that these bytes complete; may be none."""
        if self.is_over:
            return []
        try:
            lines = self._lines.feed(data)
        except LineTooLong:
            self._garble(f"a line of the answer is over {LINE_BYTES_MAX} bytes")
            return []
        return self._read(lines)

    def end(self) -> list[Piece]:
        """The body is over: a line without its end counts, a missing terminator is a failure."""
        if self.is_over:
            return []
        rest = self._lines.end()
        pieces = self._read([rest]) if rest else []
        if not self.is_over:
            self.failure = BackendFailed("the answer ended without its terminator")
        return pieces

    def _read(self, lines: list[bytes]) -> list[Piece]:
        pieces: list[Piece] = []
        for data in lines:
            try:
                line: GenerateLine | ChatLine
                if self._chat:
                    line = _decode_chat(data)
                    said = line.message or _NOTHING
                    text, thinking, calls = said.content, said.thinking, said.tool_calls
                else:
                    line = _decode_generate(data)
                    text, thinking, calls = line.response, line.thinking, line.tool_calls
                called = self._calls(calls) if calls else ()
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._garble(f"a line of the answer cannot be read: {error}")
                break
            if line.error is not None:
                self.failure = error_of_line(line.error)
                break
            if text or thinking or called:
                pieces.append(Piece(text, thinking, called))
            if line.done:
                self.completion = self._completion(line)
                break
        return pieces

    def _garble(self, problem: str) -> None:
        self.failure = BackendFailed(problem)
        self.is_garbled = True

    def _calls(self, calls: list[_Call]) -> tuple[ToolCall, ...]:
        self._called = True
        return tuple(
            ToolCall(call.id, call.function.name, _arguments(call.function.arguments))
            for call in calls
        )

    def _completion(self, line: _Line) -> Completion:
        finish_reason = _FINISH.get(line.done_reason, FinishReason.UNSAID)
        # Ollama says `stop` when the model called a tool; that it did is what a caller must know.
        if finish_reason is FinishReason.STOP and self._called:
            finish_reason = FinishReason.TOOL_CALLS
        return Completion(
            finish_reason=finish_reason,
            prompt_tokens=line.prompt_eval_count,
            output_tokens=line.eval_count,
            prompt_duration_ns=max(0, line.prompt_eval_duration),
            output_duration_ns=max(0, line.eval_duration),
            load_duration_ns=max(0, line.load_duration),
            total_duration_ns=max(0, line.total_duration),
        )


def _arguments(raw: msgspec.Raw) -> str:
    """The arguments of a call as one JSON object; absent and null are an empty one."""
    text = bytes(raw).decode()
    if text == "null":
        return "{}"
    if not text.startswith("{"):
        raise msgspec.ValidationError("the arguments of a tool call are no object")
    return text
