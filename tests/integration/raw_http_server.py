"""A server that is nothing but sockets: a test decides every byte of it and sees every byte.

It parses requests only as far as a test must know where one ends. Each connection runs the
handler that the test gave; what a handler raises fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

_READ_BYTES = 1 << 16
_RESET_TURNS_MAX = 1000  # turns of the loop to wait for a reset that loopback delivers at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it was sent; header names in lower case, in order."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that may come at most once."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def document(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.body)
        return document


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self._socket = connection
        self._held = b""
        self.number = number

    async def read_head(self) -> Request | None:
        """The next request without its body; None when the client closed."""
        while b"\r\n\r\n" not in self._held:
            data = await self._receive()
            if not data:
                assert not self._held, "closed in the middle of a head"
                return None
            self._held += data
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        fields = [line.partition(":") for line in lines]
        headers = tuple((name.lower(), value.strip()) for name, _, value in fields)
        return Request(method=method, path=path, headers=headers, body=b"")

    async def read_request(self) -> Request | None:
        """The next request, whole; None when the client closed."""
        head = await self.read_head()
        if head is None:
            return None
        assert head.header("transfer-encoding") is None
        length = int(head.header("content-length") or 0)
        while len(self._held) < length:
            data = await self._receive()
            assert data, "closed in the middle of a body"
            self._held += data
        body, self._held = self._held[:length], self._held[length:]
        return Request(method=head.method, path=head.path, headers=head.headers, body=body)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def send_parts(self, parts: Iterable[bytes]) -> None:
        """Each part by itself. Loopback hands it over within the call, and a turn of the loop
        lets the client read it before the next one comes."""
        for part in parts:
            await self.send(part)
            await asyncio.sleep(0)

    async def wait_closed(self) -> bytes:
        """Everything that still comes until the client closes."""
        rest = [self._held]
        with contextlib.suppress(ConnectionError):
            while data := await self._receive():
                rest.append(data)
        self._held = b""
        return b"".join(rest)

    async def is_wholly_closed(self) -> bool:
        """After the end came: whether the other side is gone, not just silent. Only a socket that
        was closed answers a byte with a reset; one that was half closed takes it."""
        try:
            await self.send(b"x")
            for _ in range(_RESET_TURNS_MAX):
                self._socket.send(b"x")
                await asyncio.sleep(0)
        except (ConnectionError, BlockingIOError) as error:
            return isinstance(error, ConnectionError)
        return False

    def reset_when_closed(self) -> None:
        """A socket that lingers for no time sends RST when it is closed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self._socket.close()

    async def _receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, _READ_BYTES)


class RawServer:
    """What a test knows of the server: where it is, and how many connections it has seen."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def raw_server(handler: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[RawServer]:
    """Runs `handler` for each connection until the block ends; then raises what any of them did."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = RawServer(listener.getsockname()[1])

    async def serve(peer: Peer) -> None:
        try:
            await handler(peer)
        finally:
            peer.close()

    async def accept(tasks: asyncio.TaskGroup) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handlers.append(tasks.create_task(serve(Peer(connection, server.connections))))
            server.connections += 1

    handlers: list[asyncio.Task[None]] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(accept(tasks))
            try:
                yield server
            finally:
                accepting.cancel()
                for task in handlers:
                    task.cancel()
    finally:
        listener.close()


def head(status: int, *headers: tuple[str, str]) -> bytes:
    """A status line and headers, as they stand on the wire."""
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def document(status: int, body: bytes) -> bytes:
    """A whole answer with a length."""
    kind = ("Content-Type", "application/json; charset=utf-8")
    return head(status, kind, ("Content-Length", str(len(body)))) + body


STREAM_HEAD = head(200, ("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked"))
LAST_CHUNK = b"0\r\n\r\n"


def chunk(text: str) -> bytes:
    """One HTTP chunk."""
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)
