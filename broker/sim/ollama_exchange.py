"""One request in flight: the model's signals in, the bytes of its answer out.

Rules: nothing is known of the answer, not even its status, before the first event; after it a
failure is one more line, before it a document with a status. A stream that ends properly ends
with a last object, an error line, or (repeat guard, fault) nothing at all. Faults strike at
signals and ask the server for what concerns more than this answer. No sockets and no clock here.

Source: reference/OLLAMA.md §1.1, §2, §7.10; recordings 10_, 16_repeat_guard_stream, 66_ to 68_.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from broker.sim.ollama_answers import (
    Ending,
    Lines,
    embed_document,
    embedding,
    embeddings_document,
    joined,
    logprob_item,
)
from broker.sim.ollama_asked import Action, Asked, Endpoint, error_body
from broker.sim.ollama_faults import Fault, FaultKind
from broker.sim.ollama_plan import Late, Plan
from broker.sim.ollama_prompt import tokenize_more
from broker.sim.ollama_text import Delta, DoneReason
from broker.sim.ollama_work import (
    CutOff,
    Failed,
    Finished,
    HandedOver,
    Signal,
    SlotTaken,
    Token,
)

# Ollama's own client takes no longer line (api/client.go: maxBufferSize).
OVERSIZE_BYTES: Final = 8_000_001
JSON_UTF8: Final = "application/json; charset=utf-8"
JSON_PLAIN: Final = "application/json"
NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and type of an answer. `is_chunked`: its length is not said, each part is a chunk."""

    status: int
    content_type: str
    is_chunked: bool


class End(Enum):
    PROPER = "proper"  # the closing chunk is sent, or the length is reached
    CUT = "cut"  # the connection breaks
    RESET = "reset"  # it breaks by RST
    UNFRAMED = "unframed"  # bytes that are no chunk, and then nothing until the client leaves


class Exchange:
    """One answer in the making. `out` holds the parts that are not yet sent, one per chunk."""

    def __init__(
        self,
        asked: Asked,
        plan: Plan,
        *,
        fault: Fault | None,
        wall_ns: Callable[[int], int],
        strike: Callable[[Fault], None],
        server_seed: int,
    ) -> None:
        self.asked = asked
        self.head: Head | None = None
        self.end: End | None = None
        self.out: list[bytes] = []
        self.plan = plan
        self._fault = fault
        self._wall_ns = wall_ns
        self._strike = strike
        self._server_seed = server_seed
        self._lines = Lines(asked)
        self._handed_over = False
        self._is_silent = False  # nothing more is said, and nothing is closed
        self._now_ns = 0
        self._said: list[Delta] = []
        self._logprobs: list[str] = []

    @property
    def is_over(self) -> bool:
        return self.end is not None

    @property
    def is_armed(self) -> bool:
        """Whether a fault waits for one of the signals to come."""
        return self._fault is not None

    def cut(self) -> None:
        """The connection is to break without another byte."""
        self.end = self.end or End.CUT

    def on(self, signal: Signal) -> None:
        """Takes what the model says of this exchange, in order."""
        if self.end is not None or self._is_silent:
            return
        self._now_ns = signal.at_ns
        match signal:
            case Token():
                self._on_token(signal)
            case HandedOver():
                self._handed_over = True
            case SlotTaken():
                self._strike_before_first()
            case Finished():
                self._on_finished(signal)
            case Failed():
                # The legacy endpoint has one status for whatever a runner does (OLLAMA.md §1.5).
                is_legacy = self.asked.endpoint is Endpoint.EMBEDDINGS and signal.status == 400
                status = 500 if is_legacy else signal.status
                self._fail(status, signal.text, is_runners=self._handed_over)
            case CutOff():
                self.end = End.CUT

    def _strike_before_first(self) -> None:
        fault = self._fault
        if fault is not None and fault.is_before_first:
            self._fault = None
            self._meet(fault)

    def _on_token(self, token: Token) -> None:
        speech = self.plan.speech
        delta = None if speech is None else speech.delta(token.index)
        if delta is not None:
            self._say(delta, token.at_ns)
        fault = self._fault
        if fault is not None and token.index + 1 >= max(1, fault.after or 1):
            self._fault = None
            self._meet(fault)

    def _say(self, delta: Delta, at_ns: int) -> None:
        logprobs = ""
        if self.asked.logprobs:
            logprobs = logprob_item(delta.thinking or delta.content, self.asked.top_logprobs)
        if self.asked.stream:
            self._begin_stream()
            self.out.append(self._lines.chunk(self._wall_ns(at_ns), delta, logprobs))
            if not self.plan.context:
                return
        elif logprobs:
            self._logprobs.append(logprobs)
        self._said.append(delta)

    def _begin_stream(self) -> None:
        if self.head is None:
            self.head = Head(status=200, content_type=NDJSON, is_chunked=True)

    def _meet(self, fault: Fault) -> None:
        """A fault strikes after a token: some end this answer, some strike the whole runner."""
        match fault.kind:
            case FaultKind.CUT:
                self.end = End.CUT
            case FaultKind.RESET:
                self.end = End.RESET
            case FaultKind.BAD_CHUNK:
                self.end = End.UNFRAMED
            case FaultKind.GO_SILENT:
                self._is_silent = True
            case FaultKind.GARBAGE:
                self._add_line(b'{"model":"' + self.asked.spelled.encode()[:64] + b'","crea')
            case FaultKind.OVERSIZE:
                self._add_line(b'{"response":"' + b"x" * OVERSIZE_BYTES + b'"}')
            case FaultKind.BAD_UTF8:
                self._add_line(b'{"response":"' + "ß".encode()[:1] + b'"}')
            case FaultKind.ERROR_LINE:
                self._add_line(error_body(fault.text or "an error in the stream"))
                self.end = End.PROPER
            case FaultKind.END_WITHOUT_DONE:
                self._break_off()
            case _:
                self._strike(fault)

    def _add_line(self, line: bytes) -> None:
        """A line of the server's own making among those of the answer."""
        self._begin_stream()
        self.out.append(line + b"\n")

    def _break_off(self) -> None:
        """The stream ends properly without its last object; unstreamed it says `done` false."""
        if self.asked.stream:
            self._begin_stream()
            self.end = End.PROPER
            return
        ending = Ending(reason=DoneReason.NONE, logprobs=",".join(self._logprobs))
        self._whole(200, self._lines.last(self._wall_ns(self._now_ns), self._all_said(), ending))

    def _all_said(self) -> Delta:
        return joined(self._said)

    def _whole(self, status: int, body: bytes, content_type: str = JSON_UTF8) -> None:
        self.head = Head(status=status, content_type=content_type, is_chunked=False)
        self.out.append(body)
        self.end = End.PROPER

    def _fail(self, status: int, text: str, *, is_runners: bool) -> None:
        """An error: a document before the first event, a line after it."""
        if self.head is not None:
            self.out.append(error_body(text) + b"\n")
        elif self.asked.stream and is_runners:
            self.head = Head(status=status, content_type=JSON_PLAIN, is_chunked=True)
            self.out.append(error_body(text))
        else:
            self._whole(status, error_body(text))
        self.end = End.PROPER

    def _on_finished(self, finished: Finished) -> None:
        asked, late = self.asked, self.plan.late
        wall_ns = self._wall_ns(finished.at_ns)
        if late is not None:
            self._fail_late(late)
        elif asked.endpoint is Endpoint.EMBED:
            self._whole(200, embed_document(asked, self._vectors(), finished))
        elif asked.endpoint is Endpoint.EMBEDDINGS:
            vectors = self._vectors()
            self._whole(200, embeddings_document(vectors[0] if vectors else ()))
        elif asked.action is not Action.ANSWER:
            self._whole(200, self._lines.nothing_said(wall_ns, asked.action.value))
        elif self.plan.speech is None:
            prompt, images = self.plan.prompt, asked.images
            self._whole(200, self._lines.rendered_only(wall_ns, prompt, images))
        else:
            self._finish_answer(finished, wall_ns)

    def _fail_late(self, late: Late) -> None:
        self._fail(late.status, late.text, is_runners=late.is_runners)

    def _vectors(self) -> list[list[float]]:
        asked, model = self.asked, self.asked.model
        return [
            embedding(self._server_seed, model.blob, text, model.embedding_length, asked.dimensions)
            for text in asked.inputs
        ]

    def _finish_answer(self, finished: Finished, wall_ns: int) -> None:
        speech = self.plan.speech
        reason = DoneReason.STOP if speech is None else speech.reason
        if reason is DoneReason.NONE:
            self._break_off()
            return
        calls = () if speech is None else speech.calls_at_end
        context = self.plan.context
        if context:
            said = self._all_said()
            context += tokenize_more(self.asked.model, said.thinking + said.content)
        ending = Ending(
            reason=reason,
            finished=finished,
            context=context,
            logprobs=",".join(self._logprobs),
        )
        if self.asked.stream:
            self._begin_stream()
            last = self._lines.last(wall_ns, Delta(tool_calls=calls), ending)
            self.out.append(last + b"\n")
            self.end = End.PROPER
            return
        said = self._all_said()
        whole = replace(said, tool_calls=(*said.tool_calls, *calls))
        self._whole(200, self._lines.last(wall_ns, whole, ending))
