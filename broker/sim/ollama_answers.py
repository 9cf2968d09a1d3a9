"""The bytes of Ollama's answers about text: stream lines, whole documents, embeddings.

Rules: fields in Go's order, a field that is zero is absent, HTML characters escaped, stamps in
RFC3339Nano. What stays the same from line to line is rendered once. Pure: the moment is handed in.

Source: reference/OLLAMA.md §1.1, §1.3-1.5, §6; recordings 10_, 11_, 16_, 20_, 30_.
"""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.sim.ollama_asked import Asked, Endpoint
from broker.sim.ollama_gojson import Json, marshal, number, quote
from broker.sim.ollama_text import Delta, DoneReason, ToolCall
from broker.sim.ollama_vocabulary import direction, seed_of
from broker.sim.ollama_work import Finished

IMPOSSIBLE_LOGPROB: Final = -3.4028234663852886e38  # the smallest float32, as llama-server gives it
_NOTHING: Final = Delta()


class Stamp:
    """Moments as text. The part down to the second is kept, as most lines share it."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def utc(self, wall_ns: int) -> str:
        """RFC3339Nano in UTC, trailing zeros of the fraction cut."""
        second, fraction_ns = divmod(wall_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if not fraction_ns:
            return f"{self._prefix}Z"
        return f"{self._prefix}.{fraction_ns:09d}".rstrip("0") + "Z"


def local_stamp(wall_ns: int) -> str:
    """RFC3339Nano with the offset of the server's own time zone (modified_at, expires_at)."""
    second, fraction_ns = divmod(wall_ns, 1_000_000_000)
    local = time.localtime(second)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", local)
    if fraction_ns:
        text += f".{fraction_ns:09d}".rstrip("0")
    minutes, sign = abs(local.tm_gmtoff) // 60, "-" if local.tm_gmtoff < 0 else "+"
    return text + (f"{sign}{minutes // 60:02d}:{minutes % 60:02d}" if minutes else "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the last object of an answer says besides its text."""

    reason: DoneReason
    finished: Finished | None = None  # None where the figures never came
    context: Sequence[int] = ()
    logprobs: str = ""  # of the whole answer, where it is not streamed


class Lines:
    """The objects of one generate or chat answer."""

    def __init__(self, asked: Asked) -> None:
        self._head = f'{{"model":{quote(asked.spelled)},"created_at":"'
        self._chat = asked.endpoint is Endpoint.CHAT
        self._stamp = Stamp()

    def chunk(self, wall_ns: int, delta: Delta, logprobs: str = "") -> bytes:
        """One line of a stream before the last."""
        body = self._body(delta)
        more = f',"logprobs":[{logprobs}]' if logprobs else ""
        return f'{self._head}{self._stamp.utc(wall_ns)}",{body},"done":false{more}}}\n'.encode()

    def last(self, wall_ns: int, delta: Delta, ending: Ending) -> bytes:
        """The object with `done`, without a newline; a repeat guard's says `"done":false`."""
        body = self._body(delta)
        done = "false"
        if ending.reason is not DoneReason.NONE:
            done = f'true,"done_reason":"{ending.reason.value}"'
            if ending.context:
                done += f',"context":[{",".join(map(str, ending.context))}]'
            if ending.finished is not None:
                done += _metrics(ending.finished)
        more = f',"logprobs":[{ending.logprobs}]' if ending.logprobs else ""
        return f'{self._head}{self._stamp.utc(wall_ns)}",{body},"done":{done}{more}}}'.encode()

    def nothing_said(self, wall_ns: int, reason: str) -> bytes:
        """The answer to a request that only loads or unloads: no figures at all."""
        body = self._body(_NOTHING)
        return (
            f'{self._head}{self._stamp.utc(wall_ns)}",{body},"done":true,"done_reason":"{reason}"}}'
        ).encode()

    def rendered_only(self, wall_ns: int, prompt: str, images: int) -> bytes:
        """The answer to `_debug_render_only`, whose message has no role."""
        body = '"message":{"role":"","content":""}' if self._chat else '"response":""'
        count = f',"image_count":{images}' if images else ""
        info = f'{{"rendered_template":{quote(prompt)}{count}}}'
        stamp = self._stamp.utc(wall_ns)
        return f'{self._head}{stamp}",{body},"done":false,"_debug_info":{info}}}'.encode()

    def _body(self, delta: Delta) -> str:
        thinking = f',"thinking":{quote(delta.thinking)}' if delta.thinking else ""
        calls = f',"tool_calls":{_calls(delta.tool_calls)}' if delta.tool_calls else ""
        content = quote(delta.content)
        if not self._chat:
            return f'"response":{content}{thinking}{calls}'
        return f'"message":{{"role":"assistant","content":{content}{thinking}{calls}}}'


def _calls(calls: Sequence[ToolCall]) -> str:
    rendered = (
        f'{{"id":{quote(call.id)},"function":{{"index":{index},"name":{quote(call.name)},'
        f'"arguments":{marshal(dict(call.arguments))}}}}}'
        for index, call in enumerate(calls)
    )
    return f"[{','.join(rendered)}]"


def _metrics(finished: Finished) -> str:
    figures = (
        ("total_duration", finished.total_duration_ns),
        ("load_duration", finished.load_duration_ns),
        ("prompt_eval_count", finished.prompt_eval_count),
        ("prompt_eval_duration", finished.prompt_eval_duration_ns),
        ("eval_count", finished.eval_count),
        ("eval_duration", finished.eval_duration_ns),
    )
    return "".join(f',"{name}":{value}' for name, value in figures if value)


def logprob_item(text: str, top_logprobs: int) -> str:
    """A token that was certain, and as many impossible others as were asked for."""
    chosen = _logprob(text, 0)
    if not top_logprobs:
        return f"{{{chosen}}}"
    others = [f"{{{_logprob('', IMPOSSIBLE_LOGPROB)}}}"] * (top_logprobs - 1)
    return f'{{{chosen},"top_logprobs":[{",".join([f"{{{chosen}}}", *others])}]}}'


def _logprob(text: str, logprob: float) -> str:
    spelled = ",".join(map(str, text.encode()))
    octets = f',"bytes":[{spelled}]' if text else ""
    return f'"token":{quote(text)},"logprob":{number(logprob)}{octets}'


def joined(deltas: Sequence[Delta]) -> Delta:
    """All parts of an answer as one, as `stream: false` gives it."""
    return Delta(
        content="".join(delta.content for delta in deltas),
        thinking="".join(delta.thinking for delta in deltas),
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
    )


def embedding(seed: int, model: str, text: str, length: int, dimensions: int) -> list[float]:
    """The vector of a text: seeded, of length one, cut to `dimensions` where that is not 0."""
    vector = direction(seed_of(seed, model, text), length)
    return _unit(_unit(vector)[:dimensions] if dimensions > 0 else vector)


def _unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(part * part for part in vector)) or 1.0
    return [part / norm for part in vector]


def embed_document(asked: Asked, vectors: Sequence[Sequence[float]], finished: Finished) -> bytes:
    """The answer of /api/embed; an empty input leaves nothing but an empty list."""
    rows = ",".join(f"[{','.join(f'{part:.8f}' for part in vector)}]" for vector in vectors)
    figures = "".join(
        f',"{name}":{value}'
        for name, value in (
            ("total_duration", finished.total_duration_ns),
            ("load_duration", finished.load_duration_ns),
            ("prompt_eval_count", finished.prompt_eval_count),
        )
        if value and vectors
    )
    return f'{{"model":{quote(asked.spelled)},"embeddings":[{rows}]{figures}}}'.encode()


def embeddings_document(vector: Sequence[float]) -> bytes:
    """The answer of /api/embeddings: float32 numbers printed as float64."""
    singles = struct.unpack(f"{len(vector)}f", struct.pack(f"{len(vector)}f", *vector))
    return f'{{"embedding":[{",".join(map(number, singles))}]}}'.encode()


def runner_refusal(code: int, message: str, kind: str, **more: Json) -> str:
    """An error document of llama-server, which Ollama passes on inside its own text."""
    document = {"error": {"code": code, "message": message, "type": kind, **more}}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
