"""The HTTP side of a simulated Ollama: routes, heads and bodies as the real one frames them.

Rules: the head of an answer waits for its first event; one HTTP chunk per line; headers in Go's
order and no others; a client that leaves closes its work in one step. Bytes of a stream are framed
here and written to the transport straight from the pump's turn, one write per stream and turn.

Source: reference/OLLAMA.md §1.1, §1.2, §2; recordings 00_, 12_, 17_transport.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from operator import itemgetter
from typing import Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from broker.sim.client_gone import lets_go
from broker.sim.ollama_answers import local_stamp
from broker.sim.ollama_asked import Action, Asked, Endpoint, Refusal
from broker.sim.ollama_exchange import JSON_UTF8, End, Exchange, Head
from broker.sim.ollama_faults import (
    AT_ARRIVAL,
    AT_CONNECTION,
    AT_TOKENS,
    AT_UNLOAD,
    Fault,
    FaultKind,
)
from broker.sim.ollama_inventory import (
    STATUS,
    VERSION,
    ps_document,
    ps_entry,
    show_document,
    tags_document,
)
from broker.sim.ollama_model_scheduler import BUSY_TEXT
from broker.sim.ollama_origin import cross_origin_headers, is_host_allowed, is_origin_allowed
from broker.sim.ollama_plan import plan
from broker.sim.ollama_pump import Pump
from broker.sim.ollama_requests import (
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
    read_show,
)
from broker.sim.ollama_work import ExchangeId

LENGTH_SAID_MAX: Final = 2048  # Go says the length of a body up to here, above it sends chunks
# A client this far behind keeps its slot but gets no more tokens until it has read; asyncio calls
# a transport full at 64 KiB.
BEHIND_BYTES: Final = 2**17
TEXT_PLAIN: Final = "text/plain"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_NO_CHUNK: Final = b"zzzz\r\n"  # no number stands before it
_ENDINGS: Final[Mapping[End | None, bytes]] = {End.PROPER: _LAST_CHUNK, End.UNFRAMED: _NO_CHUNK}
_READERS: Final = {
    Endpoint.GENERATE: read_generate,
    Endpoint.CHAT: read_chat,
    Endpoint.EMBED: read_embed,
    Endpoint.EMBEDDINGS: read_embeddings,
}
# Go writes headers of its own after the handler's, which it sorts (net/http/server.go).
_WRITTEN_LAST: Final = (
    hdrs.DATE,
    hdrs.CONTENT_LENGTH,
    hdrs.CONNECTION,
    hdrs.TRANSFER_ENCODING,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FramedResponse(web.StreamResponse):
    """A response whose chunks its owner frames, so that many leave in one write."""

    _length_check = False  # as aiohttp's own WebSocketResponse: no length and no framing by it
    _send_headers_immediately = False  # the head leaves together with the first line


async def order_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Puts the headers into Go's order and drops aiohttp's `Server` (a response-prepare signal)."""
    headers: CIMultiDict[str] = response.headers
    headers.popall(hdrs.SERVER, None)
    headers.extend(request.get("cross_origin", ()))
    last = {name.lower() for name in _WRITTEN_LAST}
    own = [item for item in headers.items() if item[0].lower() not in last]
    ordered = sorted(own, key=itemgetter(0))
    for name in _WRITTEN_LAST:
        ordered += [(name, value) for value in headers.getall(name, ())]
    headers.clear()
    headers.extend(ordered)


def document(status: int, body: bytes, content_type: str = JSON_UTF8) -> web.Response:
    """A whole answer; an empty body has no type."""
    headers = {hdrs.CONTENT_TYPE: content_type} if body else {}
    return web.Response(status=status, body=body, headers=headers)


def frame(parts: list[bytes], *, chunked: bool) -> bytes:
    """Parts of a body as they go over the wire, each a chunk of its own."""
    if not chunked:
        return b"".join(parts)
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


class Delivery:
    """Carries one exchange's bytes to its client: waits for a head, then writes as they come."""

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self.exchange = exchange
        self.begun: asyncio.Future[None] = loop.create_future()
        self.news = asyncio.Event()  # all bytes were written, or the client is behind
        self.is_behind = False
        self.is_complete = False  # all bytes were taken
        self._transport: asyncio.WriteTransport | None = None
        self._chunked = True

    def deliver(self) -> None:
        """Called by the pump after each turn that had news of the exchange."""
        exchange = self.exchange
        if not self.begun.done() and (exchange.head is not None or exchange.is_over):
            self.begun.set_result(None)
        if self._transport is not None:
            self._write(self._transport)

    def follow(self, transport: asyncio.WriteTransport, *, chunked: bool) -> None:
        """From here on lines go straight to the transport; the head has been sent."""
        self._transport, self._chunked = transport, chunked
        self._write(transport)

    def take(self, *, chunked: bool) -> bytes:
        """What is ready, framed, with the closing chunk if the answer is complete."""
        exchange = self.exchange
        data = frame(exchange.out, chunked=chunked)
        exchange.out.clear()
        self.is_complete = exchange.is_over
        return data + _ENDINGS.get(exchange.end, b"") if chunked else data

    def _write(self, transport: asyncio.WriteTransport) -> None:
        if self.is_complete or transport.is_closing():
            return
        if self.exchange.out or self.exchange.is_over:
            transport.write(self.take(chunked=self._chunked))
        self.is_behind = transport.get_write_buffer_size() > BEHIND_BYTES
        if self.is_complete or self.is_behind:
            self.news.set()


class SimulatedOllama:
    """The application of one simulated server; `extra_routes` are those of the simulator itself,
    `management_routes` those that change its models."""

    def __init__(
        self,
        pump: Pump,
        *,
        checks_host: bool,
        extra_routes: Mapping[str, Mapping[str, Handler]],
        management_routes: Mapping[str, Mapping[str, Handler]] | None = None,
    ) -> None:
        self._pump = pump
        self._checks_host = checks_host
        self._own_routes = frozenset(extra_routes)
        self._routes: dict[str, Mapping[str, Handler]] = {
            "/": {"GET": self._root, "HEAD": self._root},
            "/api/version": {"GET": self._version, "HEAD": self._version},
            "/api/status": {"GET": self._status},
            "/api/tags": {"GET": self._tags, "HEAD": self._tags},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            **{f"/api/{endpoint.value}": {"POST": self._spoken(endpoint)} for endpoint in Endpoint},
            **(management_routes or {}),
            **extra_routes,
        }

    def application(self) -> web.Application:
        # Ollama sets no limit on a request's size; 0 means the same to aiohttp.
        application = web.Application(client_max_size=0, middlewares=[lets_go])
        application.router.add_route("*", "/{path:.*}", self._dispatch)
        application.on_response_prepare.append(order_headers)
        return application

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if self._checks_host and not is_host_allowed(host):
            return document(403, b"")
        if origin is not None:
            if not is_origin_allowed(origin, host):
                return document(403, b"")
            preflight = request.method == "OPTIONS"
            request["cross_origin"] = cross_origin_headers(origin, preflight=preflight)
        path = request.raw_path.partition("?")[0]
        if path not in self._own_routes and self._pump.faults.take(AT_CONNECTION, None):
            await asyncio.Event().wait()  # until the client leaves, or the server ends
        methods = self._routes.get(path)
        if methods is None:
            return self._astray(request, path)
        handler = methods.get(request.method)
        if handler is None:
            return self._wrong_method(request, methods)
        return await handler(request)

    def _astray(self, request: web.Request, path: str) -> web.Response:
        """A path that is not there, or one that gin tidies up first."""
        tidied = "/" + "/".join(part for part in path.split("/") if part)
        if tidied == path or tidied not in self._routes:
            return document(404, b"404 page not found", TEXT_PLAIN)
        is_get = request.method == "GET"
        moved = is_get and "//" not in path
        status, words = (301, "Moved Permanently") if moved else (307, "Temporary Redirect")
        body = f'<a href="{tidied}">{words}</a>.\n\n'.encode() if is_get else b""
        response = document(status, body, "text/html; charset=utf-8")
        response.headers["Location"] = tidied
        return response

    def _wrong_method(self, request: web.Request, methods: Mapping[str, Handler]) -> web.Response:
        if request.method == "OPTIONS" and "cross_origin" in request:
            response = document(204, b"")
        else:
            response = document(405, b"405 method not allowed", TEXT_PLAIN)
        response.headers[hdrs.ALLOW] = ", ".join(sorted(methods))
        return response

    async def _root(self, _request: web.Request) -> web.StreamResponse:
        return document(200, b"Ollama is running", "text/plain; charset=utf-8")

    async def _version(self, _request: web.Request) -> web.StreamResponse:
        return document(200, VERSION)

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return document(200, STATUS)

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        return await send_document(request, 200, tags_document(self._pump.catalogue))

    async def _show(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = read_show(await request.read(), self._pump.catalogue)
        except Refusal as refusal:
            return document(refusal.status, refusal.body)
        return await send_document(request, 200, show_document(asked))

    async def _ps(self, request: web.Request) -> web.StreamResponse:
        wall_ns = self._pump.clock.wall_ns
        rows = [
            ps_entry(
                row.model,
                row.name,
                size_bytes=row.size,
                vram_bytes=row.size_vram,
                expires_at=local_stamp(wall_ns(row.expires_at_ns)),
                num_ctx=row.context_length,
            )
            for row in await self._pump.residents()
        ]
        return await send_document(request, 200, ps_document(rows))

    def _spoken(self, endpoint: Endpoint) -> Handler:
        read = _READERS[endpoint]

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            try:
                asked = read(body, self._pump.catalogue)
            except Refusal as refusal:
                return document(refusal.status, refusal.body)
            kinds = AT_UNLOAD if asked.action is Action.UNLOAD else AT_ARRIVAL
            fault = self._pump.faults.take(kinds, asked.model.name)
            return await self._answer(request, asked) if fault is None else deny(request, fault)

        return handle

    async def _answer(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        pump = self._pump
        speaks = asked.action is Action.ANSWER  # a load has no tokens, and uses up no such fault
        exchange = Exchange(
            asked,
            plan(asked, pump.settings, pump.seed),
            fault=pump.faults.take(AT_TOKENS, asked.model.name) if speaks else None,
            wall_ns=pump.clock.wall_ns,
            strike=pump.strike,
            server_seed=pump.seed,
        )
        delivery = Delivery(exchange, asyncio.get_running_loop())
        identity = pump.open(exchange.plan.work, exchange, delivery.deliver)
        try:
            await delivery.begun
            head = exchange.head
            if head is None:
                return break_off(request, exchange.end)
            if head.is_chunked:
                return await self._stream(request, identity, head, delivery)
            return await send_document(request, head.status, b"".join(exchange.out))
        finally:
            pump.close(identity)

    async def _attend(
        self, identity: ExchangeId, delivery: Delivery, writer: AbstractStreamWriter
    ) -> None:
        """Waits until all is written; a client that falls behind stalls its own request."""
        while not delivery.is_complete:
            await delivery.news.wait()
            delivery.news.clear()
            if delivery.is_behind and not delivery.is_complete:
                self._pump.stall(identity, stalled=True)
                await writer.drain()
                self._pump.stall(identity, stalled=False)

    async def _stream(
        self, request: web.Request, identity: ExchangeId, head: Head, delivery: Delivery
    ) -> web.StreamResponse:
        chunked = request.version >= (1, 1)
        response = framed(request, head.status, head.content_type)
        await response.prepare(request)
        await response.write(delivery.take(chunked=chunked))
        transport = request.transport
        if transport is not None and not delivery.is_complete:
            delivery.follow(transport, chunked=chunked)
            await self._attend(identity, delivery, request.writer)
        if delivery.exchange.end is End.UNFRAMED:
            await asyncio.Event().wait()  # until the client leaves
        if delivery.exchange.end is not End.PROPER:
            return break_off(request, delivery.exchange.end)
        await response.write_eof()
        return response


def framed(request: web.Request, status: int, content_type: str) -> FramedResponse:
    """A response of unsaid length: chunked, or for HTTP/1.0 ended by closing."""
    response = FramedResponse(status=status, headers={hdrs.CONTENT_TYPE: content_type})
    if request.version >= (1, 1):
        response.headers[hdrs.TRANSFER_ENCODING] = "chunked"
    else:
        response.force_close()
    return response


async def send_document(request: web.Request, status: int, body: bytes) -> web.StreamResponse:
    """A whole JSON answer: with its length if short, as one chunk if long."""
    if len(body) <= LENGTH_SAID_MAX:
        return document(status, body)
    chunked = request.version >= (1, 1)
    response = framed(request, status, JSON_UTF8)
    await response.prepare(request)
    if request.method != "HEAD":
        data = frame([body], chunked=chunked)
        await response.write(data + _LAST_CHUNK if chunked else data)
    await response.write_eof()
    return response


def deny(request: web.Request, fault: Fault) -> web.Response:
    """The answer of a server that does not even look at the request."""
    if fault.kind is FaultKind.FORBIDDEN:
        return document(403, b"")
    if fault.kind is FaultKind.BUSY:
        return document(503, Refusal(503, BUSY_TEXT).body)
    if fault.status:
        return document(fault.status, Refusal(fault.status, fault.text).body)
    return break_off(request, End.CUT)


def break_off(request: web.Request, end: End | None) -> web.Response:
    """Breaks the connection; the response returned finds nobody to go to."""
    transport = request.transport
    if transport is not None:
        if end is End.RESET:  # closing a socket that lingers for no time sends RST
            at_once = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, at_once
            )
        transport.abort() if end is End.RESET else transport.close()
    return web.Response(status=500)
