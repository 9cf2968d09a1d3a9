"""One page over HTTP: fed to its reader as it comes, with limits, and measured.

Rules: a page is unpacked here, because a few bytes can be packed from many; it is UTF-8, whatever
is said; it is fed in small pieces with a breath between. What may pass by itself is LibraryAway:
no connection, a connection that broke, a server that is busy. All else is LibraryFailed.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from broker.core.library import LibraryAway, LibraryFailed, Transfer
from broker.library.page_text import PageFailed, PageText

USER_AGENT: Final = "ollama-broker (reads the list of models)"
# A piece of this size takes a reader half a millisecond, and then requests have the loop for
# themselves: nobody is in a hurry for a list of models.
_PIECE_BYTES: Final = 4_096
_BREATH_S: Final = 0.002
_GZIP_WINDOW_BITS: Final = 31
RETRY_AFTER_S_MAX: Final = 86_400
_NS_PER_S: Final = 1_000_000_000
_SIGN_CHARACTERS_MAX: Final = 1_000
_GONE: Final = frozenset({404, 410})
_BUSY: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one page may cost. `page_bytes_max` is of the page unpacked."""

    connect_timeout_s: float = 10.0
    page_timeout_s: float = 30.0
    page_bytes_max: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """By what a server knows the version of a page that it sent."""

    etag: str = ""
    last_modified: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`is_unchanged`: it is as it was, and nothing was fed to the reader."""

    is_unchanged: bool
    sign: Sign | None


class Fetcher:
    """Pages below one address."""

    def __init__(
        self, url: str, limits: FetchLimits, connections_max: int, now_ns: Callable[[], int]
    ) -> None:
        self.url = url
        self.path = URL(url).path.rstrip("/")
        self._limits = limits
        self._connections_max = connections_max
        self._now_ns = now_ns
        self._session: aiohttp.ClientSession | None = None
        self._received_bytes = 0
        self._receiving_ns = 0
        self._waiting = 0  # calls that wait for bytes
        self._since_ns = 0  # since when there is one

    @property
    def transfer(self) -> Transfer:
        """Since `start_anew`."""
        return Transfer(received_bytes=self._received_bytes, receiving_ns=self._receiving_ns)

    def start_anew(self) -> None:
        """Measures from here."""
        self._received_bytes = self._receiving_ns = 0

    async def read(self, below: str, page: PageText, sign: Sign | None = None) -> Answer | None:
        """Feeds the page at `url + below` to its reader, to the end; None where there is none.
        With the `sign` of an earlier answer it may be told that nothing has changed."""
        timeout_s = self._limits.page_timeout_s
        where = f"{self.url}{below}"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read(where, page, sign)
        except TimeoutError as error:
            raise LibraryAway(f"{where} was not read within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise LibraryAway(f"{where}: {type(error).__name__}: {error}") from error
        except PageFailed as error:
            raise LibraryFailed(f"{where}: {error}") from error

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        """Time in which a call waits for bytes; that of reading them is no part of it."""
        if not self._waiting:
            self._since_ns = self._now_ns()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._receiving_ns += self._now_ns() - self._since_ns

    async def close(self) -> None:
        """Calls under way fail."""
        if self._session is not None:
            await self._session.close()

    async def _read(self, where: str, page: PageText, sign: Sign | None) -> Answer | None:
        headers = {}
        if sign is not None and sign.etag:
            headers["If-None-Match"] = sign.etag
        if sign is not None and sign.last_modified:
            headers["If-Modified-Since"] = sign.last_modified
        with self._measured():
            response = await self._opened().get(URL(where), headers=headers, allow_redirects=False)
        async with response:
            if response.status == 304 and sign is not None:
                return Answer(is_unchanged=True, sign=sign)
            if response.status in _GONE:
                return None
            if response.status != 200:
                raise _refusal(where, response)
            await self._feed(where, response, page)
            return Answer(is_unchanged=False, sign=_sign_of(response))

    async def _feed(self, where: str, response: aiohttp.ClientResponse, page: PageText) -> None:
        unpacked = _Unpacked(where, response.headers.get("Content-Encoding", ""))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        size = packed = 0
        while data := await self._more(response):
            packed += len(data)
            for piece in unpacked.pieces(data):
                size += len(piece)
                self._check_size(where, size)
                page.take(decoder.decode(piece))
                await asyncio.sleep(_BREATH_S)
            self._check_size(where, packed)  # what is packed may be of nothing, without an end
        unpacked.finish()
        page.take(decoder.decode(b"", final=True))
        page.finish()

    def _check_size(self, where: str, size: int) -> None:
        if size > self._limits.page_bytes_max:
            raise LibraryFailed(f"{where} is over {self._limits.page_bytes_max} bytes")

    async def _more(self, response: aiohttp.ClientResponse) -> bytes:
        with self._measured():
            data = await response.content.readany()
        self._received_bytes += len(data)
        return data

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections_max),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._limits.connect_timeout_s, sock_read=None
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "User-Agent": USER_AGENT,
                    "Accept": "text/html",
                    "Accept-Encoding": "gzip",
                },
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class _Unpacked:
    """A body as it was before it was packed, in pieces of a few kilobytes however it was."""

    def __init__(self, where: str, encoding: str) -> None:
        self._where = where
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise LibraryFailed(f"{where} is packed in a way that was not asked for: {encoding}")
        is_packed = encoding.endswith("gzip")
        self._gzip = zlib.decompressobj(_GZIP_WINDOW_BITS) if is_packed else None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._gzip is None:
            for start in range(0, len(data), _PIECE_BYTES):
                yield data[start : start + _PIECE_BYTES]
            return
        try:
            # What follows the end is passed over; zlib would gather it.
            while not self._gzip.eof and (piece := self._gzip.decompress(data, _PIECE_BYTES)):
                yield piece
                data = self._gzip.unconsumed_tail
        except zlib.error as error:
            raise LibraryFailed(f"{self._where} cannot be unpacked: {error}") from error

    def finish(self) -> None:
        if self._gzip is not None and not self._gzip.eof:
            raise LibraryAway(f"{self._where} broke off in the middle")


def _refusal(where: str, response: aiohttp.ClientResponse) -> LibraryFailed:
    status = response.status
    if status in _BUSY or status >= 500:
        return LibraryAway(
            f"{where} answered {status}",
            retry_after_ns=_retry_after_ns(response.headers.get("Retry-After", "")),
        )
    location = response.headers.get("Location", "")[:200]
    return LibraryFailed(
        f"{where} answered {status}" + (f" and sends to {location!r}" if location else "")
    )


def _retry_after_ns(text: str) -> int | None:
    """What a Retry-After says; None for nothing, and for a date: clocks differ."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(int(text), RETRY_AFTER_S_MAX) * _NS_PER_S


def _sign_of(response: aiohttp.ClientResponse) -> Sign | None:
    etag = response.headers.get("ETag", "")
    last_modified = response.headers.get("Last-Modified", "")
    if not (etag or last_modified) or len(etag) + len(last_modified) > _SIGN_CHARACTERS_MAX:
        return None
    return Sign(etag=etag, last_modified=last_modified)
