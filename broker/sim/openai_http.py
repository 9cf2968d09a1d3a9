"""The HTTP side of a simulated server of OpenAI's dialect: routes, time, streams, and what breaks.

Rules: the head of a stream leaves with its first event, after the prompt was read; a client that
leaves gives its slot back in one step, as vLLM and llama-server do when their stream is closed.
Simulated time is real time times `speed`. What is said is decided in openai_words.py, in which
words in openai_answers.py. Source: vllm/entrypoints; llama.cpp tools/server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from broker.sim.client_gone import lets_go
from broker.sim.ollama_gojson import Json
from broker.sim.openai_answers import (
    COMMENT,
    DONE,
    VERSION,
    Answer,
    embeddings_document,
    encoded,
    error_document,
    error_of,
    event,
    models_document,
)
from broker.sim.openai_faults import Fault, FaultKind, FaultPlan
from broker.sim.openai_flavour import Flavour, SimModel
from broker.sim.openai_requests import Asked, Endpoint, Refused, read_request
from broker.sim.openai_slots import Slots
from broker.sim.openai_words import speech_of, vectors_of

PROMPT_TOKENS_PER_S: Final = 4_000.0
TOKENS_PER_S: Final = 50.0
OVERSIZE_BYTES: Final = 9 << 20  # more than any client takes for one event
_PART: Final = b"x" * (1 << 16)
_GARBAGE: Final = b'data: {"choices": [oops\n\n'
_NO_CHUNK: Final = b"zzzz\r\n"  # no number stands before it
_HALF_A_CHARACTER: Final = b'data: {"choices":[{"index":0,"delta":{"content":"\xe2\x82"}}]}\n\n'
_LOADING: Final = Refused(503, "Loading model", "unavailable_error")
_HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_JSON: Final = "application/json"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiSettings:
    """What one simulated server is. `slots` run at once, over all models."""

    flavour: Flavour
    models: tuple[SimModel, ...]
    slots: int = 8
    queue_max: int = 1_000
    speed: float = 1.0
    seed: int = 0
    api_key: str = ""


class SimulatedOpenAi:
    """The application of one simulated server."""

    def __init__(self, settings: OpenAiSettings) -> None:
        self.settings = settings
        self.faults = FaultPlan()
        self.slots = Slots(settings.slots, settings.queue_max)
        self.served = 0  # generations that were said to their end
        self._numbers = 0
        self._turns: dict[int, asyncio.Future[None]] = {}  # of those that wait for a slot
        self._thaws = asyncio.Event()

    def application(self, extra_routes: Mapping[str, Mapping[str, Handler]]) -> web.Application:
        application = web.Application(client_max_size=0, middlewares=[lets_go])
        routes: dict[str, Mapping[str, Handler]] = {
            "/health": {"GET": self._health},
            "/v1/models": {"GET": self._models},
            **{f"/v1/{each.value}": {"POST": self._spoken(each)} for each in Endpoint},
            **extra_routes,
        }
        if self.settings.flavour is Flavour.VLLM:
            routes["/version"] = {"GET": self._version}
        for path, methods in routes.items():
            for method, handler in methods.items():
                application.router.add_route(method, path, handler)
        application.on_response_prepare.append(self._sign)
        return application

    def thaw(self) -> None:
        """Lets every frozen stream go on."""
        self._thaws.set()
        self._thaws = asyncio.Event()

    async def _sign(self, _request: web.Request, response: web.StreamResponse) -> None:
        is_vllm = self.settings.flavour is Flavour.VLLM
        response.headers["Server"] = "uvicorn" if is_vllm else "llama.cpp"

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        if self.faults.is_loading:
            return self._refusal(_LOADING)
        if self.settings.flavour is Flavour.VLLM:
            return web.Response()
        return self._document({"status": "ok"})

    async def _version(self, _request: web.Request) -> web.StreamResponse:
        return self._document({"version": VERSION})

    async def _models(self, _request: web.Request) -> web.StreamResponse:
        return self._document(models_document(self.settings.flavour, self.settings.models))

    def _spoken(self, endpoint: Endpoint) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            try:
                self._check(request)
                settings = self.settings
                asked = read_request(body, endpoint, settings.flavour, settings.models)
            except Refused as refused:
                return self._refusal(refused)
            fault = self.faults.take(asked.model.id)
            if fault is not None and fault.kind is FaultKind.REFUSE:
                if not fault.status:
                    return _cut(request)
                struck = Refused(fault.status, fault.text or "not now")
                return self._refusal(struck, fault.retry_after_s)
            return await self._serve(request, asked, fault)

        return handle

    def _check(self, request: web.Request) -> None:
        if self.faults.is_loading:
            raise _LOADING
        key = self.settings.api_key
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            raise Refused(401, "Invalid API Key")

    async def _serve(
        self, request: web.Request, asked: Asked, fault: Fault | None
    ) -> web.StreamResponse:
        self._numbers += 1
        number = self._numbers
        has_slot = self.slots.arrive(number)
        if has_slot is None:
            return self._refusal(Refused(503, "too many requests wait"))
        try:
            if not has_slot:
                self._turns[number] = asyncio.get_running_loop().create_future()
                await self._turns[number]
            return await self._answer(request, asked, fault, number)
        finally:
            self._turns.pop(number, None)
            following = self.slots.leave(number)
            if following is not None and not self._turns[following].done():
                self._turns[following].set_result(None)

    async def _answer(
        self, request: web.Request, asked: Asked, fault: Fault | None, number: int
    ) -> web.StreamResponse:
        prompt_s = asked.prompt_tokens / PROMPT_TOKENS_PER_S
        if asked.endpoint is Endpoint.EMBEDDINGS:
            await self._pass(prompt_s)
            vectors = vectors_of(asked, self.settings.seed)
            return self._document(embeddings_document(asked, vectors))
        answer = Answer(
            flavour=self.settings.flavour,
            asked=asked,
            speech=speech_of(asked, self.settings.seed),
            number=number,
            prompt_ms=prompt_s * 1_000,
            token_ms=1_000 / TOKENS_PER_S,
        )
        await self._pass(prompt_s)
        if asked.stream:
            return await self._stream(request, answer, fault)
        await self._pass(len(answer.speech.tokens) / TOKENS_PER_S)
        self.served += 1
        return self._document(answer.whole())

    async def _stream(
        self, request: web.Request, answer: Answer, fault: Fault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        response.enable_chunked_encoding()
        await response.prepare(request)
        if answer.flavour is Flavour.LLAMA_SERVER:
            await response.write(COMMENT)
        for part in answer.first():
            await response.write(part)
        tokens = answer.speech.tokens
        struck_at = -1 if fault is None else min(fault.after, len(tokens))
        for index in range(len(tokens) + 1):
            is_struck = fault is not None and index == struck_at
            if fault is not None and is_struck and await self._strike(fault, request, response):
                return _cut(request) if fault.kind is FaultKind.CUT else response
            if index < len(tokens):
                await self._pass(1 / TOKENS_PER_S)
                await response.write(answer.token(tokens[index]))
        await response.write(b"".join(answer.last()))
        await response.write_eof()
        self.served += 1
        return response

    async def _strike(
        self, fault: Fault, request: web.Request, response: web.StreamResponse
    ) -> bool:
        """Does what is to go wrong; says whether the answer is over by it."""
        match fault.kind:
            case FaultKind.FREEZE:
                await self._thaws.wait()
                return False
            case FaultKind.GARBAGE:
                await response.write(_GARBAGE)
                return False
            case FaultKind.BAD_UTF8:
                await response.write(_HALF_A_CHARACTER)
                return False
            case FaultKind.OVERSIZE:
                await response.write(b"data: ")
                for _ in range(OVERSIZE_BYTES // len(_PART)):
                    await response.write(_PART)
                await response.write(b"\n\n")
                return False
            case FaultKind.BAD_CHUNK:
                assert request.transport is not None, "a client that is gone cancels this"
                request.transport.write(_NO_CHUNK)
                await asyncio.Event().wait()  # until the client leaves
            case FaultKind.ERROR_LINE:
                refused = Refused(fault.status or 500, fault.text or "the engine has died")
                error = error_of(self.settings.flavour, refused)
                await response.write(event({"error": error}) + DONE)
                await response.write_eof()
            case FaultKind.END_WITHOUT_DONE:
                await response.write_eof()
        return True

    async def _pass(self, seconds: float) -> None:
        """So long in simulated time."""
        await asyncio.sleep(seconds * self.faults.factor / self.settings.speed)

    def _refusal(self, refused: Refused, retry_after_s: int = 0) -> web.Response:
        body = encoded(error_document(self.settings.flavour, refused))
        headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
        return web.Response(status=refused.status, body=body, content_type=_JSON, headers=headers)

    def _document(self, document: Json) -> web.Response:
        return web.Response(body=encoded(document), content_type=_JSON)


def _cut(request: web.Request) -> web.Response:
    """Breaks the connection; the response returned finds nobody to go to."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
