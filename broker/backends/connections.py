"""The connections to one server: made when one is needed, used again, told apart when they break.

Rules: only a connection that cannot be made says that the server is away. One that closes before
its answer began tells of its call alone: whoever else calls that server goes on. Most of them are
idle ones that the server gave up while a call was on its way: that call is repeated. What closes
otherwise has failed, and whether the server is still there is found by connecting once more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.payload import BytesPayload, Payload
from yarl import URL

from broker.backends.broken_framing import BrokenFraming
from broker.core.errors import BackendFailed, BackendUnreachable

ERROR_BYTES_MAX: Final = 1 << 20

# Who sends over a connection that the server has just given up hears of it within one way there and
# back. What was closed later than this had been worked on.
GIVEN_UP_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """Limits of one backend's connections. What exceeds `connections_max` waits for one of them;
    slots and control calls together stay far below it."""

    connect_timeout_s: float = 5.0
    connections_max: int = 1024
    # Ollama never closes an idle connection; other servers and what stands between may, so idle
    # ones are not hoarded.
    idle_connection_s: float = 30.0
    # After the terminator the closing chunk follows within a fraction of a millisecond. Waiting for
    # it makes the connection usable again; a server that holds it back loses the connection.
    closing_chunk_s: float = 1.0
    answer_bytes_max: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "connections_max", "idle_connection_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.closing_chunk_s < 0:
            raise ValueError("closing_chunk_s must not be negative")
        if self.answer_bytes_max < ERROR_BYTES_MAX:
            raise ValueError(f"answer_bytes_max must be at least {ERROR_BYTES_MAX}")


class _JsonBody(BytesPayload):
    """A body that is handed to the socket as it is.

    BytesPayload warns above 1 MB that one write may hold up the loop. It is meant here: a body
    that trickles in leaves the server's slot in doubt (66_cancel_by_body_framing).
    """

    def __init__(self, value: bytes) -> None:
        Payload.__init__(self, value, content_type="application/json")
        self._size = len(value)


class _AbortingResponse(aiohttp.ClientResponse):
    """A response whose `close` drops the connection at once, whatever is still to be sent on it.

    aiohttp's own closes politely: a body that the server has not taken yet would go on being sent.
    It also calls `close` itself when a call is cancelled before its head came.
    """

    def close(self) -> None:
        connection = self.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        super().close()


class _Use:
    """Which connection a call got, as aiohttp tells."""

    __slots__ = ("reused_s",)

    def __init__(self) -> None:
        self.reused_s: float | None = None  # when an idle one was taken; None: it is a new one


class Connections:
    """Sends calls to one server and waits for the heads of their answers.

    `headers` go with every call; they may hold a key and are shown nowhere.
    """

    def __init__(self, url: str, limits: TransportLimits, headers: Mapping[str, str]) -> None:
        self._url = url
        self._limits = limits
        # Compression would hold tokens back where a proxy offers it.
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._urls: dict[str, URL] = {}
        self._pool: aiohttp.ClientSession | None = None
        self._new_ones: aiohttp.ClientSession | None = None  # what it sends never meets an idle one
        self._is_closed = False

    async def send(
        self, path: str, body: bytes | None, method: str = "POST"
    ) -> aiohttp.ClientResponse:
        """Sends one call; returns when the head of its answer came. No body means GET.

        What an idle connection lost is repeated once, over a new one, a POST too. The answer had
        not begun, and a server that closes a connection is through with its call: at the worst a
        generation that had begun is made twice, and never more often. It has no other effect, nor
        has a load or an unload that is asked for twice; who deletes twice hears that it is gone.
        """
        use = _Use()
        try:
            try:
                return await self._send(self._idle_or_new(), path, body, use, method)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not _was_given_up(use, error):
                    raise
            return await self._send(self._always_new(), path, body, use, method)
        except (aiohttp.ClientError, OSError) as error:
            raise await self._lost(error) from error

    async def close(self) -> None:
        """Drops every connection; later calls are refused."""
        self._is_closed = True
        sessions, self._pool, self._new_ones = (self._pool, self._new_ones), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    async def _send(
        self,
        session: aiohttp.ClientSession,
        path: str,
        body: bytes | None,
        use: _Use,
        method: str,
    ) -> aiohttp.ClientResponse:
        return await session.request(
            "GET" if body is None else method,
            self._address(path),
            data=None if body is None else _JsonBody(body),
            allow_redirects=False,
            trace_request_ctx=use,
        )

    async def _lost(self, error: Exception) -> BackendFailed:
        """What no head means. A head that is no HTTP proves that somebody else listens there."""
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return BackendUnreachable(f"{self._url} takes no connection: {reason_of(error)}")
        if not isinstance(error, aiohttp.ClientConnectionError | OSError):
            return BackendFailed(f"{self._url} does not answer in HTTP")
        if self._is_closed:
            return self._refused()
        closed = f"{self._url} closed before it answered: {reason_of(error)}"
        problem = await self._why_away()
        if problem:
            return BackendUnreachable(f"{closed}; since then it takes no connection: {problem}")
        return BackendFailed(closed)

    async def _why_away(self) -> str:
        """Connects and sends nothing; why that failed, "" where somebody listens."""
        url = self._address("")
        assert url.host is not None, "an adapter's address has one"
        assert url.port is not None, "an adapter's address has one"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                transport, _ = await loop.create_connection(asyncio.Protocol, url.host, url.port)
        except OSError as error:  # TimeoutError is one too
            return reason_of(error)
        transport.abort()
        return ""

    def _address(self, path: str) -> URL:
        address = self._urls.get(path)
        if address is None:
            address = self._urls[path] = URL(self._url + path, encoded=True)
        return address

    def _idle_or_new(self) -> aiohttp.ClientSession:
        if self._pool is None:
            self._pool = self._session(keepalive_timeout=self._limits.idle_connection_s)
        return self._pool

    def _always_new(self) -> aiohttp.ClientSession:
        if self._new_ones is None:
            self._new_ones = self._session(force_close=True)
        return self._new_ones

    def _session(
        self, *, keepalive_timeout: float | None = None, force_close: bool = False
    ) -> aiohttp.ClientSession:
        """Not made in __init__: it belongs to the loop that runs when it is made."""
        if self._is_closed:
            raise self._refused()
        connector = aiohttp.TCPConnector(
            limit=self._limits.connections_max,
            keepalive_timeout=keepalive_timeout,
            force_close=force_close,
        )
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reused)
        trace.on_connection_create_start.append(_note_new)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            auto_decompress=False,
            response_class=_AbortingResponse,
            trust_env=False,
            trace_configs=[trace],
        )

    def _refused(self) -> BackendUnreachable:
        return BackendUnreachable(f"{self._url} is no longer used: the backend is closed")


def reason_of(error: Exception) -> str:
    """The system's words for it, without the names and numbers that Python wraps around them."""
    if isinstance(error, BrokenFraming):
        return "what it sent is not framed as HTTP"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return "it took too long"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror  # a name that does not resolve: numbered apart from the system's
    return "the connection was closed"


def _was_given_up(use: _Use, error: aiohttp.ClientError) -> bool:
    """Had the server given up an idle connection when the call was sent over it?"""
    if isinstance(error, aiohttp.ClientConnectorError) or use.reused_s is None:
        return False
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return False  # with a part of a head
    return asyncio.get_running_loop().time() - use.reused_s <= GIVEN_UP_S


async def _note_reused(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    context.trace_request_ctx.reused_s = asyncio.get_running_loop().time()


async def _note_new(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionCreateStartParams,
) -> None:
    context.trace_request_ctx.reused_s = None
