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
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import aiohttp

from broker.backends.broken_framing import watching
from broker.backends.connections import ERROR_BYTES_MAX, Connections, TransportLimits, reason_of
from broker.core.errors import BackendBusy, BackendFailed, BackendSilent, BrokerError

# The body of an error comes with its head.
_ERROR_BODY_S: Final = 10.0

# A server that asks to be left alone for longer is asked again all the same.
RETRY_AFTER_S_MAX: Final = 3_600
_LOCATION_CHARACTERS_MAX: Final = 200
_NS_PER_S: Final = 1_000_000_000

_T = TypeVar("_T")

# What an answer with another status than 200 means: its path, the model that was asked for, its
# status, its body.
ErrorOfStatus = Callable[[str, str, int, bytes], BrokerError]


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
        self._connections = Connections(url, limits, headers or {})
        self._running: set[aiohttp.ClientResponse] = set()

    async def converse(
        self,
        path: str,
        body: bytes | None,
        model: str,
        read: Callable[[aiohttp.ClientResponse], Awaitable[_T]],
        *,
        method: str = "POST",
    ) -> _T:
        """Asks, waits for the head of a 200, and has the answer read. No body means GET.

        A `read` that returns has read the answer to its last byte but for the closing chunk; one
        that raises has not, and the connection is dropped before the error goes on.
        """
        response = await self._connections.send(path, body, method)
        self._running.add(response)
        try:
            with watching(response):
                if response.status != 200:
                    raise await self._refusal(response, path, model)
                answer = await read(response)
                if not response.content.at_eof():
                    await self._finish(response)
            return answer
        except (aiohttp.ClientError, OSError) as error:
            response.close()
            reason = reason_of(error)
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
        method: str = "POST",
    ) -> bytes:
        """Asks and returns the whole body of a 200. No body means GET; no timeout, any wait.
        `look` sees the head. BackendSilent where that takes longer, with the time for the
        connection."""

        async def read(response: aiohttp.ClientResponse) -> bytes:
            if look is not None:
                look(response)
            return await _whole(response, self._limits.answer_bytes_max)

        try:
            async with asyncio.timeout(timeout_s):
                return await self.converse(path, body, model, read, method=method)
        except TimeoutError as error:
            raise BackendSilent(f"{path} gave no answer within {timeout_s:g} s") from error

    async def close(self) -> None:
        """Drops every connection. Calls that still run fail; later ones are refused."""
        # aiohttp leaves whoever waits for more of an answer waiting when it closes a connection.
        for response in tuple(self._running):
            response.close()
        await self._connections.close()

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
                body = await _whole(response, ERROR_BYTES_MAX)
        except (aiohttp.ClientError, OSError, BackendFailed):  # TimeoutError is an OSError
            response.close()
            body = b""  # the status alone must do: it is what decides
        error = self._error_of_status(path, model, response.status, body)
        if isinstance(error, BackendBusy):
            error.retry_after_ns = retry_after_ns(response.headers.get("Retry-After", ""))
        location = response.headers.get("Location", "")
        if location and 300 <= response.status < 400:
            error.message += f" (it sends to {location[:_LOCATION_CHARACTERS_MAX]})"
            error.args = (error.message,)
        return error


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
