"""How bytes reach a server of models and come back: connections, limits, what breaks on the way.

Whatever the dialect: what an answer means is for the adapter to say.

Rules: the whole body in one go with its exact Content-Length; no time-out on the head or between
reads of an inference, because the head comes with the first token and a load may take minutes; a
call that is cancelled or fails leaves by aborting its connection in one step, never by half-closing
it; a connection whose answer was read to its end serves the next call, errors included. Nothing of
the environment (proxies, netrc), no cookies, no redirects. A `Retry-After` in seconds is heeded
where a server says that it is busy. Source: reference/OLLAMA.md §1.1, §3.6, §8.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import aiohttp
from aiohttp.payload import BytesPayload, Payload
from yarl import URL

from broker.core.errors import BackendBusy, BackendFailed, BackendUnreachable, BrokerError

# The body of an error comes with its head.
_ERROR_BODY_S: Final = 10.0
_ERROR_BYTES_MAX: Final = 1 << 20

# A server that asks to be left alone for longer is asked again all the same.
RETRY_AFTER_S_MAX: Final = 3_600
_NS_PER_S: Final = 1_000_000_000

_T = TypeVar("_T")

# What an answer with another status than 200 means: its path, the model that was asked for, its
# status, its body.
ErrorOfStatus = Callable[[str, str, int, bytes], BrokerError]


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
        if self.answer_bytes_max < _ERROR_BYTES_MAX:
            raise ValueError(f"answer_bytes_max must be at least {_ERROR_BYTES_MAX}")


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


class HttpTransport:
    """The connections to one server. Every error that leaves it is one of `core/errors.py`.

    `headers` go with every call; they may hold a key and are shown nowhere.
    """

    def __init__(
        self,
        url: str,
        limits: TransportLimits,
        error_of_status: ErrorOfStatus,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._limits = limits
        self._error_of_status = error_of_status
        self._headers = dict(headers or {})
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._running: set[aiohttp.ClientResponse] = set()
        self._is_closed = False

    async def converse(
        self,
        path: str,
        body: bytes | None,
        model: str,
        read: Callable[[aiohttp.ClientResponse], Awaitable[_T]],
    ) -> _T:
        """Asks, waits for the head of a 200, and has the answer read. No body means GET.

        A `read` that returns has read the answer to its last byte but for the closing chunk; one
        that raises has not, and the connection is dropped before the error goes on.
        """
        try:
            response = await self._open().request(
                "GET" if body is None else "POST",
                self._address(path),
                data=None if body is None else _JsonBody(body),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from error
        self._running.add(response)
        try:
            if response.status != 200:
                raise await self._refusal(response, path, model)
            answer = await read(response)
            if not response.content.at_eof():
                await self._finish(response)
            return answer
        except (aiohttp.ClientError, OSError) as error:
            response.close()
            reason = _reason(error)
            text = f"{self._url} broke off in the middle of an answer: {reason}"
            raise BackendFailed(text) from error
        except BaseException:
            # An answer that was read to its end has given its connection back by itself already,
            # and closing it does nothing: that of a refusal is such a one.
            response.close()
            raise
        finally:
            self._running.discard(response)

    async def ask(
        self,
        path: str,
        body: bytes | None,
        *,
        model: str = "",
        timeout_s: float | None = None,
        look: Callable[[aiohttp.ClientResponse], None] | None = None,
    ) -> bytes:
        """Asks and returns the whole body of a 200. No body means GET; no timeout, any wait.
        `look` sees the head."""

        async def read(response: aiohttp.ClientResponse) -> bytes:
            if look is not None:
                look(response)
            return await _whole(response, self._limits.answer_bytes_max)

        try:
            async with asyncio.timeout(timeout_s):
                return await self.converse(path, body, model, read)
        except TimeoutError as error:
            raise BackendFailed(f"{path} gave no answer within {timeout_s:g} s") from error

    async def close(self) -> None:
        """Drops every connection. Calls that still run fail; later ones are refused."""
        self._is_closed = True
        # aiohttp leaves whoever waits for more of an answer waiting when it closes a connection.
        for response in tuple(self._running):
            response.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _finish(self, response: aiohttp.ClientResponse) -> None:
        """Reads the closing chunk, so that the connection serves again.

        Whether it comes is of no consequence to the answer: if not, the connection is dropped.
        """
        try:
            async with asyncio.timeout(self._limits.closing_chunk_s):
                while not response.content.at_eof():
                    await response.content.readany()
        except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError too
            response.close()

    async def _refusal(
        self, response: aiohttp.ClientResponse, path: str, model: str
    ) -> BrokerError:
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                body = await _whole(response, _ERROR_BYTES_MAX)
        except (aiohttp.ClientError, OSError, BackendFailed):  # TimeoutError is an OSError
            response.close()
            body = b""  # the status alone must do: it is what decides
        error = self._error_of_status(path, model, response.status, body)
        if isinstance(error, BackendBusy):
            error.retry_after_ns = retry_after_ns(response.headers.get("Retry-After", ""))
        return error

    def _lost(self, error: Exception) -> BackendFailed:
        """What no head means. A head that is no HTTP proves that somebody else listens there."""
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return BackendUnreachable(f"{self._url} takes no connection: {_reason(error)}")
        if isinstance(error, aiohttp.ClientConnectionError | OSError):
            return BackendUnreachable(f"{self._url} closed before it answered: {_reason(error)}")
        return BackendFailed(f"{self._url} does not answer in HTTP")

    def _address(self, path: str) -> URL:
        address = self._urls.get(path)
        if address is None:
            address = self._urls[path] = URL(self._url + path, encoded=True)
        return address

    def _open(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise BackendUnreachable(f"{self._url} is no longer used: the backend is closed")
        if self._session is None:
            # Not in __init__: a session belongs to the loop that runs when it is made.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._limits.connections_max,
                    keepalive_timeout=self._limits.idle_connection_s,
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._limits.connect_timeout_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Compression would hold tokens back where a proxy offers it.
                headers={**self._headers, "Accept-Encoding": "identity"},
                auto_decompress=False,
                response_class=_AbortingResponse,
                trust_env=False,
            )
        return self._session


def retry_after_ns(text: str) -> int | None:
    """What a Retry-After says, in nanoseconds; None for nothing, and for a date: clocks differ."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(int(text), RETRY_AFTER_S_MAX) * _NS_PER_S


async def _whole(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body to its end; raises BackendFailed where it is larger than that."""
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise BackendFailed(f"the answer is over {bytes_max} bytes")
    return b"".join(parts)


def _reason(error: Exception) -> str:
    """The system's words for it, without the names and numbers that Python wraps around them."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return "it took too long"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror  # a name that does not resolve: numbered apart from the system's
    return "the connection was closed"
