"""What a model says, token by token, decided before the first token exists.

Rules: the same model, prompt and seed say the same; a scripted model says its script; a model that
was offered tools calls one, unless the last message is a tool's result; `format` brings JSON; a
stop word or num_predict ends it early. A character that spans tokens comes whole, one that is cut
off is dropped, broken ones become U+FFFD with the next text.

Source: reference/OLLAMA.md §1.1, §1.3, §1.4, §1.4b and §2 (repeat guard); recordings 10_, 16_, 20_.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from broker.sim.ollama_asked import Asked, Endpoint
from broker.sim.ollama_catalogue import Says, SaysKind, Template
from broker.sim.ollama_gojson import Json, marshal
from broker.sim.ollama_vocabulary import draw, mix, piece, sample_of_schema, seed_of

REPEATS_MAX: Final = 30  # llama_server.go:Completion gives up after more equal tokens in a row
_ENDLESS_TOKENS: Final = 1_000_000  # num_predict 0: more than any client waits for
_WRITTEN_OUT_TOKENS_MAX: Final = 20_000
_CALL_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_NATIVE_ID_LETTERS: Final = _CALL_ID_LETTERS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUMBER: Final = re.compile(r"[0-9]+")


class DoneReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    NONE = ""  # the repeat guard: the answer ends without a last line


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    id: str
    name: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one token adds to the answer; a token that adds nothing has no delta."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Speech(Protocol):
    """An answer in tokens. `tokens` counts all that the runner makes, the closing one included."""

    @property
    def tokens(self) -> int: ...

    @property
    def reason(self) -> DoneReason: ...

    def delta(self, index: int) -> Delta | None: ...

    @property
    def calls_at_end(self) -> tuple[ToolCall, ...]:
        """Tool calls that come in the last object only (native templates)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recited:
    """A speech written out in full."""

    deltas: tuple[Delta | None, ...]
    reason: DoneReason
    calls_at_end: tuple[ToolCall, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.deltas)

    def delta(self, index: int) -> Delta | None:
        return self.deltas[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvised:
    """Seeded words, made when they are asked for: an answer without end costs nothing at first."""

    seed: int
    thinking_tokens: int
    tokens: int
    reason: DoneReason
    eats_spaces: bool  # engine (b) trims the space where thinking and content begin

    @property
    def calls_at_end(self) -> tuple[ToolCall, ...]:
        return ()

    def delta(self, index: int) -> Delta | None:
        marks = 2 if self.thinking_tokens else 0
        inner = index - 1 if marks else index
        if index >= self.tokens - 1 and self.reason is DoneReason.STOP:
            return None
        if marks and index in (0, self.thinking_tokens + 1):
            return None
        if inner < self.thinking_tokens:
            return Delta(thinking=self._word(inner, first=inner == 0))
        inner -= self.thinking_tokens + (1 if marks else 0)
        return Delta(content=self._word(inner, first=bool(marks) and inner == 0))

    def _word(self, index: int, *, first: bool) -> str:
        word = piece(self.seed, index)
        return word.lstrip() if first and self.eats_spaces else word


class _Channel(Enum):
    CONTENT = "content"
    THINKING = "thinking"
    SILENT = "silent"  # a mark or a tool call's syntax: the parser keeps it


_Token = tuple[_Channel, bytes]


def compose(
    asked: Asked, prompt: str, *, num_ctx: int, server_seed: int, room: int | None = None
) -> Speech:
    """The answer to a request. `prompt` is the rendered text, `num_ctx` that of the runner.

    `room` is how many tokens there is place for where the context does not shift.
    """
    seed = seed_of(server_seed, asked.model.name, prompt, asked.options.seed)
    limit = _limit(asked, num_ctx)
    if room is not None:
        limit = min(limit, max(1, room))
    says = asked.model.says
    if says.kind is SaysKind.LOOP:
        return _loop(asked, says, limit)
    if says.kind is SaysKind.SCRIPT:
        return _script(asked, says, seed, limit)
    called = bool(asked.tools) and asked.messages[-1].role != "tool"
    if called:
        call = _invented_call(asked, seed)
        syntax = marshal({"name": call.name, "arguments": dict(call.arguments)})
        return _tool_answer(asked, call, _slices(syntax), limit)
    if asked.format is not None:
        schema: Json = asked.format if isinstance(asked.format, dict) else {"type": "object"}
        text = marshal(sample_of_schema(schema, seed))
        return _recite(asked, [(_Channel.CONTENT, part) for part in _slices(text)], limit)
    said = draw(seed, 2, says.output_tokens_min, says.output_tokens_max)
    if says.kind is SaysKind.TOLD:
        said = _told(prompt, said)
    return _improvise(asked, says, seed, said, limit)


def _told(prompt: str, otherwise: int) -> int:
    """The tokens before the closing one that a prompt asks for by its first number, if any."""
    number = _NUMBER.search(prompt)
    return max(0, int(number.group()[:9]) - 1) if number is not None else otherwise


def _limit(asked: Asked, num_ctx: int) -> int:
    """num_predict as it is bounded: 10 contexts at most, none at all for 0 (but see engine (a))."""
    wanted = asked.options.num_predict
    if wanted == 0:
        return 1 if _native_chat(asked) else _ENDLESS_TOKENS
    bound = 10 * num_ctx
    return bound if wanted < 0 else min(wanted, bound)


def _native_chat(asked: Asked) -> bool:
    return asked.endpoint is Endpoint.CHAT and asked.model.template is Template.NATIVE


def _slices(text: str) -> list[bytes]:
    raw = text.encode()
    return [raw[i : i + 4] for i in range(0, len(raw), 4)]


def _loop(asked: Asked, says: Says, limit: int) -> Speech:
    spoken = says.pieces or (b" again",)
    if _native_chat(asked) or len(spoken) > 1:
        limit = min(limit, _WRITTEN_OUT_TOKENS_MAX)
        tokens = [(_Channel.CONTENT, spoken[i % len(spoken)]) for i in range(limit)]
        return _recite(asked, tokens, limit)
    said = min(limit, REPEATS_MAX + 1)
    recited = _recite(asked, [(_Channel.CONTENT, spoken[0])] * said, limit)
    if said == limit:
        return recited
    # One more equal token is made and breaks the answer off; it is never sent.
    return Recited(deltas=(*recited.deltas[:said], None), reason=DoneReason.NONE)


def _script(asked: Asked, says: Says, seed: int, limit: int) -> Speech:
    if says.tool_call is not None and asked.tools and asked.endpoint is Endpoint.CHAT:
        arguments = _object(says.tool_call.arguments)
        call = ToolCall(id=_call_id(asked, seed), name=says.tool_call.name, arguments=arguments)
        return _tool_answer(asked, call, says.pieces or _slices(marshal(dict(arguments))), limit)
    tokens: list[_Token] = []
    if says.thinking:
        splits = bool(asked.think)
        inner = _Channel.THINKING if splits else _Channel.CONTENT
        mark = _Channel.SILENT if splits else _Channel.CONTENT
        tokens.append((mark, b"<think>"))
        tokens += [(inner, said) for said in says.thinking]
        tokens.append((mark, b"</think>"))
    tokens += [(_Channel.CONTENT, said) for said in says.pieces]
    return _recite(asked, tokens, limit)


def _object(text: str) -> dict[str, Json]:
    value: Json = json.loads(text)
    return value if isinstance(value, dict) else {}


def _call_id(asked: Asked, seed: int) -> str:
    """`call_` and 8 letters where Ollama reads the call, 32 letters where the runner does."""
    if _native_chat(asked):
        return "".join(_NATIVE_ID_LETTERS[mix(seed, i) % 62] for i in range(32))
    return "call_" + "".join(_CALL_ID_LETTERS[mix(seed, i) % 36] for i in range(8))


def _invented_call(asked: Asked, seed: int) -> ToolCall:
    functions = [tool["function"] for tool in asked.tools if isinstance(tool.get("function"), dict)]
    chosen: Json = functions[mix(seed, 1) % len(functions)] if functions else {}
    function = chosen if isinstance(chosen, dict) else {}
    sample = sample_of_schema(function.get("parameters"), seed)
    return ToolCall(
        id=_call_id(asked, seed),
        name=str(function.get("name", "")),
        arguments=sample if isinstance(sample, dict) else {},
    )


def _tool_answer(asked: Asked, call: ToolCall, syntax: Sequence[bytes], limit: int) -> Speech:
    """A call's syntax is kept by the parser; the call comes whole, or not at all if it is cut."""
    recited = _recite(asked, [(_Channel.SILENT, part) for part in syntax], limit)
    if recited.reason is not DoneReason.STOP:
        return recited
    if _native_chat(asked):
        return replace(recited, calls_at_end=(call,))
    deltas = list(recited.deltas)
    deltas[len(syntax) - 1] = Delta(tool_calls=(call,))
    return replace(recited, deltas=tuple(deltas))


def _recite(asked: Asked, tokens: Sequence[_Token], limit: int) -> Recited:
    """Turns tokens into what becomes visible with each of them."""
    cut = len(tokens) >= limit
    reader = _Reader(asked)
    deltas: list[Delta | None] = []
    for channel, raw in tokens[:limit]:
        deltas.append(reader.read(channel, raw))
        if reader.stopped:
            return Recited(deltas=tuple(deltas), reason=DoneReason.STOP)
    if cut:
        return Recited(deltas=_flushed(deltas, reader), reason=DoneReason.LENGTH)
    return Recited(deltas=(*_flushed(deltas, reader), None), reason=DoneReason.STOP)


def _flushed(deltas: list[Delta | None], reader: _Reader) -> tuple[Delta | None, ...]:
    """What was held back for a stop word that did not come belongs to the last token."""
    held = reader.held
    if held and deltas:
        last = deltas[-1] or Delta()
        deltas[-1] = replace(last, content=last.content + held)
    return tuple(deltas)


class _Reader:
    """Reads tokens as Ollama does: whole characters, no marks, nothing past a stop word."""

    def __init__(self, asked: Asked) -> None:
        self._stops = asked.options.stop
        self._eats_spaces = not _native_chat(asked)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._after_mark = False
        self.held = ""
        self.stopped = False

    def read(self, channel: _Channel, raw: bytes) -> Delta | None:
        if channel is _Channel.SILENT:
            self._after_mark = self._eats_spaces
            return None
        text = self._decoder.decode(raw)
        if self._after_mark:
            text = text.lstrip()
            self._after_mark = not text
        if channel is _Channel.THINKING:
            return Delta(thinking=text) if text else None
        shown = self._until_stop(text) if self._stops else text
        return Delta(content=shown) if shown else None

    def _until_stop(self, text: str) -> str:
        """Holds back what may be the beginning of a stop word (llama-server)."""
        pending = self.held + text
        found = [at for at in (pending.find(stop) for stop in self._stops if stop) if at >= 0]
        if found:
            self.stopped, self.held = True, ""
            return pending[: min(found)]
        keep = max(
            (n for stop in self._stops for n in range(len(stop)) if pending.endswith(stop[:n])),
            default=0,
        )
        self.held = pending[len(pending) - keep :] if keep else ""
        return pending[: len(pending) - keep]


def _improvise(asked: Asked, says: Says, seed: int, said: int, limit: int) -> Speech:
    thought = 0
    if asked.think and says.thinking_tokens_max:
        thought = draw(seed, 3, says.thinking_tokens_min, says.thinking_tokens_max)
    whole = said + thought + (2 if thought else 0) + 1
    reason = DoneReason.STOP if whole <= limit else DoneReason.LENGTH
    speech = Improvised(
        seed=seed,
        thinking_tokens=thought,
        tokens=min(whole, limit),
        reason=reason,
        eats_spaces=not _native_chat(asked),
    )
    return _stopped(asked, speech) if asked.options.stop else speech


def _stopped(asked: Asked, speech: Improvised) -> Speech:
    """The speech up to the first stop word, searched no further than a client would read."""
    reader = _Reader(asked)
    deltas: list[Delta | None] = []
    for index in range(min(speech.tokens, _WRITTEN_OUT_TOKENS_MAX)):
        delta = speech.delta(index)
        if delta is not None and delta.content:
            delta = reader.read(_Channel.CONTENT, delta.content.encode())
        deltas.append(delta)
        if reader.stopped:
            return Recited(deltas=tuple(deltas), reason=DoneReason.STOP)
    if speech.tokens > _WRITTEN_OUT_TOKENS_MAX:
        return speech
    return Recited(deltas=_flushed(deltas, reader), reason=speech.reason)
