"""A client of HTTP/2 as bytes, for what no well-behaved gRPC client does: requests that come byte
by byte, pings without end, answers that are never read.

Frames: RFC 9113 §4 and §6; header fields as literals without indexing, RFC 7541 §6.2.2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4  # numbers of settings
_WINDOW_BYTES, _WINDOW_BYTES_MAX = 65_535, 2**31 - 1

REFUSED_STREAM: Final = 7
ENHANCE_YOUR_CALM: Final = 11


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def error_code(self) -> int:
        """Of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4])


@dataclass(slots=True)
class Http2Client:
    """One connection. Streams are numbered 1, 3, 5..."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    streams_max: int | None = None
    _last_stream: int = field(default=-1)

    def open_call(self, method: str, *, is_ended: bool = False) -> int:
        """The headers of a call, and nothing of its request; the number of its stream."""
        self._last_stream += 2
        fields = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
        block = b"".join(_literal(name, value) for name, value in fields)
        flags = _END_HEADERS | (_END_STREAM if is_ended else 0)
        self._write(HEADERS, flags, self._last_stream, block)
        return self._last_stream

    def send(self, stream: int, data: bytes, *, is_ended: bool = False) -> None:
        """Some of the bytes of a request."""
        self._write(DATA, _END_STREAM if is_ended else 0, stream, data)

    def open_window(self) -> None:
        """Takes as much as the protocol can say, of each stream and of all together."""
        self._write(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW_BYTES_MAX))
        more = _WINDOW_BYTES_MAX - _WINDOW_BYTES
        self._write(WINDOW_UPDATE, 0, 0, more.to_bytes(4))

    def ping(self) -> None:
        self._write(PING, 0, 0, b"8 bytes!")

    async def read(self) -> Frame | None:
        """The next frame; None where the connection has ended. Settings and pings are answered."""
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        frame = Frame(head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, payload)
        if not frame.flags & _ACK:
            if frame.kind == SETTINGS:
                self._heed(payload)
                self._write(SETTINGS, _ACK, 0, b"")
            elif frame.kind == PING:
                self._write(PING, _ACK, 0, payload)
        return frame

    async def read_until(self, kind: int, stream: int = 0) -> Frame:
        """The next frame of this kind of this stream; others are passed over."""
        while (frame := await self.read()) is not None:
            if (frame.kind, frame.stream) == (kind, stream):
                return frame
        raise AssertionError(f"the connection ended before a frame of kind {kind}")

    def _heed(self, payload: bytes) -> None:
        for number, value in struct.iter_unpack(">HI", payload):
            if number == _MAX_CONCURRENT_STREAMS:
                self.streams_max = value

    def _write(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        length = len(payload).to_bytes(3)
        self.writer.write(length + bytes((kind, flags)) + stream.to_bytes(4) + payload)


def message(data: bytes) -> bytes:
    """A message of gRPC: not compressed, with its length before it."""
    return b"\0" + len(data).to_bytes(4) + data


def _literal(name: str, value: str) -> bytes:
    return b"\0" + b"".join(bytes((len(each),)) + each.encode() for each in (name, value))


@asynccontextmanager
async def http2_client(port: int) -> AsyncIterator[Http2Client]:
    """A connection whose settings were exchanged."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Http2Client(reader, writer)
    try:
        writer.write(_PREFACE)
        client._write(SETTINGS, 0, 0, b"")
        await client.read_until(SETTINGS)
        yield client
    finally:
        writer.transport.abort()
